"""Whole steps, for `python -m tests.gpu`: recurrent layers, losses, random numbers, optimizers, training, graphs. The oracle is the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import core
import core.nn.functional as F
from core import cuda, nn
from core.philox import PhiloxGenerator, drawing_from
from tests.gpu import rehearsal
from tests.gpu.checks import TOLERANCE, Rows, drawn

LOW = {"float32": core.float32, "float16": core.float16, "bfloat16": core.bfloat16}


def both(work: Callable[[str], Any], rtol: float, atol: float) -> str:
    """The same work on the CPU and on the GPU: arrays that agree."""
    expected, found = work("cpu"), work("cuda")
    worst = 0.0
    for y, e in zip(found, expected, strict=True):
        y, e = (t.detach().cpu().to(core.float64).numpy() for t in (y, e))
        np.testing.assert_allclose(y, e, rtol=rtol, atol=atol)
        worst = max(worst, float(np.abs(y - e).max(initial=0)))
    return f"largest difference {worst:.1e}"


def recurrence(quick: bool) -> Rows:
    def run(kind: str, dtype: str, device: str) -> list[Any]:
        core.manual_seed(0)
        layer = getattr(nn, kind)(24, 40, num_layers=2, bidirectional=True).to(device)
        x = core.randn(11, 6, 24).to(device).requires_grad_()
        with core.amp.autocast(device, dtype=LOW["bfloat16"], enabled=dtype == "bfloat16"):
            y, _ = layer(x)
        y.float().pow(2).sum().backward()
        return [y, x.grad, *(p.grad for p in layer.parameters())]

    for kind in ("LSTM", "GRU", "RNN"):
        yield f"{kind} float32", lambda kind=kind: both(partial(run, kind, "float32"), 1e-3, 1e-3)
        yield f"{kind} bfloat16", lambda kind=kind: both(partial(run, kind, "bfloat16"), 0.2, 0.3)


def losses(quick: bool) -> Rows:
    def cross_entropy(reduction: str, weighted: bool, dtype: str, device: str) -> list[Any]:
        n = 10 if rehearsal.is_on() else 1000
        x = core.from_numpy(drawn("float32", 300, n)).to(device).to(LOW[dtype]).requires_grad_()
        target = core.from_numpy(np.random.default_rng(0).integers(0, n, 300)).to(device)
        target[::7] = -100
        w = core.from_numpy(np.abs(drawn("float32", n)) + 0.5).to(device).to(LOW[dtype]) if weighted else None
        y = F.cross_entropy(x, target, w, reduction=reduction)
        y.float().sum().backward()
        return [y, x.grad]

    for dtype in ("float32",) if quick else LOW:
        for reduction in ("none", "sum", "mean"):
            for weighted in (False, True):
                work = partial(cross_entropy, reduction, weighted, dtype)
                scale = 300 if reduction == "sum" else 10
                tolerance = TOLERANCE[dtype]
                name = f"cross_entropy {dtype} {reduction}{' weighted' if weighted else ''}"
                yield name, lambda work=work, t=tolerance, s=scale: both(work, 10 * t, s * t)
    for name in ("binary_cross_entropy_with_logits", "huber_loss"):

        def loss(name: str, device: str) -> list[Any]:
            x = core.from_numpy(drawn("float32", 50, 20)).to(device).requires_grad_()
            y = getattr(F, name)(x, core.from_numpy(np.abs(np.tanh(drawn("float32", 50, 20, seed=1)))).to(device))
            y.backward()
            return [y, x.grad]

        yield name, lambda name=name, loss=loss: both(partial(loss, name), 1e-4, 1e-6)


def random_numbers(quick: bool) -> Rows:
    def same_bits(device: str) -> list[Any]:
        with drawing_from(PhiloxGenerator(3, step=7, shard=1)):
            x = core.ones(1000, 33).to(device)
            return [F.dropout(x, 0.3), F.dropout2d(x.reshape(10, 10, 10, 33), 0.5), F.alpha_dropout(x, 0.2, True)]

    def seeds() -> str:
        x = core.ones(4096).cuda()
        core.manual_seed(1)
        a = F.dropout(x)
        cuda.manual_seed(1)
        b, c = F.dropout(x), F.dropout(x)
        assert (a == b).all() and not (b == c).all()
        kept = (F.dropout(core.ones(1 << (16 if rehearsal.is_on() else 20)).cuda(), 0.25) != 0).float().mean().item()
        assert abs(kept - 0.75) < 0.01, kept
        return f"{kept:.4f} kept of 0.75"

    def launches() -> str:
        x = core.ones(4096).cuda()
        graphed = cuda.GraphedStep(lambda x: F.dropout(x), x)
        masks = [graphed(x).clone() for _ in range(4)]
        assert not any((a == b).all() for k, a in enumerate(masks) for b in masks[:k])
        return "four launches, four masks"

    yield "dropout has the bits of the CPU", lambda: both(same_bits, 1e-6, 1e-6)
    yield "seeds and states", seeds
    yield "launches of a graph draw anew", launches


def model(device: str) -> Any:
    core.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 8 * 8, 32), nn.GELU(),
        nn.LayerNorm(32), nn.Linear(32, 10),
    ).to(device)  # fmt: skip


def batch(device: str) -> tuple[Any, Any]:
    core.manual_seed(1)
    return core.randn(32, 3, 16, 16).to(device), core.randint(0, 10, (32,)).to(device)


OPTIMIZERS = {
    "SGD": lambda ps: core.optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "Adam": lambda ps: core.optim.Adam(ps, lr=1e-3, amsgrad=True),
    "AdamW": lambda ps: core.optim.AdamW(ps, lr=1e-3),
    "RMSprop": lambda ps: core.optim.RMSprop(ps, lr=1e-3),
}


def trained(optimizer: str, dtype: Any, steps: int, device: str) -> list[float]:
    net, (x, target) = model(device), batch(device)
    rule, found = OPTIMIZERS[optimizer](net.parameters()), []
    for _ in range(steps):
        rule.zero_grad()
        with core.amp.autocast(device, dtype=dtype or core.bfloat16, enabled=dtype is not None):
            loss = F.cross_entropy(net(x), target)
        loss.backward()
        rule.step()
        found.append(loss.item())
    return found


def against_the_cpu(optimizer: str, dtype: Any, rtol: float) -> str:
    ours, expected = trained(optimizer, dtype, 10, "cuda"), trained(optimizer, None, 10, "cpu")
    np.testing.assert_allclose(ours, expected, rtol=rtol)
    return f"last loss {ours[-1]:.4f}, on the CPU {expected[-1]:.4f}"


def optimizers(quick: bool) -> Rows:
    for name in OPTIMIZERS:
        yield f"ten steps of {name}", partial(against_the_cpu, name, None, 5e-3)

    def scaled() -> str:
        net, (x, target) = model("cuda"), batch("cuda")
        rule, scaler = (
            OPTIMIZERS["AdamW"](net.parameters()),
            core.amp.GradScaler("cuda", init_scale=2.0**16, growth_interval=4),
        )
        found, scales = [], []
        for k in range(10):
            rule.zero_grad()
            with core.amp.autocast("cuda", dtype=core.float16):
                loss = F.cross_entropy(net(x), target)
            scaler.scale(loss).backward()
            if k == 5:
                next(net.parameters()).grad.fill_(float("inf"))
                before = [p.detach().clone() for p in net.parameters()]
            scaler.step(rule)
            if k == 5:
                assert all((p == b).all() for p, b in zip(net.parameters(), before)), "the step was not left out"
            scaler.update()
            found.append(loss.item())
            scales.append(scaler.get_scale())
        assert found[-1] < found[0] and scales[5] == scales[4] / 2, (found, scales)
        return f"loss {found[0]:.3f} to {found[-1]:.3f}, scales {scales}"

    yield "float16 with a loss scale, one overflow", scaled


def training(quick: bool) -> Rows:
    yield "ten steps in float32", partial(against_the_cpu, "AdamW", None, 5e-3)
    yield "ten steps in bfloat16", partial(against_the_cpu, "AdamW", core.bfloat16, 5e-2)

    def twice() -> str:
        core.use_deterministic_algorithms(True)
        try:
            a, b = (trained("SGD", core.bfloat16, 6, "cuda") for _ in range(2))
        finally:
            core.use_deterministic_algorithms(False)
        assert a == b, (a, b)
        return "the same bits twice"

    yield "deterministic", twice


def graphs(quick: bool) -> Rows:
    def step(dtype: Any, scale: bool) -> str:
        """A captured step trains as eager ones do."""

        def made() -> Any:
            net, (x, target) = model("cuda"), batch("cuda")
            rule = OPTIMIZERS["AdamW"](net.parameters())
            scaler = core.amp.GradScaler("cuda", init_scale=256.0, enabled=scale)

            def train(x: Any, target: Any) -> Any:
                rule.zero_grad()
                with core.amp.autocast("cuda", dtype=dtype or core.bfloat16, enabled=dtype is not None):
                    loss = F.cross_entropy(net(x), target)
                scaler.scale(loss).backward()
                scaler.step(rule)
                scaler.update()
                return loss

            return train, x, target

        train, x, target = made()
        expected = [train(x, target).item() for _ in range(13)][3:]
        train, x, target = made()
        graphed = cuda.GraphedStep(train, x, target)
        found = [graphed(x, target).item() for _ in range(10)]
        np.testing.assert_allclose(found, expected, rtol=1e-3 if dtype is None else 3e-2)
        return f"loss {found[0]:.4f} to {found[-1]:.4f}"

    def convolution() -> str:
        x, w = core.randn(2, 8, 16, 16).cuda(), core.randn(8, 8, 3, 3).cuda()
        g, eager = cuda.CUDAGraph(), F.conv2d(x, w, padding=1)
        with cuda.graph(g):
            y = F.softmax(F.conv2d(x, w, padding=1), -1)
        g.replay()
        np.testing.assert_allclose(y.cpu().numpy(), F.softmax(eager, -1).cpu().numpy(), rtol=1e-4, atol=1e-5)
        return "cuDNN inside a graph"

    def attention() -> str:
        q = core.randn(2, 4, 128, 64).cuda().to(core.bfloat16).requires_grad_()

        def work(q: Any) -> Any:
            q.grad = None
            y = F.scaled_dot_product_attention(q, q, q, is_causal=True)
            y.float().sum().backward()
            return y

        expected = work(q).float().detach().cpu().numpy()
        side, g = cuda.Stream(), cuda.CUDAGraph()
        with cuda.stream(side):
            work(q)
        with cuda.graph(g, stream=side):
            y = work(q)
        g.replay()
        cuda.synchronize()
        np.testing.assert_allclose(y.float().detach().cpu().numpy(), expected, rtol=2e-2, atol=2e-2)
        return "forward and backward"

    def callables() -> str:
        net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).to("cuda")
        x = core.randn(4, 8).cuda()
        graphed = cuda.make_graphed_callables(net, (x.clone(),))
        np.testing.assert_allclose(
            graphed(x).detach().cpu().numpy(), net(x).detach().cpu().numpy(), rtol=1e-5, atol=1e-6
        )
        graphed(x).sum().backward()
        assert all(p.grad is not None for p in net.parameters())
        return "forward and backward"

    def refusal() -> str:
        x, g = core.ones(3).cuda(), cuda.CUDAGraph()
        try:
            with cuda.graph(g):
                x.sum().item()
        except Exception as error:
            assert (x + 1).sum().item() == 6, "the device goes on"
            return f"{type(error).__name__}: {str(error)[:80]}"
        raise AssertionError("expected an error: a value came to the host while capturing")

    yield "a training step in float32", partial(step, None, False)
    yield "a training step in bfloat16", partial(step, core.bfloat16, False)
    yield "a training step in float16, scaled", partial(step, core.float16, True)
    yield "convolution and softmax", convolution
    yield "attention", attention
    yield "make_graphed_callables", callables
    yield "what cannot be captured", refusal
