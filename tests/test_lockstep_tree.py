"""The canonical tree, exhaustively: the same bits for all numbers of workers, and what is absent stays absent."""

from itertools import pairwise

import numpy as np
import pytest

from ddp.lockstep.exchange import Layout, reduce
from ddp.lockstep.membership import Link
from ddp.lockstep.tree import Node, Sum, cover
from ddp.transport.base import chunks
from ddp.transport.threads import run


def text(left, right):
    return f"({left}+{right})"


def association(shards, owners):
    """The sum as text, by workers that own neighbouring ranges."""
    whole = Sum(text)
    for owned in owners:
        part = Sum(text)
        for shard in owned:
            part.push(Node(0, shard), str(shard))
        assert [node for node, _ in part.parts] == cover(owned)
        for node, value in part.parts:
            whole.push(node, value)
    return whole.total()


def test_association():
    assert association(1, [range(1)]) == "0"
    assert association(6, [range(6)]) == "(((0+1)+(2+3))+(4+5))"
    assert association(7, [range(3), range(3, 7)]) == "(((0+1)+(2+3))+((4+5)+6))"


@pytest.mark.parametrize("shards", range(1, 65))
def test_one_association_for_all_workers(shards):
    alone = association(shards, [range(shards)])
    assert alone.count("+") == shards - 1
    rng = np.random.default_rng(shards)
    for workers in range(1, shards + 1):
        even = [range(s.start, s.stop) for s in chunks(shards, workers)]
        cuts = [0, *sorted(rng.choice(np.arange(1, shards), workers - 1, replace=False).tolist()), shards]
        uneven = [range(a, b) for a, b in pairwise(cuts)]
        assert association(shards, even) == association(shards, uneven) == alone


def test_leaves_cover_all_shards():
    for shards in range(1, 33):
        for start in range(shards):
            found = [leaf for node in cover(range(start, shards)) for leaf in node.leaves(shards)]
            assert found == list(range(start, shards))


SIGNALS = {
    np.dtype(np.float32): (0x7FA00000, np.uint32),
    np.dtype(np.float64): (0x7FF4000000000000, np.uint64),
}


def sums(workers, shards, leaves, layout_of):
    """Each worker's result of the exchange; leaves[k] are the members of shard k, None where absent."""
    present = np.array([[m is not None for m in leaf] for leaf in leaves])

    def worker(transport):
        link = Link(transport, transport.rank, list(range(workers)), lambda task: task(), 0, 20.0)
        layout = layout_of()
        for _ in range(4):  # arrays to use again, in which each number left over warns as soon as one computes with it
            layout.give(np.full(layout.size, *SIGNALS[layout.dtype]).view(layout.dtype))
        part = layout.sum()
        owned = chunks(shards, workers)[transport.rank]
        for k in range(owned.start, owned.stop):
            part.push(Node(0, k), layout.pack(leaves[k]))
        out = layout.unpack(reduce(link, layout, part.parts, present, 3))
        return [m.tobytes() if there else None for m, there in zip(out, present.any(axis=0))]

    return run(workers, worker, 30.0)


@pytest.mark.parametrize("shards", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_with_absent_and_odd_values(shards, dtype):
    rng = np.random.default_rng(shards)
    shapes = [(7,), (3, 5), (), (40,)]
    leaves = []
    for k in range(shards):
        leaf = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        leaf[0][0], leaf[0][1], leaf[0][2] = -0.0, np.nan if k == 0 else 1.0, np.inf
        leaf[1] = leaf[1] if rng.random() < 0.5 else None
        leaf[2] = None
        leaves.append(leaf)
    if shards > 2:
        leaves[1] = [None] * 4  # an empty shard
        leaves[0][1] = np.full((3, 5), -0.0, dtype)
        for leaf in leaves[1:]:
            leaf[1] = None
    layout_of = lambda: Layout(np.dtype(dtype), shapes)
    expected = sums(1, shards, leaves, layout_of)[0]
    assert expected[2] is None
    if shards > 2:  # nothing was added to it, least of all +0.0
        assert expected[1] == (np.full((3, 5), -0.0, dtype) / 3).tobytes()
    for workers in range(2, min(shards, 8) + 2):  # one more than shards: it has nothing to do
        for found in sums(workers, shards, leaves, layout_of):
            assert found == expected
