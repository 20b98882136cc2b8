"""How well does training scale on these machines? `ddprun bench -n N -- --scaling MODEL` trains on 1, 2, 4, … N of the job's ranks.

Contract: each rank computes the same batch as one alone does (weak scaling), with as many threads; those that are not in a row wait.
Efficiency is the rate of k ranks by k times that of one. All ranks make the calls; rank 0's times count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import core
import core.nn as nn
import core.nn.functional as F
import ddp

WARM_UP = 3  # steps: buckets are rebuilt after the first
TURN_S = 1.0  # about how long one turn takes


class Rate(NamedTuple):
    """What a number of ranks achieve together."""

    ranks: int
    samples_s: float
    step_s: float


class _GPT(nn.Module):
    """4 layers, 4 heads, width 128, 64 tokens of 65."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(65, 128), nn.Embedding(64, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 65, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(64))

    def forward(self, x: Any) -> Any:
        y = self.tokens(x) + self.places(core.arange(x.shape[1]))
        return self.head(self.layers(y, mask=self.mask)).transpose(1, 2)


def _mlp() -> tuple[nn.Module, Any, Any]:
    layers = nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    return nn.Sequential(*layers), core.randn(64, 784), core.randint(0, 10, (64,))


def _resnet18() -> tuple[nn.Module, Any, Any]:
    from core.vision.models import resnet18

    return resnet18(num_classes=10), core.randn(16, 3, 32, 32), core.randint(0, 10, (16,))


def _gpt() -> tuple[nn.Module, Any, Any]:
    return _GPT(), core.randint(0, 65, (12, 64)), core.randint(0, 65, (12, 64))


MODELS: dict[str, Callable[[], tuple[nn.Module, Any, Any]]] = {"mlp": _mlp, "resnet18": _resnet18, "gpt": _gpt}


def measure(model: str, turns: int) -> list[Rate]:
    """The rates of 1, 2, 4, … and all ranks. All ranks make this call and get the same."""
    me, size = ddp.get_rank(), ddp.get_world_size()
    rates = []
    for ranks in sorted({1 << i for i in range(size.bit_length()) if 1 << i <= size} | {size}):
        group = ddp.new_group(range(ranks))
        found = core.zeros(2, dtype=core.float64)
        if me < ranks:
            found = core.tensor(_train(MODELS[model], group, ranks, turns), dtype=core.float64)
        ddp.broadcast(found, 0)  # here the others wait
        rates.append(Rate(ranks, *found.tolist()))
    return rates


def _train(make: Callable[[], tuple[nn.Module, Any, Any]], group: Any, ranks: int, turns: int) -> list[float]:
    """[samples a second of all ranks, seconds a step]"""
    core.manual_seed(0)
    model, x, target = make()
    trained = ddp.DistributedDataParallel(model, process_group=group) if ranks > 1 else model
    optimizer = core.optim.SGD(trained.parameters(), lr=1e-3)

    def steps(count: int) -> float:
        ddp.barrier(group)
        began = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad()
            F.cross_entropy(trained(x), target).backward()
            optimizer.step()
        return (time.perf_counter() - began) / count

    steps(WARM_UP)
    many = core.tensor([max(2, min(500, int(TURN_S / steps(2))))])
    ddp.broadcast(many, 0, group=group)
    step_s = statistics.median(steps(int(many.item())) for _ in range(turns))
    return [ranks * len(target) / step_s, step_s]


def table(model: str, rates: Sequence[Rate]) -> str:
    """Markdown."""
    lines = [
        f"{model} over {ddp.get_backend()}",
        "",
        "| ranks | samples/s | a step | efficiency |",
        "| --- | --- | --- | --- |",
    ]
    one = rates[0].samples_s
    for rate in rates:
        efficiency = rate.samples_s / (rate.ranks * one)
        lines.append(f"| {rate.ranks} | {rate.samples_s:,.0f} | {1e3 * rate.step_s:.2f} ms | {efficiency:.2f} |")
    return "\n".join(lines)


def series(rates: Sequence[Rate]) -> dict[str, list[tuple[float, float]]]:
    """For `ddp.plot`: what was measured, and what k times the rate of one would be."""
    one = rates[0].samples_s
    return {
        "measured": [(rate.ranks, rate.samples_s) for rate in rates],
        "k times one rank": [(rate.ranks, rate.ranks * one) for rate in rates],
    }
