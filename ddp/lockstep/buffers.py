"""Buffers after a step: the mean over the shards that changed them, each counting by its samples.

Contract: floating buffers add up in float64 by the canonical tree. Where those of the model are small, as the statistics of norms are, each
member tells all others what its shards add up to, along with what it says of them anyway, and everybody adds the rest: nothing more has
to be waited for. Otherwise they go the way of gradients. The bits are the same.
Not here: buffers of integers, which every shard must change alike (`run`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ddp.lockstep.exchange import Flat, Layout, reduce
from ddp.lockstep.membership import Link
from ddp.lockstep.state import State, host, is_floating
from ddp.lockstep.tree import Node, Sum, cover
from ddp.transport.base import chunks

# So many bytes, as float64, are told to everybody.
TOLD_BYTES = 64 << 10

Changes = dict[int, dict[str, np.ndarray]]  # by shard: buffers that its forward changed
Reports = list[dict[str, Any]]  # of shards, see `compute`


class Buffers:
    def __init__(self, state: State, shards: int):
        self._state, self._shards = state, shards
        sizes = [host(b).size for b in state.buffers.values() if is_floating(host(b))]
        self._told = 8 * sum(sizes) <= TOLD_BYTES

    def told(self, link: Link, changes: Changes, reports: Reports) -> bytes:
        """What this member's shards add up to, for all. What no shard of a node of the tree has is left out."""
        if not self._told:
            return b""
        names = _names(reports)
        layout = self._layout(names)
        parts = self._sum(link, layout, names, changes, reports).parts
        return b"".join(
            flat.array[span].tobytes()
            for _, flat in parts
            if flat is not None
            for span, there in zip(layout.spans, flat.there)
            if there
        )

    def mean(self, link: Link, changes: Changes, reports: Reports, told: list[bytes]) -> dict[str, np.ndarray]:
        """`reports` and what was `told` are those of all members, in order; `changes` are ours."""
        if not (names := _names(reports)):
            return {}
        layout = self._layout(names)
        there = np.zeros((self._shards, len(names)), bool)
        counts = np.zeros(self._shards)
        for report in reports:
            there[report["number"], [names.index(name) for name in report["buffers"]]] = True
            counts[report["number"]] = report["count"]
        if self._told:
            total = self._heard(link, layout, there, told)
        else:
            total = reduce(link, layout, self._sum(link, layout, names, changes, reports).parts, there, 1)
        dtypes = [self._state.kept[name].dtype for name in names]
        weights = counts @ there  # whole numbers: exact in any order
        return {
            name: (sums / weight).astype(dtype)
            for name, sums, weight, dtype in zip(names, layout.unpack(total), weights, dtypes)
        }

    def _layout(self, names: list[str]) -> Layout:
        return Layout(np.dtype(np.float64), [(*self._state.kept[name].shape,) for name in names])

    def _sum(self, link: Link, layout: Layout, names: list[str], changes: Changes, reports: Reports) -> Sum[Flat]:
        """Of this member's shards, each multiplied by its samples."""
        total = layout.sum()
        counts = {report["number"]: report["count"] for report in reports}
        owned = chunks(self._shards, link.size)[link.place]
        for number in range(owned.start, owned.stop):
            changed = changes.get(number, {})
            total.push(
                Node(0, number),
                layout.pack(
                    [changed[name].astype(np.float64) * counts[number] if name in changed else None for name in names]
                ),
            )
        return total

    def _heard(self, link: Link, layout: Layout, there: np.ndarray, told: list[bytes]) -> np.ndarray:
        total = layout.sum()
        for owned, data in zip(chunks(self._shards, link.size), told):
            values, at = np.frombuffer(data, np.float64), 0
            for node in cover(range(owned.start, owned.stop)):
                has = np.any(there[node.leaves(self._shards)], axis=0)
                flat = Flat(layout.take(), has) if has.any() else None
                for span, one in zip(layout.spans, has if flat is not None else ()):
                    if one and flat is not None:
                        flat.array[span] = values[at : at + span.stop - span.start]
                        at += span.stop - span.start
                total.push(node, flat)
        whole = total.total()
        assert whole is not None
        return whole.array


def _names(reports: Reports) -> list[str]:
    """Of the buffers that some shard has changed."""
    return sorted({name for report in reports for name in report["buffers"]})
