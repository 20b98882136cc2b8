"""Collectives on a board, beyond the conformance suite: where results are put, and whose memory a slot is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import core
from ddp.env import World
from ddp.group import Lane, ProcessGroup
from ddp.transport import segment
from tests.test_transport import run_zmq, write_key

pytestmark = pytest.mark.skipif(not segment.available(), reason="needs Linux on x86-64")


@pytest.fixture
def key_file(tmp_path):
    return write_key(tmp_path / "key")


def test_results_land_in_tensors_also_where_these_are_read(key_file):
    """Outputs apart, in rows and in columns; the input's own row, and a part of the inputs."""
    size, n = 3, 300_000

    def body(g):
        assert g.transport.fills
        pg = ProcessGroup(Lane(g.transport), World(g.rank, size), range(size), 0, 20)
        base = core.arange(size * n).float().view(size, n)
        inputs = [base * (rank + 1) ** 2 for rank in range(size)]
        received = core.stack([x[g.rank] for x in inputs])

        def check(outs, expected):
            assert (core.stack(list(outs)) == expected).all() and all(out._version for out in outs)

        def rooms():
            yield [core.zeros(n) for _ in range(size)]
            yield list(core.zeros(size, n))
            yield list(core.zeros(n, size).t())
            yield list(core.zeros(size * n + 1)[1:].view(size, n))

        for outs in rooms():
            pg.all_gather(outs, inputs[g.rank][1])
            check(outs, core.stack([x[1] for x in inputs]))
        for outs in rooms():
            pg.gather(inputs[g.rank][1], outs if g.rank == 2 else None, 2)
            if g.rank == 2:
                check(outs, core.stack([x[1] for x in inputs]))
        for outs in rooms():
            pg.all_to_all_equal(outs, list(inputs[g.rank]))
            check(outs, received)
        for outs in rooms():
            pg.scatter(outs[1], list(inputs[1]) if g.rank == 1 else None, 1)
            check(outs[1:2], inputs[1][g.rank][None])
        for outs in rooms():
            pg.reduce_scatter(outs[1], list(inputs[g.rank]), "sum")
            check(outs[1:2], 14 * base[g.rank][None])

        for own in range(size):  # the input is one of the outputs: the rank's own, or another's
            outs = inputs[g.rank].clone()
            pg.all_gather(list(outs), outs[own])
            check(outs, core.stack([x[own] for x in inputs]))
            outs = inputs[g.rank].clone()
            pg.reduce_scatter(outs[own], list(outs), "sum")
            check(outs[own : own + 1], 14 * base[g.rank][None])
        outs = inputs[g.rank].clone().view(-1)
        pg.all_gather(list(outs[: size * n].view(size, n)), outs[g.rank * n // 2 :][:n])
        check(outs.view(size, n), core.stack([x.view(-1)[rank * n // 2 :][:n] for rank, x in enumerate(inputs)]))
        outs = inputs[g.rank].clone()
        pg.all_to_all_equal(list(outs), list(outs))
        check(outs, received)

    run_zmq(size, body, key_file)


def test_two_ranks_agree_whose_memory_is_whose(key_file):
    """They swap slots after small calls only."""
    seen: dict[int, list] = {0: [], 1: []}

    def body(g):
        def slots():
            return [list(row) for row in g.transport._board._slots]

        for count in (10, 1 << 19, 20, 3):
            x = np.full(count, g.rank)
            for made in (
                partial(g.all_gather, x),
                partial(g.all_to_all, x[: count // 2 * 2]),
                partial(g.broadcast, x, 1),
                partial(g.gather, x, 0),
                partial(g.scatter, np.concatenate([x, x]) if g.rank == 1 else None, str(x.dtype), count, 1),
            ):
                before = slots()
                made()
                seen[g.rank].append(slots())
                assert (slots() == before) == (count > 20)

    run_zmq(2, body, key_file)
    assert seen[0] == seen[1] and len(seen[0]) == 20
