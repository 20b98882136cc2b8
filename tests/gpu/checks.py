"""Kernels and libraries, one by one, for `python -m tests.gpu`. The oracle is the plain backend in float64 on the CPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

import core
from core import backend, cuda
from core.backend.base import Backend, conv_out_shape
from core.backend.cuda.philox import Draw
from core.backend.switches import SWITCHES
from core.ops.op import OPS, Raw
from core.philox import PhiloxGenerator
from tests.gpu import rehearsal

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": bfloat16}
TOLERANCE = {"float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}

_QUICK_OPS_S = 50

Rows = Iterator[tuple[str, Callable[[], Any]]]


class Oracle(Backend):
    """The plain kernels."""

    device_type, array_type, xp = "cpu", np.ndarray, np


ORACLE = Oracle()


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


def who_computes(quick: bool) -> Rows:
    def of(name: str) -> Callable[[], str]:
        def check() -> str:
            if rehearsal.is_on() and name == "dnn":
                pytest.skip("no cuDNN in a rehearsal")
            assert getattr(gpu(), name) is not None, "not installed: see the extra cuda13"
            return type(getattr(gpu(), name)).__module__

        return check

    def switches() -> str:
        if rehearsal.is_on():
            pytest.skip("NumPy does not round to TF32")
        before = SWITCHES.matmul_tf32
        x = drawn("float32", 256, 256)
        try:
            errors = []
            for SWITCHES.matmul_tf32 in (False, True):
                y = gpu().to_numpy(gpu().matmul(*up(x, x))).astype(np.float64)
                errors.append(float(np.abs(y - np.matmul(*wide(x, x))).max()))
        finally:
            SWITCHES.matmul_tf32 = before
        assert errors[0] < 1e-3 < errors[1], f"expected TF32 to round and float32 not to, got errors {errors}"
        return f"error {errors[0]:.1e} in float32, {errors[1]:.1e} in TF32"

    yield "TF32 is a switch", switches
    yield "products by cuBLASLt", of("gemm")
    yield "convolution and attention by cuDNN", of("dnn")
    yield (
        "properties",
        lambda: f"{cuda.get_device_name()}, {cuda.get_device_capability()}, {cuda.mem_get_info()[1] >> 20} MiB",
    )


def op_table(quick: bool) -> Rows:
    from tests import test_ops
    from tests.cases import IDS

    start_s, seen = time.monotonic(), set()
    for name, number in IDS:
        if quick and (
            name in seen or time.monotonic() - start_s > _QUICK_OPS_S or (rehearsal.is_on() and len(seen) > 20)
        ):
            continue  # one case of each op, as far as the time goes
        seen.add(name)
        for test in (test_ops.test_value, test_ops.test_gradients, test_ops.check_bfloat16):
            yield (
                f"{name} {number} {test.__name__}",
                lambda test=test, name=name, number=number: test(name, number, "cuda"),
            )


def kernels(quick: bool) -> Rows:
    for dtype in ("float32", "bfloat16") if quick else DTYPES:
        n, m = (8, 2) if rehearsal.is_on() else (500, 16)  # emulated threads are slow
        x, g, w = drawn(dtype, n, 1000), drawn(dtype, n, 1000, seed=1), drawn(dtype, 1000)
        image, gi = drawn(dtype, m, 24, 30, 30), drawn(dtype, m, 24, 15, 15, seed=1)
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
        channel, gc_ = drawn(dtype, 1, 24, 1, 1), drawn(dtype, m, 24, 30, 30, seed=2)
        yield f"{dtype} batch norm", lambda norm=norm, x=image, g=gc_, w=channel: norm(x, g, w, (0, 2, 3))
        yield f"{dtype} pooling", pooling
        yield f"{dtype} embedding gradient", embedding
        yield f"{dtype} dropout", dropout
        yield f"{dtype} gelu", gelu


def products(quick: bool) -> Rows:
    from tests.test_cuda_logic import PRODUCTS

    for dtype in ("float32", "bfloat16") if quick else DTYPES:
        for name, (x, y) in PRODUCTS.items():

            def check(x: Any = x, y: Any = y, dtype: str = dtype) -> str:
                low, high = gpu().from_numpy(x).astype(DTYPES[dtype]), gpu().from_numpy(y).astype(DTYPES[dtype])
                return agree(gpu().matmul(low, high), np.matmul(*wide(low.get(), high.get())), dtype)

            yield f"{dtype} {name}", check

        def linear(dtype: str = dtype) -> str:
            x, w, b = drawn(dtype, 64, 128), drawn(dtype, 256, 128), drawn(dtype, 256)
            z = wide(x)[0] @ wide(w)[0].T + wide(b)[0]
            agree(gpu().linear(*up(x, w, b)), z, dtype)
            agree(gpu().linear_relu(*up(x, w, b)), np.maximum(z, 0), dtype)
            return agree(gpu().linear_gelu(*up(x, w, b)), (ORACLE.gelu(z, "tanh"), z), dtype)

        yield f"{dtype} bias and ReLU or GELU", linear


CONVOLUTIONS = [  # x, w, stride, padding, dilation, groups
    ((4, 16, 20, 20), (32, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((4, 16, 21, 20), (32, 16, 3, 5), (2, 1), (1, 2), (1, 1), 1),
    ((4, 16, 20, 20), (32, 16, 3, 3), (1, 1), (2, 2), (2, 2), 1),
    ((4, 16, 20, 20), (16, 1, 3, 3), (1, 1), (1, 1), (1, 1), 16),
    ((4, 16, 50), (32, 8, 5), (2,), (2,), (1,), 2),
    ((2, 8, 9, 10, 11), (16, 8, 3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), 1),
]


def convolutions(quick: bool) -> Rows:
    for dtype in ("bfloat16",) if quick else DTYPES:
        for number, (x_shape, w_shape, *places, groups) in enumerate(CONVOLUTIONS):
            for last in (False, True):
                check = partial(convolved, dtype, last, x_shape, w_shape, places, groups)
                yield f"{dtype} {number}{' channels-last' if last else ''}", check


def convolved(dtype: str, last: bool, x_shape: Any, w_shape: Any, places: Any, groups: int) -> str:
    """All three products."""
    be = gpu()
    tf32, SWITCHES.conv_tf32 = SWITCHES.conv_tf32, False
    try:
        x, w = drawn(dtype, *x_shape), drawn(dtype, *w_shape, seed=1) * DTYPES[dtype](0.1)
        g = drawn(dtype, x_shape[0], w_shape[0], *conv_out_shape(x_shape[2:], w_shape[2:], *places), seed=2)
        xs, ws, gs = up(x, w, g)
        if last:
            xs, gs = (be.xp.moveaxis(be.xp.ascontiguousarray(be.xp.moveaxis(a, 1, -1)), -1, 1) for a in (xs, gs))
        b = drawn(dtype, w_shape[0], seed=3)
        for bias, high in ((None, None), (*up(b), *wide(b))):
            agree(be.conv(xs, ws, bias, *places, groups), ORACLE.conv(*wide(x, w), high, *places, groups), dtype, 2)
        expected = ORACLE.conv_input_grad(*wide(g, w), x_shape, *places, groups)
        agree(be.conv_input_grad(gs, ws, x_shape, *places, groups), expected, dtype, 2)
        expected = ORACLE.conv_weight_grad(*wide(g, x), w_shape, *places, groups)
        return agree(be.conv_weight_grad(gs, xs, w_shape, *places, groups), expected, dtype, 2)
    finally:
        SWITCHES.conv_tf32 = tf32


MASKS = {  # of scores (2, 4, 96, 96)
    "unmasked": None, "one for all": (96, 96), "of each head": (1, 4, 96, 96), "of each sample": (2, 1, 96, 96), "full": (2, 4, 96, 96),
    "padding": (2, 1, 1, 96),
}  # fmt: skip


def drawn_mask(shape: tuple[int, ...] | None, dtype: str, added: bool) -> np.ndarray | None:
    """Who is seen, or what is added, −∞ for whom is not; the last row, where there are several, sees nobody."""
    if shape is None:
        return None
    seen = np.random.default_rng(len(shape)).random(shape) < 0.7
    seen[..., 0] = True
    if shape[-2] > 1:
        seen[..., -1, :] = False
    return np.where(seen, drawn(dtype, *shape, seed=5), -np.inf).astype(DTYPES[dtype]) if added else seen


def attention(quick: bool) -> Rows:
    for dtype in ("bfloat16",) if quick else ("float16", "bfloat16", "float32"):
        yield f"{dtype} causal", partial(attended, dtype, None, True)
        for name, shape in MASKS.items():
            for added in (False,) if shape is None else (False, True):
                check = partial(attended, dtype, drawn_mask(shape, dtype, added), False)
                yield f"{dtype} {name}{', added' if added else ''}", check


def attended(dtype: str, mask: np.ndarray | None, causal: bool) -> str:
    """Forward and backward, as the op computes them."""
    be = gpu()
    q, k, v, g = (drawn(dtype, 2, 96, 4, 64, seed=s).swapaxes(1, 2) for s in range(4))  # as projections lie
    qs, ks, vs, gs = (be.from_numpy(np.ascontiguousarray(a.swapaxes(1, 2))).swapaxes(1, 2) for a in (q, k, v, g))
    held = None if mask is None else be.from_numpy(mask)
    y, saved = OPS["attention"].forward(be, qs, ks, vs, held, None, causal=causal, scale=0.125)
    high = None if mask is None else mask if mask.dtype == bool else mask.astype(np.float64)
    expected, p = ORACLE.attention(*wide(q, k, v), high, None, causal, 0.125)
    agree(y, expected, dtype, 2)
    raw = be.raw or Raw.of(be)
    found = OPS["attention"].rules["xs"](raw, gs, [qs, ks, vs, held, None], saved, causal, 0.125)[:3]
    error = agree(tuple(found), ORACLE.attention_grad(*wide(g, q, k, v), None, p, 0.125), dtype, 2)
    by_cudnn = saved.ndim == 1
    assert by_cudnn or dtype == "float32" or rehearsal.is_on(), "expected cuDNN to compute"
    return f"{error}, {'cuDNN' if by_cudnn else 'plain'}"


def memory(quick: bool) -> Rows:
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

    def recorded() -> str:
        n = 1 << (10 if rehearsal.is_on() else 22)
        side, busy = cuda.Stream(), core.randn(64, 64).cuda()
        here = cuda.current_stream()
        with cuda.stream(side):
            x = core.ones(n, device="cuda")
        here.wait_stream(side)
        for _ in range(200):
            busy = busy @ busy * 0
        y = x * 2
        x.record_stream(here)
        del x
        with cuda.stream(side):  # the pool would give the same block, which `x * 2` may not have read yet
            z = core.zeros(n, device="cuda").fill_(7)
        cuda.synchronize()
        assert (y == 2).all() and (z == 7).all(), "memory was used again too early"
        return "a block that another stream reads is kept"

    yield "what tensors hold", counted
    yield "record_stream", recorded
    yield "pinned memory", pinned
