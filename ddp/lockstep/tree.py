"""The canonical tree: one association for a sum over V shards, whoever computes them.

A node (level, i) is the sum of the shards i·2ˡ … (i+1)·2ˡ − 1, as far as there are so many; it is the sum of (level−1, 2i) and
(level−1, 2i+1), in this order. A worker owns a range of neighbouring shards and adds up what it can, as a binary counter counts; what
remains, at most two nodes a level, is its `cover`. Whoever has the covers of all workers, in order, adds the rest the same way.
So the bits of the sum depend on V and the addends only: 0.0 is never added for what is not there, and ranges may be of any length.

Contract: pure; `add(left, right)` may change and return `left`. None is an absent addend: the sum of x and nothing is x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Node(NamedTuple):
    level: int
    index: int  # type: ignore[assignment]  # a tuple has a method of this name

    @property
    def sibling(self) -> Node:
        return Node(self.level, self.index ^ 1)

    @property
    def parent(self) -> Node:
        return Node(self.level + 1, self.index >> 1)

    def leaves(self, shards: int) -> range:
        """The shards that it is the sum of."""
        return range(self.index << self.level, min((self.index + 1) << self.level, shards))


class Sum(Generic[T]):
    """A sum that takes its nodes from left to right and adds two as soon as they are siblings."""

    def __init__(self, add: Callable[[T, T], T]):
        self._add = add
        self.parts: list[tuple[Node, T | None]] = []

    def push(self, node: Node, value: T | None) -> None:
        """The next node."""
        while self.parts and self.parts[-1][0] == node.sibling and node.index % 2:
            _, left = self.parts.pop()
            node, value = node.parent, self._plus(left, value)
        self.parts.append((node, value))

    def total(self) -> T | None:
        """The sum of all, once the last shard is in. What has no right sibling because the shards end stands for its parent."""
        _, value = self.parts.pop()
        while self.parts:
            value = self._plus(self.parts.pop()[1], value)
        return value

    def _plus(self, left: T | None, right: T | None) -> T | None:
        if left is None or right is None:
            return right if left is None else left
        return self._add(left, right)


def cover(shards: range) -> list[Node]:
    """The nodes that remain when a worker has added up neighbouring shards."""
    counter: Sum[bool] = Sum(lambda left, right: True)
    for shard in shards:
        counter.push(Node(0, shard), True)
    return [node for node, _ in counter.parts]
