"""One member's part of a step: its shards, each by itself at its own shape, and what all members' parts add up to.

Contract: nothing that lasts is changed: parameters are only read, buffers are put back after each shard, gradients end up in flat arrays.
The bits of a shard depend on the state, the step and the shard's number; those of the sums on V besides.
Not here: who computes which shards and why (`membership`, `run`), the update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import core
from core._tensor import Tensor
from core.errors import DTypeError
from core.philox import PhiloxGenerator, drawing_from
from ddp.lockstep.exchange import Flat, Layout, reduce
from ddp.lockstep.membership import Link
from ddp.lockstep.phases import side_by_side
from ddp.lockstep.shards import Cut, Shard, Source
from ddp.lockstep.state import State, host, is_floating
from ddp.lockstep.tree import Node, Sum
from ddp.sync_batchnorm import SyncBatchNorm
from ddp.transport.base import chunks

# What is said of a shard: number, count, loss, absent (parameters without gradient), buffers (that it changed).
Report = dict[str, Any]


class _Done(NamedTuple):
    """A shard that is computed."""

    report: Report
    flats: dict[Any, Flat | None]  # gradients, by dtype
    changed: dict[str, np.ndarray]  # buffers


@dataclass
class Part:
    """What a member has computed."""

    reports: list[Report]
    sums: dict[Any, Sum[Flat]]  # of gradients, by dtype
    changes: dict[int, dict[str, np.ndarray]]  # by shard: buffers that its forward changed


class Computation:
    """`fault` is called with the name of each phase before it."""

    def __init__(self, state: State, cut: Cut, source: Source, seed: int, fault: Callable[[str], None]):
        self._state, self._cut, self._source, self._seed, self._fault = state, cut, source, seed, fault
        self._layouts = _layouts(state.params)
        self._in_use: list[tuple[Layout, np.ndarray]] = []
        self._coupled = any(isinstance(module, SyncBatchNorm) for module in state.model.modules())
        # buffers and gradients of shards that wait for others
        self._aside: dict[int, tuple[dict[str, np.ndarray], list[Any]]] = {}

    def part(self, fn: Callable[[Shard], Tensor], step: int, link: Link) -> Part:
        """Compute this member's shards."""
        batch = self._cut.batch(step)
        owned = chunks(self._cut.shards, link.size)[link.place]
        tasks = {
            number: partial(self._shard, fn, Shard(number, step, self._cut.epoch(step), batch[number], None), link.me)
            for number in range(owned.start, owned.stop)
            if len(batch[number])
        }
        if self._coupled:
            filled = [len(indices) > 0 for indices in batch]
            finished = iter(side_by_side(tasks, link, filled, self._switch, self._fault))
        else:
            finished = (task() for task in tasks.values())
        part = Part([], {dtype: layout.sum() for dtype, layout in self._layouts.items()}, {})
        for number in range(owned.start, owned.stop):
            done = next(finished) if number in tasks else None
            if done is not None:
                part.reports.append(done.report)
                part.changes[number] = done.changed
            for dtype, total in part.sums.items():
                total.push(Node(0, number), done.flats[dtype] if done is not None else None)
        return part

    def gradients(self, link: Link, part: Part, reports: list[Report], count: int) -> dict[int, np.ndarray]:
        """The mean over all samples, by number of the parameter. Good until `release`."""
        params = self._state.params
        there = np.zeros((self._cut.shards, len(params)), bool)
        for report in reports:
            there[report["number"]] = True
            there[report["number"], report["absent"]] = False
        found: dict[int, np.ndarray] = {}
        for dtype, layout in self._layouts.items():
            members = [i for i, p in enumerate(params) if p._a.dtype == dtype]
            if there[:, members].any():
                array = reduce(link, layout, part.sums[dtype].parts, there[:, members], count, self._fault)
                self._in_use.append((layout, array))
                found |= {i: g for i, g in zip(members, layout.unpack(array)) if there[:, i].any()}
        return found

    def release(self) -> None:
        """Nobody needs the gradients any more."""
        for layout, array in self._in_use:
            layout.give(array)
        self._in_use.clear()

    def forget(self) -> None:
        """After a failure the transport may still read what it was given."""
        for layout in self._layouts.values():
            layout.forget()
        self._in_use.clear()
        self._aside.clear()

    # -- one shard ----------------------------------------------------------------------------------------------------

    def _shard(self, fn: Callable[[Shard], Tensor], shard: Shard, me: int) -> _Done:
        """Forward and backward. Buffers are put back."""
        state = self._state
        self._fault("data")
        shard = Shard(**{**vars(shard), "batch": self._source.fetch(shard.indices, shard.epoch)})
        state.take_gradients()
        with drawing_from(PhiloxGenerator(self._seed, shard.step, shard.number)):
            self._fault("forward")
            loss = fn(shard)
            if not isinstance(loss, Tensor) or loss._a.size != 1 or not loss._requires_grad:
                got = f"{tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                raise DTypeError(
                    f"rank {me}: Lockstep.steps: expected fn(shard) to give a scalar loss with a graph, got {got}"
                )
            self._fault("backward")
            loss.backward(core.full_like(loss.detach(), float(shard.count)))
        gradients = state.take_gradients()
        flats = {
            dtype: layout.pack(
                [None if g is None else host(g) for p, g in zip(state.params, gradients) if p._a.dtype == dtype]
            )
            for dtype, layout in self._layouts.items()
        }
        changed = state.taken()
        report = {
            "number": shard.number,
            "count": shard.count,
            "loss": float(loss.item()),
            "absent": [i for i, g in enumerate(gradients) if g is None],
            "buffers": [name for name, value in changed.items() if is_floating(value)],
        }
        return _Done(report, flats, changed)

    @contextmanager
    def _switch(self, number: int) -> Iterator[None]:
        """A shard runs now: its own buffers and gradients are there."""
        buffers, gradients = self._aside.pop(number, ({}, [None] * len(self._state.params)))
        self._state.give(buffers)
        self._state.give_gradients(gradients)
        yield
        self._aside[number] = self._state.taken(), self._state.take_gradients()


def _layouts(params: list[Any]) -> dict[Any, Layout]:
    dtypes = list(dict.fromkeys(p._a.dtype for p in params))
    return {dtype: Layout(dtype, [p._a.shape for p in params if p._a.dtype == dtype]) for dtype in dtypes}
