"""The benchmark rows of `python -m tests.gpu`: ours, and the same in PyTorch where it is installed. Times are medians over synchronised
runs."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.gpu.report import Timing

_RUNS, _WARM_UP = 20, 5


def median_ms(work: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Milliseconds of one call, the device idle before and after."""
    for _ in range(_WARM_UP):
        work()
    times = []
    for _ in range(_RUNS):
        wait()
        start_s = time.perf_counter()
        work()
        wait()
        times.append((time.perf_counter() - start_s) * 1e3)
    return statistics.median(times)


def run_all() -> list[Timing]:
    """Every row."""
    import core

    libraries = [core]
    if importlib.util.find_spec("torch") is not None:
        import torch

        libraries.append(torch)
    found = []
    for name, make in ROWS.items():
        times = []
        for lib in libraries:
            work, flops = make(lib)
            times.append(median_ms(work, lib.cuda.synchronize))
            del work
            lib.cuda.empty_cache()
        detail = f"{flops / times[0] / 1e9:.0f} TFLOP/s" if flops else ""
        found.append(Timing(name, times[0], times[1] if len(times) > 1 else None, detail))
    return found


def product(lib: Any, n: int) -> tuple[Callable[[], Any], float]:
    """The ceiling of everything that is bound by products."""
    x = lib.randn(n, n).cuda().to(lib.bfloat16)
    return lambda: x @ x, 2.0 * n**3


def small_ops(lib: Any) -> tuple[Callable[[], Any], float]:
    """A hundred additions of little: what a launch costs."""
    x = lib.randn(64).cuda()

    def work() -> Any:
        y = x
        for _ in range(100):
            y = y + x
        return y

    return work, 0.0


def _training(lib: Any, model: Any, loss: Callable[[Any], Any], captured: bool) -> Callable[[], Any]:
    optimizer = lib.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> Any:
        optimizer.zero_grad()
        with lib.amp.autocast("cuda", dtype=lib.bfloat16):
            value = loss(model)
        value.backward()
        optimizer.step()
        return value

    if not captured or not hasattr(lib.cuda, "GraphedStep"):  # PyTorch runs eagerly: the row is held against that
        return step
    return lib.cuda.GraphedStep(step)


def convolutional(lib: Any, captured: bool) -> tuple[Callable[[], Any], float]:
    """Convolution, batch norm and ReLU at ResNet-18's shapes for CIFAR: eight layers, batch 128."""
    nn, layers, channels = lib.nn, [], 3
    for width in (64, 64, 128, 128, 256, 256, 512, 512):
        stride = 2 if width > max(channels, 64) else 1
        layers += [
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)).to("cuda")
    x, target = lib.randn(128, 3, 32, 32).cuda(), lib.randint(0, 10, (128,)).cuda()
    return _training(lib, model, lambda m: nn.functional.cross_entropy(m(x), target), captured), 0.0


def transformer(
    lib: Any, captured: bool, layers: int = 12, width: int = 768, heads: int = 12, block: int = 1024
) -> tuple[Callable[[], Any], float]:
    """GPT at 12/12/768, block 1024, batch 8, vocabulary 50304, without dropout."""
    nn, f = lib.nn, lib.nn.functional

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
            self.tokens, self.places = nn.Embedding(50304, width), nn.Embedding(block, width)
            self.blocks, self.norm, self.head = (
                nn.Sequential(*(Block() for _ in range(layers))),
                nn.LayerNorm(width),
                nn.Linear(width, 50304, bias=False),
            )

        def forward(self, x: Any) -> Any:
            return self.head(self.norm(self.blocks(self.tokens(x) + self.places(at))))

    at = lib.arange(block).cuda()
    x, target = (lib.randint(0, 50304, (8, block)).cuda() for _ in range(2))
    model = GPT().to("cuda")
    tokens, weights = 8 * block, 12 * layers * width**2 + 50304 * width
    flops = 6.0 * tokens * weights + 12.0 * layers * 8 * block**2 * width
    return _training(lib, model, lambda m: f.cross_entropy(m(x).view(-1, 50304), target.view(-1)), captured), flops


ROWS: dict[str, Callable[[Any], tuple[Callable[[], Any], float]]] = {
    "bfloat16 product, 8192": lambda lib: product(lib, 8192),
    "bfloat16 product, 1024": lambda lib: product(lib, 1024),
    "100 small additions": small_ops,
    "ResNet-18 shapes, bfloat16 training step, eager": lambda lib: convolutional(lib, False),
    "ResNet-18 shapes, bfloat16 training step, captured": lambda lib: convolutional(lib, True),
    "GPT 12/12/768, bfloat16 training step, eager": lambda lib: transformer(lib, False),
    "GPT 12/12/768, bfloat16 training step, captured": lambda lib: transformer(lib, True),
}
