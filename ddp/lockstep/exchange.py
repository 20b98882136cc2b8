"""Sums over the shards of a step: gradients, buffers, and whatever else comes as one flat array a shard.

Contract: the sum is that of the canonical tree (`tree`), element by element, so cutting the array into chunks does not change a bit.
Each member adds up its own shards, as far as it has whole nodes of the tree, and sends each other member that one's chunk of them; who
owns a chunk adds the rest, divides, and sends the result to all. So bytes move and only we add, all members end with the same bits, and
with a power of two of members each sends 2(W−1)/W arrays, as in a ring.
A shard may lack a member of the array: a parameter that its loss did not use. That is an absent addend, and where all lack it there is
no sum. Who lacks what (`present`) has been told before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from ddp.lockstep.membership import Link
from ddp.lockstep.tree import Node, Sum, cover
from ddp.transport.base import chunks, divide


@dataclass
class Flat:
    """Members of one dtype one behind the other, and which of them are there. What is not there is 0."""

    array: np.ndarray  # (n,)
    there: np.ndarray  # (members,) bool


class Layout:
    """Where the members lie in a flat array, and arrays to use again."""

    def __init__(self, dtype: np.dtype, shapes: Sequence[tuple[int, ...]]):
        self.dtype, self.shapes = dtype, list(shapes)
        ends = list(accumulate((int(np.prod(shape)) for shape in shapes), initial=0))
        self.spans = [slice(start, stop) for start, stop in pairwise(ends)]
        self.size = ends[-1]
        self._free: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """A flat array with anything in it."""
        return self._free.pop() if self._free else np.empty(self.size, self.dtype)

    def give(self, array: np.ndarray) -> None:
        """Nobody needs this array any more."""
        self._free.append(array)

    def forget(self) -> None:
        """After a failure the transport may still read what it was given."""
        self._free.clear()

    def pack(self, members: Sequence[np.ndarray | None]) -> Flat | None:
        """Copy them into a flat array; None if there is none."""
        there = np.array([member is not None for member in members], bool)
        if not there.any():
            return None
        array = self.take()
        for span, member in zip(self.spans, members):
            array[span] = 0 if member is None else member.reshape(-1)  # what is left of other numbers could warn of itself
        return Flat(array, there)

    def unpack(self, array: np.ndarray) -> list[np.ndarray]:
        """The members as views."""
        return [array[span].reshape(shape) for span, shape in zip(self.spans, self.shapes)]

    def sum(self) -> Sum[Flat]:
        """A sum of whole arrays, which gives back those that it has added."""

        def add(left: Flat, right: Flat) -> Flat:
            total = _add(left, right, self.spans)
            self.give(right.array)
            return total

        return Sum(add)

    def within(self, chunk: slice) -> list[slice]:
        """The part of each member that lies in a chunk, counted from its start."""
        clipped = (
            (min(max(span.start, chunk.start), chunk.stop), min(max(span.stop, chunk.start), chunk.stop))
            for span in self.spans
        )
        return [slice(start - chunk.start, stop - chunk.start) for start, stop in clipped]


def reduce(
    link: Link, layout: Layout, parts: list[tuple[Node, Flat | None]], present: np.ndarray, divisor: int,
    between: Callable[[str], None] = lambda phase: None,
) -> np.ndarray:  # fmt: skip
    """The sum over all shards, divided: (n,), on every member the same.

    `parts` is what this member's shards add up to, `present` (shards, members) who has what. Give the result back to the layout.
    `between` is called with the name of each exchange before it.
    """
    shards = len(present)
    if link.size == 1:
        whole = layout.sum()
        for node, value in parts:
            whole.push(node, value)
        total = whole.total()
        assert total is not None
        divide(total.array, divisor)
        return total.array
    owned, spans = chunks(shards, link.size), chunks(layout.size, link.size)
    mine = spans[link.place]
    nodes = [[n for n in cover(range(r.start, r.stop)) if present[n.leaves(shards)].any()] for r in owned]
    ours = {node: value for node, value in parts if value is not None}
    outgoing = {p: [value.array[span] for value in ours.values()] for p, span in enumerate(spans)}
    incoming = {
        p: [np.empty(mine.stop - mine.start, layout.dtype) for _ in ns] for p, ns in enumerate(nodes) if p != link.place
    }
    between("reduce")
    link.swap("partial sums", outgoing, incoming, layout.dtype.name, layout.size)
    incoming[link.place] = [value.array[mine] for value in ours.values()]

    bounds = layout.within(mine)
    chunk: Sum[Flat] = Sum(lambda left, right: _add(left, right, bounds))
    for p, span in enumerate(owned):
        arrays = dict(zip(nodes[p], incoming[p]))
        for node in cover(range(span.start, span.stop)):
            there = np.any(present[node.leaves(shards)], axis=0)
            chunk.push(node, Flat(arrays[node], there) if node in arrays else None)
    total = chunk.total()
    assert total is not None
    divide(total.array, divisor)

    out = layout.take()
    out[mine] = total.array
    others = [p for p in range(link.size) if p != link.place]
    between("gather")
    link.swap(
        "sums", {p: [out[mine]] for p in others}, {p: [out[spans[p]]] for p in others}, layout.dtype.name, layout.size
    )
    for value in ours.values():
        layout.give(value.array)
    return out


def _add(left: Flat, right: Flat, spans: Sequence[slice]) -> Flat:
    """left += right, where both are there; what only one has is taken as it is."""
    both = left.there & right.there
    if both.all():
        left.array += right.array
        return left
    for span, add, take in zip(spans, both.tolist(), (right.there & ~left.there).tolist()):
        if add:
            left.array[span] += right.array[span]
        elif take:
            left.array[span] = right.array[span]
    left.there = left.there | right.there
    return left
