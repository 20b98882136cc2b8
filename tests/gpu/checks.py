"""The checks of `python -m tests.gpu`. The oracle is the plain backend in float64 on the CPU."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

import core
import core.nn.functional as F
from core import backend, cuda
from core.backend.base import Backend, conv_out_shape
from core.backend.cuda.philox import Draw
from core.philox import PhiloxGenerator
from tests.gpu.report import Check

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": bfloat16}
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}

Rows = Iterator[tuple[str, Callable[[], Any]]]


class Oracle(Backend):
    """The plain kernels."""

    device_type, array_type, xp = "cpu", np.ndarray, np


ORACLE = Oracle()


def run_all() -> list[Check]:
    """Every check of every section."""
    found = []
    for section in (who_computes, op_table, kernels, products, convolutions, attention, training, graphs, memory, nccl):
        title = section.__name__.replace("_", " ")
        for name, check in section():
            try:
                detail, passed = check(), True
            except pytest.skip.Exception:
                continue
            except Exception as error:
                detail, passed = (
                    f"{type(error).__name__}: {str(error)[:300]} at {traceback.extract_tb(error.__traceback__)[-1][:2]}",
                    False,
                )
            found.append(Check(title, name, passed, "" if detail is None else " ".join(str(detail).split())))
        gc.collect()
        cuda.empty_cache()
    return found


def gpu() -> Any:
    return backend.get("cuda")


def drawn(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(DTYPES[dtype])


def agree(got: Any, expected: Any, dtype: str, factor: float = 1.0) -> str:
    """The largest error, relative to the largest value; an error if it is too large."""
    got, expected = (v if isinstance(v, tuple) else (v,) for v in (got, expected))
    worst = 0.0
    for y, e in zip(got, expected, strict=True):
        host = gpu().to_numpy(y).astype(np.float64)
        assert host.shape == e.shape, f"expected shape {e.shape}, got {host.shape}"
        worst = max(worst, float(np.abs(host - e).max(initial=0) / max(1.0, np.abs(e).max(initial=0))))
    assert worst <= TOLERANCE[dtype] * factor, (
        f"expected an error of at most {TOLERANCE[dtype] * factor:g}, got {worst:g}"
    )
    return f"error {worst:.1e}"


def wide(*arrays: Any) -> list[Any]:
    return [a.astype(np.float64) if a.dtype.kind in "fV" else a for a in arrays]


def up(*arrays: np.ndarray) -> list[Any]:
    return [gpu().from_numpy(a) for a in arrays]


# -- sections ----------------------------------------------------------------------------------------------------------


def who_computes() -> Rows:
    def of(name: str) -> Callable[[], str]:
        def check() -> str:
            assert getattr(gpu(), name) is not None, "not installed: see the extra cuda13"
            return type(getattr(gpu(), name)).__module__

        return check

    yield "products by cuBLASLt", of("gemm")
    yield "convolution and attention by cuDNN", of("dnn")
    yield (
        "properties",
        lambda: f"{cuda.get_device_name()}, {cuda.get_device_capability()}, {cuda.mem_get_info()[1] >> 20} MiB",
    )


def op_table() -> Rows:
    from tests import test_ops
    from tests.cases import IDS

    for name, number in IDS:
        for test in (test_ops.test_value, test_ops.test_gradients):
            yield (
                f"{name} {number} {test.__name__}",
                lambda test=test, name=name, number=number: test(name, number, "cuda"),
            )


def kernels() -> Rows:
    for dtype in DTYPES:
        x, g, w = drawn(dtype, 500, 1000), drawn(dtype, 500, 1000, seed=1), drawn(dtype, 1000)
        image, gi = drawn(dtype, 16, 24, 30, 30), drawn(dtype, 16, 24, 15, 15, seed=1)
        pool = (2, 2), (2, 2), (0, 0), (1, 1)

        def rows(name: str, dtype: str = dtype, x: Any = x, g: Any = g) -> str:
            y = getattr(ORACLE, name)(*wide(x), 1)
            agree(getattr(gpu(), name)(*up(x), 1), y, dtype)
            low = y.astype(DTYPES[dtype])
            return agree(
                getattr(gpu(), name + "_grad")(*up(g, low), 1),
                getattr(ORACLE, name + "_grad")(*wide(g, low), 1),
                dtype,
                4,
            )

        def norm(x: Any, g: Any, w: Any, axes: tuple[int, ...], dtype: str = dtype) -> str:
            mean, var = ORACLE.moments(*wide(x), axes)
            agree(gpu().moments(*up(x), axes), (mean, var), "float32")
            m, r = mean.astype(np.float32), (1 / np.sqrt(var + 1e-5)).astype(np.float32)
            agree(gpu().standardize(*up(x, w, w, m, r), axes), ORACLE.standardize(*wide(x, w, w, m, r), axes), dtype, 2)
            return agree(
                gpu().standardize_grad(*up(g, x, w, w, m, r), axes),
                ORACLE.standardize_grad(*wide(g, x, w, w, m, r), axes),
                dtype,
                4,
            )

        def pooling(x: Any = image, g: Any = gi, dtype: str = dtype, pool: Any = pool) -> str:
            k, stride, padding, dilation = pool
            y, won = gpu().max_pool(*up(x), k, (15, 15), stride, padding, dilation)
            expected, winners = ORACLE.max_pool(x, k, (15, 15), stride, padding, dilation)
            np.testing.assert_array_equal(won.get(), winners)
            agree(y, expected.astype(np.float64), dtype)
            return agree(gpu().max_pool_grad(*up(g), won, x.shape, k, stride, padding, dilation),
                         ORACLE.max_pool_grad(*wide(g), winners, x.shape, k, stride, padding, dilation), dtype)  # fmt: skip

        def embedding(dtype: str = dtype) -> str:
            index, g = np.random.default_rng(0).integers(0, 300, 2000), drawn(dtype, 2000, 96)
            expected = np.zeros((300, 96))
            np.add.at(expected, index, g.astype(np.float64))
            results = []
            for _ in range(2):
                x = gpu().xp.zeros((300, 96), DTYPES[dtype])
                gpu().add_at_(x, (gpu().from_numpy(index),), *up(g))
                results.append(x)
            assert (results[0].get().view(np.uint8) == results[1].get().view(np.uint8)).all(), "two runs differ"
            return agree(results[0], expected, dtype)

        def dropout(dtype: str = dtype) -> str:
            keep = PhiloxGenerator(5, 6, 7).uniform(10_001, np.dtype(np.float64)) < 0.75
            mask = gpu().dropout_mask((10_001,), np.dtype(DTYPES[dtype]), 0.25, Draw(5, 6, 7, 0))
            np.testing.assert_array_equal(mask.get(), (keep / 0.75).astype(DTYPES[dtype]))
            return "the bits of the CPU"

        def gelu(x: Any = x, g: Any = g, dtype: str = dtype) -> str:
            for approximate in ("none", "tanh"):
                agree(gpu().gelu(*up(x), approximate), ORACLE.gelu(*wide(x), approximate), dtype)
                result = agree(
                    gpu().gelu_grad(*up(g, x), approximate), ORACLE.gelu_grad(*wide(g, x), approximate), dtype, 2
                )
            return result

        yield f"{dtype} softmax", lambda rows=rows: rows("softmax")
        yield f"{dtype} log_softmax", lambda rows=rows: rows("log_softmax")
        yield f"{dtype} layer norm", lambda norm=norm, x=x, g=g, w=w: norm(x, g, w, (1,))
        channel, gc_ = drawn(dtype, 1, 24, 1, 1), drawn(dtype, 16, 24, 30, 30, seed=2)
        yield f"{dtype} batch norm", lambda norm=norm, x=image, g=gc_, w=channel: norm(x, g, w, (0, 2, 3))
        yield f"{dtype} pooling", pooling
        yield f"{dtype} embedding gradient", embedding
        yield f"{dtype} dropout", dropout
        yield f"{dtype} gelu", gelu


def products() -> Rows:
    from tests.test_cuda_logic import PRODUCTS

    for dtype in DTYPES:
        for name, (x, y) in PRODUCTS.items():

            def check(x: Any = x, y: Any = y, dtype: str = dtype) -> str:
                low, high = gpu().from_numpy(x).astype(DTYPES[dtype]), gpu().from_numpy(y).astype(DTYPES[dtype])
                return agree(gpu().matmul(low, high), np.matmul(*wide(low.get(), high.get())), dtype)

            yield f"{dtype} {name}", check

        def linear(dtype: str = dtype) -> str:
            x, w, b = drawn(dtype, 64, 128), drawn(dtype, 256, 128), drawn(dtype, 256)
            z = wide(x)[0] @ wide(w)[0].T + wide(b)[0]
            agree(gpu().linear(*up(x, w, b)), z, dtype)
            return agree(gpu().linear_gelu(*up(x, w, b)), ORACLE.gelu(z, "tanh"), dtype)

        yield f"{dtype} bias and GELU", linear


CONVOLUTIONS = [  # x, w, stride, padding, dilation, groups
    ((4, 16, 20, 20), (32, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((4, 16, 21, 20), (32, 16, 3, 5), (2, 1), (1, 2), (1, 1), 1),
    ((4, 16, 20, 20), (32, 16, 3, 3), (1, 1), (2, 2), (2, 2), 1),
    ((4, 16, 20, 20), (16, 1, 3, 3), (1, 1), (1, 1), (1, 1), 16),
    ((4, 16, 50), (32, 8, 5), (2,), (2,), (1,), 2),
    ((2, 8, 9, 10, 11), (16, 8, 3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), 1),
]


def convolutions() -> Rows:
    for dtype in DTYPES:
        for number, (x_shape, w_shape, *places, groups) in enumerate(CONVOLUTIONS):
            for last in (False, True):
                check = partial(convolved, dtype, last, x_shape, w_shape, places, groups)
                yield f"{dtype} {number}{' channels-last' if last else ''}", check


def convolved(dtype: str, last: bool, x_shape: Any, w_shape: Any, places: Any, groups: int) -> str:
    """All three products."""
    be = gpu()
    tf32, be.dnn.tf32 = be.dnn.tf32, False
    try:
        x, w = drawn(dtype, *x_shape), drawn(dtype, *w_shape, seed=1) * DTYPES[dtype](0.1)
        g = drawn(dtype, x_shape[0], w_shape[0], *conv_out_shape(x_shape[2:], w_shape[2:], *places), seed=2)
        xs, ws, gs = up(x, w, g)
        if last:
            xs, gs = (be.xp.moveaxis(be.xp.ascontiguousarray(be.xp.moveaxis(a, 1, -1)), -1, 1) for a in (xs, gs))
        agree(
            be.conv(xs, ws, None, *places, groups),
            ORACLE.conv(*wide(x, w), None, *places, groups),
            dtype,
            2,
        )
        expected = ORACLE.conv_input_grad(*wide(g, w), x_shape, *places, groups)
        agree(be.conv_input_grad(gs, ws, x_shape, *places, groups), expected, dtype, 2)
        expected = ORACLE.conv_weight_grad(*wide(g, x), w_shape, *places, groups)
        return agree(be.conv_weight_grad(gs, xs, w_shape, *places, groups), expected, dtype, 2)
    finally:
        be.dnn.tf32 = tf32


def attention() -> Rows:
    for dtype in ("float16", "bfloat16", "float32"):
        for causal in (False, True):

            def check(dtype: str = dtype, causal: bool = causal) -> str:
                q, k, v, g = (drawn(dtype, 2, 4, 96, 64, seed=s) for s in range(4))
                y, saved = gpu().attention(*up(q, k, v), None, None, causal, 0.125)
                expected, p = ORACLE.attention(*wide(q, k, v), None, None, causal, 0.125)
                agree(y, expected, dtype)
                found = gpu().attention_grad(*up(g, q, k, v), None, saved, 0.125)
                error = agree(found, ORACLE.attention_grad(*wide(g, q, k, v), None, p, 0.125), dtype, 2)
                return f"{error}, {'cuDNN' if saved.ndim < 3 else 'plain'}"

            yield f"{dtype}{' causal' if causal else ''}", check


def _trained(device: str, dtype: Any = None) -> list[float]:
    core.manual_seed(0)
    model = core.nn.Sequential(
        core.nn.Conv2d(3, 8, 3, padding=1), core.nn.BatchNorm2d(8), core.nn.ReLU(), core.nn.MaxPool2d(2), core.nn.Flatten(),
        core.nn.Linear(8 * 8 * 8, 32), core.nn.GELU(), core.nn.LayerNorm(32), core.nn.Linear(32, 10),
    )  # fmt: skip
    x, target = core.randn(32, 3, 16, 16), core.randint(0, 10, (32,))
    model, x, target = model.to(device), x.to(device), target.to(device)
    optimizer, losses = core.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(10):
        optimizer.zero_grad()
        with core.amp.autocast(device, dtype=dtype or core.bfloat16, enabled=dtype is not None):
            loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def training() -> Rows:
    def against(dtype: Any, rtol: float) -> str:
        ours, expected = _trained("cuda", dtype), _trained("cpu")
        np.testing.assert_allclose(ours, expected, rtol=rtol)
        return f"last loss {ours[-1]:.4f}, on the CPU {expected[-1]:.4f}"

    yield "ten steps in float32", lambda: against(None, 5e-3)
    yield "ten steps in bfloat16", lambda: against(core.bfloat16, 5e-2)


def graphs() -> Rows:
    def step(dtype: Any) -> str:
        core.manual_seed(0)
        model = core.nn.Sequential(
            core.nn.Linear(64, 128), core.nn.GELU(), core.nn.LayerNorm(128), core.nn.Linear(128, 1)
        ).to("cuda")
        optimizer = core.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

        def train(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            with core.amp.autocast("cuda", dtype=core.bfloat16, enabled=dtype is not None):
                loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        x, y = core.randn(32, 64).cuda(), core.randn(32, 1).cuda()
        graphed = cuda.GraphedStep(train, x, y)
        losses = [graphed(x, y).item() for _ in range(20)]
        assert losses[-1] < losses[0], losses
        return f"loss {losses[0]:.4f} to {losses[-1]:.4f}"

    def convolution() -> str:
        x, w = core.randn(2, 8, 16, 16).cuda(), core.randn(8, 8, 3, 3).cuda()
        g, eager = cuda.CUDAGraph(), F.conv2d(x, w, padding=1)
        with cuda.graph(g):
            y = F.softmax(F.conv2d(x, w, padding=1), -1)
        g.replay()
        np.testing.assert_allclose(y.cpu().numpy(), F.softmax(eager, -1).cpu().numpy(), rtol=1e-4, atol=1e-5)
        return "cuDNN inside a graph"

    def callables() -> str:
        model = core.nn.Sequential(core.nn.Linear(8, 8), core.nn.Tanh(), core.nn.Linear(8, 2)).to("cuda")
        x = core.randn(4, 8).cuda()
        graphed = cuda.make_graphed_callables(model, (x.clone(),))
        np.testing.assert_allclose(
            graphed(x).detach().cpu().numpy(), model(x).detach().cpu().numpy(), rtol=1e-5, atol=1e-6
        )
        graphed(x).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        return "forward and backward"

    yield "a training step in float32", lambda: step(None)
    yield "a training step in bfloat16", lambda: step(core.bfloat16)
    yield "convolution and softmax", convolution
    yield "make_graphed_callables", callables


def memory() -> Rows:
    def counted() -> str:
        gc.collect()
        before = cuda.memory_allocated()
        cuda.reset_peak_memory_stats()
        x = core.zeros(1 << 20, device="cuda")
        assert cuda.memory_allocated() - before == 4 << 20
        del x
        assert cuda.memory_allocated() == before and cuda.max_memory_allocated() >= before + (4 << 20)
        return cuda.memory_summary().replace("\n", "; ")

    def pinned() -> str:
        x = np.arange(1 << 16, dtype=np.float32)
        p = gpu().pinned(x)
        assert gpu().is_pinned(p) and not gpu().is_pinned(x)
        y = gpu().from_numpy(p, None, non_blocking=True)
        cuda.synchronize()
        np.testing.assert_array_equal(y.get(), x)
        return "non-blocking copy"

    yield "what tensors hold", counted
    yield "pinned memory", pinned


def nccl() -> Rows:
    def one_rank(dtype: str) -> str:
        from ddp.env import World
        from ddp.transport.base import Call, Deadline
        from ddp.transport.loopback import LoopbackTransport
        from ddp.transport.nccl import NCCLTransport

        transport = NCCLTransport.over(LoopbackTransport.open(World(), 30.0), 30.0)
        try:
            x = gpu().from_numpy(drawn(dtype, 1000))
            before = x.get()
            for name in ("sum", "avg", "max"):
                transport.all_reduce(x, name, Call("all_reduce", 0, dtype, 1000, name), Deadline.after(30))
            transport.broadcast(x, 0, Call("broadcast", 1, dtype, 1000), Deadline.after(30))
            gathered = transport.all_gather(x, Call("all_gather", 2, dtype, 1000), Deadline.after(30))
            transport.flush(Deadline.after(30))
            transport.synchronize(Deadline.after(30))
            np.testing.assert_array_equal(x.get(), before)
            np.testing.assert_array_equal(gathered.get()[0], before)
        finally:
            transport.close()
        return "all_reduce, broadcast, all_gather"

    for dtype in DTYPES:
        yield f"one rank, {dtype}", lambda dtype=dtype: one_rank(dtype)
