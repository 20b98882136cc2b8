"""The benchmark rows of `python -m tests.gpu`: ours, and the same in PyTorch where it is installed. Times are medians over synchronised
runs."""

from __future__ import annotations

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from tests.gpu import rehearsal
from tests.gpu.report import Timing

_RUNS, _WARM_UP = 20, 5


def median_ms(work: Callable[[], Any], wait: Callable[[], Any], runs: int = _RUNS) -> float:
    """Milliseconds of one call, the device idle before and after."""
    for _ in range(_WARM_UP):
        work()
    times = []
    for _ in range(runs):
        wait()
        start_s = time.perf_counter()
        work()
        wait()
        times.append((time.perf_counter() - start_s) * 1e3)
    return statistics.median(times)


def libraries() -> list[Any]:
    """Ours, and PyTorch if it is installed and sees the GPU."""
    import core

    if importlib.util.find_spec("torch") is None:
        return [core]
    import torch

    return [core, torch] if torch.cuda.is_available() else [core]


class Row(NamedTuple):
    """What is measured: makes the work, and says how many operations that is; and what it is to reach, by the names of `GOALS`."""

    make: Callable[[Any], tuple[Callable[[], Any], float]]
    goals: tuple[str, ...] = ()


GOALS = {  # what a row reaches, and by which number it is judged
    "80 % of the ceiling": 0.8,  # of the fastest product that was measured, ours or PyTorch's
    "PyTorch's speed, eager": 1.0,
    "0.9 of torch.compile's speed": 0.9,
}


def rows(quick: bool) -> Iterator[Any]:
    """Each row as it is measured, then a check for each of its goals; with `quick`, a fifth of the repetitions, and no torch.compile."""
    runs, ceiling = max(3, _RUNS // 5) if quick else _RUNS, 0.0
    for name, row in (ROWS if quick else {**ROWS, **COMPILED}).items():
        try:
            times, flops = measured(row, runs)
        except Exception as error:  # out of memory, say: the other rows are measured all the same
            yield name, partial(_raise, error)
            continue
        speeds = [flops / t / 1e9 for t in times]
        if row.make in PRODUCTS:
            ceiling = max(ceiling, *speeds)  # the greatest products come first
        detail = f"{speeds[0]:.0f} TFLOP/s, {100 * speeds[0] / ceiling:.0f} % of the ceiling" if flops else ""
        yield Timing(name, times[0], times[1] if len(times) > 1 else None, detail)
        for goal in row.goals:
            reached = speeds[0] / ceiling if "ceiling" in goal else times[1] / times[0] if len(times) > 1 else None
            yield f"{name}: {goal}", partial(judged, reached, GOALS[goal])


def measured(row: Row, runs: int) -> tuple[list[float], float]:
    """Milliseconds for each library, and the operations."""
    times, flops = [], 0.0
    for lib in libraries():
        work, flops = row.make(lib)
        times.append(median_ms(work, lib.cuda.synchronize, runs))
        del work
        gc.collect()
        lib.cuda.empty_cache()
    return times, flops


def judged(reached: float | None, goal: float) -> str:
    """The verdict; an error where the goal is missed."""
    if rehearsal.is_on():
        return "not judged: a rehearsal measures nothing"
    if reached is None:
        return "not judged: PyTorch is not installed, or does not see the GPU"
    assert reached >= goal, f"MISSED: expected at least {goal:g}, measured {reached:.2f}"
    return f"met: {reached:.2f}, wanted {goal:g}"


def _raise(error: Exception) -> str:
    raise error


# -- what a call costs on the host ---------------------------------------------------------------------------------------


def overhead(quick: bool) -> Iterator[Timing]:
    """A thousand small calls without waiting in between: mostly what Python and the launch cost. Milliseconds for one."""
    count = 5 if rehearsal.is_on() else 200 if quick else 1000
    for name, make in CALLS.items():
        times = []
        for lib in libraries():
            call = make(lib)

            def many(call: Callable[[], Any] = call) -> None:
                for _ in range(count):
                    call()

            times.append(median_ms(many, lib.cuda.synchronize, 5) / count)
        yield Timing(name, times[0], times[1] if len(times) > 1 else None, f"{1e3 * times[0]:.1f} us")


def _calls() -> dict[str, Callable[[Any], Callable[[], Any]]]:
    def of(f: Callable[[Any, Any], Any], *shape: int, grad: bool = False) -> Callable[[Any], Callable[[], Any]]:
        def make(lib: Any) -> Callable[[], Any]:
            x = lib.randn(*shape).cuda()
            x = x.requires_grad_() if grad else x
            return lambda: f(lib, x)

        return make

    return {
        "x + x (a ufunc of CuPy)": of(lambda lib, x: x + x, 64),
        "x + x with a gradient": of(lambda lib, x: x + x, 64, grad=True),
        "silu (a kernel of ours)": of(lambda lib, x: lib.nn.functional.silu(x), 64),
        "x @ x (cuBLASLt)": of(lambda lib, x: x @ x, 64, 64),
        "softmax": of(lambda lib, x: lib.nn.functional.softmax(x, -1), 8, 64),
        "layer_norm": of(lambda lib, x: lib.nn.functional.layer_norm(x, (64,)), 8, 64),
        "dropout": of(lambda lib, x: lib.nn.functional.dropout(x, 0.5), 64),
        "conv2d (cuDNN)": of(lambda lib, x: lib.nn.functional.conv2d(x, x, padding=1), 8, 8, 3, 3),
        "x.view, no launch": of(lambda lib, x: x.view(8, 8), 64),
    }


CALLS = _calls()


# -- whole steps ---------------------------------------------------------------------------------------------------------


def product(lib: Any, n: int) -> tuple[Callable[[], Any], float]:
    """The ceiling of everything that is bound by products."""
    n = _scaled(n, 16)
    x = lib.randn(n, n).cuda().to(lib.bfloat16)
    return lambda: x @ x, 2.0 * n**3


def layer(lib: Any, backward: bool) -> tuple[Callable[[], Any], float]:
    """Products with what surrounds them in a network: bias, GELU in its tanh form, and the gradients."""
    rows_, width = _scaled(16384, 16), _scaled(4096, 8)
    net = lib.nn.Sequential(lib.nn.Linear(width, width), lib.nn.GELU("tanh")).to("cuda").to(lib.bfloat16)
    x = lib.randn(rows_, width).cuda().to(lib.bfloat16).requires_grad_(backward)
    if not backward:

        def forward() -> Any:
            with lib.no_grad():
                return net(x)

        return forward, 2.0 * rows_ * width**2
    g = lib.randn(rows_, width).cuda().to(lib.bfloat16)

    def both() -> None:
        x.grad = None
        net.zero_grad()
        net(x).backward(g)

    return both, 6.0 * rows_ * width**2


def small_ops(lib: Any) -> tuple[Callable[[], Any], float]:
    """A hundred additions of little: what a launch costs."""
    x = lib.randn(64).cuda()

    def work() -> Any:
        y = x
        for _ in range(100):
            y = y + x
        return y

    return work, 0.0


def _scaled(n: int, rehearsed: int) -> int:
    """A size, or a small one where nothing is measured."""
    return rehearsed if rehearsal.is_on() else n


def _training(lib: Any, model: Any, loss: Callable[[Any], Any], way: str) -> Callable[[], Any]:
    """A step: "eager", "captured" as one graph (ours; PyTorch's runs eagerly), or "compiled" (PyTorch's; ours is captured)."""
    if way == "compiled" and not hasattr(lib.cuda, "GraphedStep"):
        model = lib.compile(model)
    optimizer = lib.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> Any:
        optimizer.zero_grad()
        with lib.amp.autocast("cuda", dtype=lib.bfloat16):
            value = loss(model)
        value.backward()
        optimizer.step()
        return value

    eager = way == "eager" or not hasattr(lib.cuda, "GraphedStep") or rehearsal.is_plain()
    return step if eager else lib.cuda.GraphedStep(step)


def convolutional(lib: Any, way: str) -> tuple[Callable[[], Any], float]:
    """ResNet-18 for CIFAR: eight blocks of two convolutions, batch 128, 32 by 32."""
    nn, f, wide = lib.nn, lib.nn.functional, _scaled(64, 4)

    class Block(nn.Module):
        def __init__(self, i: int, o: int, stride: int):
            super().__init__()
            self.first, self.second = (
                nn.Conv2d(i, o, 3, stride=stride, padding=1, bias=False),
                nn.Conv2d(o, o, 3, padding=1, bias=False),
            )
            self.norms = nn.ModuleList([nn.BatchNorm2d(o), nn.BatchNorm2d(o)])
            self.short = nn.Sequential()
            if stride != 1 or i != o:
                self.short = nn.Sequential(nn.Conv2d(i, o, 1, stride=stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x: Any) -> Any:
            y = f.relu(self.norms[0](self.first(x)))
            return f.relu(self.norms[1](self.second(y)) + self.short(x))

    layers, channels = [nn.Conv2d(3, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()], wide
    for width in (wide, wide, 2 * wide, 2 * wide, 4 * wide, 4 * wide, 8 * wide, 8 * wide):
        layers.append(Block(channels, width, 2 if width > channels else 1))
        channels = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * wide, 10)).to("cuda")
    n = _scaled(128, 2)
    x, target = lib.randn(n, 3, 32, 32).cuda(), lib.randint(0, 10, (n,)).cuda()
    return _training(lib, model, lambda m: f.cross_entropy(m(x), target), way), 0.0


def transformer(lib: Any, way: str) -> tuple[Callable[[], Any], float]:
    """GPT at 12/12/768, block 1024, batch 8, vocabulary 50304, without dropout."""
    nn, f = lib.nn, lib.nn.functional
    layers, width, heads, block, words = (
        _scaled(*pair) for pair in ((12, 1), (768, 16), (12, 2), (1024, 8), (50304, 40))
    )

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any) -> Any:
            n, t, _ = x.shape
            q, k, v = (
                a.view(n, t, heads, width // heads).transpose(1, 2) for a in self.qkv(self.first(x)).split(width, dim=2)
            )
            y = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(n, t, width))
            return x + self.down(f.gelu(self.up(self.second(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.places = nn.Embedding(words, width), nn.Embedding(block, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.blocks(self.tokens(x) + self.places(at))))

    at = lib.arange(block).cuda()
    x, target = (lib.randint(0, words, (8, block)).cuda() for _ in range(2))
    model = GPT().to("cuda")
    tokens, weights = 8 * block, 12 * layers * width**2 + words * width
    flops = 6.0 * tokens * weights + 12.0 * layers * 8 * block**2 * width
    return _training(lib, model, lambda m: f.cross_entropy(m(x).view(-1, words), target.view(-1)), way), flops


_CEILING, _EAGER, _COMPILE = ((goal,) for goal in GOALS)
PRODUCTS = {n: partial(product, n=n) for n in (8192, 4096, 1024)}.values()
_BIG, _MIDDLE, _SMALL = PRODUCTS
ROWS = {
    "bfloat16 product, 8192": Row(_BIG, _CEILING),
    "bfloat16 product, 4096": Row(_MIDDLE, _CEILING),
    "bfloat16 product, 1024": Row(_SMALL),
    "bfloat16 linear and GELU, 16384 rows, 4096 to 4096": Row(partial(layer, backward=False), _CEILING),
    "bfloat16 linear and GELU, forward and backward": Row(partial(layer, backward=True), _CEILING),
    "100 small additions": Row(small_ops),
    "ResNet-18 for CIFAR, bfloat16 training step, eager": Row(partial(convolutional, way="eager")),
    "ResNet-18 for CIFAR, bfloat16 training step, captured": Row(partial(convolutional, way="captured"), _EAGER),
    "GPT 12/12/768, bfloat16 training step, eager": Row(partial(transformer, way="eager")),
    "GPT 12/12/768, bfloat16 training step, captured": Row(partial(transformer, way="captured"), _EAGER),
}
COMPILED = {  # these need minutes
    "ResNet-18 for CIFAR, captured against torch.compile": Row(partial(convolutional, way="compiled"), _COMPILE),
    "GPT 12/12/768, captured against torch.compile": Row(partial(transformer, way="compiled"), _COMPILE),
}
