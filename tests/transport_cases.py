"""The conformance suite of `ddp.transport`: bodies that every rank of a world runs, for any transport and any size.

HEALTHY bodies leave the transport in working order. BROKEN ones end in an error that every rank must see, and leave
it failed. `test_transport.py` runs them in threads and in processes, `mpi_suite.py` under mpiexec. Run as a program,
this file is one rank of a ZeroMQ world: `python -m tests.transport_cases RANK SIZE KEY_FILE`.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest

from core.errors import ArgumentError, DTypeError, RangeError, ShapeError
from ddp.env import World
from ddp.errors import DDPError, DeadlineError, MismatchError, PeerLostError
from ddp.transport import base, open_transport
from ddp.transport.base import DTYPES, REDUCE_OPS, Call, Deadline, Transport
from ddp.transport.tuning import Tuning

TIMEOUT_S = 20.0
RING_BYTES = Tuning().ring_bytes

# Relative error allowed in a sum over at most eight ranks; everything else is exact.
TOLERANCE = {
    "float16": 4e-3,
    "bfloat16": 3e-2,
    "float32": 1e-6,
    "float64": 1e-14,
    "complex64": 1e-6,
    "complex128": 1e-14,
}


class Group:
    """One rank's calls, numbered as `ddp.group` does it."""

    def __init__(self, transport: Transport, timeout_s: float = TIMEOUT_S, group: int = 0):
        self.transport, self.timeout_s, self.group = transport, timeout_s, group
        self.rank, self.size = transport.rank, transport.size
        self.number = 0

    def call(self, name: str, dtype: object = "uint8", count: int = 0, detail: str = "") -> tuple[Call, Deadline]:
        self.number += 1
        return Call(name, self.number, str(dtype), count, detail, self.group), Deadline.after(self.timeout_s)

    def all_reduce(self, x, op="sum"):
        self.transport.all_reduce(x, op, *self.call("all_reduce", x.dtype, x.size, op))
        return x

    def homes(self, nbytes):
        return self.transport.homes(nbytes, *self.call("homes", "uint8", nbytes))

    def all_reduce_homes(self, homes, op="sum"):
        x = homes[self.rank]
        self.transport.all_reduce_homes(homes, op, *self.call("all_reduce", x.dtype, x.size, f"{op}, at home"))
        return x

    def reduce(self, x, root, op="sum"):
        self.transport.reduce(x, op, root, *self.call("reduce", x.dtype, x.size, f"{op}, root={root}"))

    def broadcast(self, x, root):
        self.transport.broadcast(x, root, *self.call("broadcast", x.dtype, x.size, f"root={root}"))

    def all_gather(self, x):
        return self.transport.all_gather(x, *self.call("all_gather", x.dtype, x.size))

    def gather(self, x, root):
        return self.transport.gather(x, root, *self.call("gather", x.dtype, x.size, f"root={root}"))

    def scatter(self, x, dtype, count, root):
        return self.transport.scatter(x, root, *self.call("scatter", dtype, count, f"root={root}"))

    def reduce_scatter(self, x, op="sum"):
        return self.transport.reduce_scatter(x, op, *self.call("reduce_scatter", x.dtype, x.size, op))

    def all_to_all(self, x):
        return self.transport.all_to_all(x, *self.call("all_to_all", x.dtype, x.size))

    def barrier(self):
        self.transport.barrier(*self.call("barrier"))

    def send(self, peer, x, tag=0):
        call, deadline = Call("send", tag, str(x.dtype), x.size, "", self.group), Deadline.after(self.timeout_s)
        self.transport.send_pieces(peer, x, call, deadline)
        self.transport.flush(deadline)

    def recv(self, peer, x, tag=0):
        call, deadline = Call("send", tag, str(x.dtype), x.size, "", self.group), Deadline.after(self.timeout_s)
        self.transport.recv_pieces(peer, x, call, deadline)
        return x


def sample(rank: int, count: int, dtype: str) -> np.ndarray:
    """Small numbers that differ by rank and place; products and sums of eight fit every dtype, zeros of both signs
    included.
    """
    values = np.random.default_rng([rank, count]).integers(0, 3, count)
    array = (values % 2 if dtype == "bool" else values).astype(DTYPES[dtype])
    factor = {"f": -1, "V": -1, "c": 1 + 1j}.get(array.dtype.kind, 1)
    return array * array.dtype.type(factor)


def same(x: np.ndarray, y: np.ndarray) -> None:
    assert x.dtype == y.dtype and x.shape == y.shape
    np.testing.assert_array_equal(x, y)


def same_bits_everywhere(g: Group, x: np.ndarray) -> None:
    rows = g.all_gather(x.view(np.uint8))
    assert (rows == rows[0]).all()


def counts(size: int) -> tuple[int, ...]:
    return (0, 1, size - 1, size + 1, 100)


# -- healthy ----------------------------------------------------------------------------------------------------------


def all_reduce_has_every_op_and_dtype(g: Group) -> None:
    for dtype in DTYPES:
        for op in REDUCE_OPS:
            kind = DTYPES[dtype].kind
            if (op == "avg" and kind in "biu") or (op in ("band", "bor", "bxor") and kind not in "biu"):
                continue
            x = g.all_reduce(sample(g.rank, 37, dtype), op)
            y = REDUCE_OPS[op].reduce([sample(rank, 37, dtype) for rank in range(g.size)], dtype=DTYPES[dtype])
            if op == "avg":
                wide = np.complex128 if kind == "c" else np.float64
                np.testing.assert_allclose(x.astype(wide), y.astype(wide) / g.size, rtol=TOLERANCE[dtype], atol=0)
            else:
                same(x, y)


def all_reduce_takes_every_count(g: Group) -> None:
    for count in counts(g.size):
        same(g.all_reduce(sample(g.rank, count, "int64")), sum(sample(rank, count, "int64") for rank in range(g.size)))


def all_reduce_takes_large_arrays(g: Group) -> None:
    for nbytes in (RING_BYTES + 4, (base.PIECE_BYTES + 40) * g.size):
        count = nbytes // 4
        x = g.all_reduce(np.arange(count, dtype=np.int32) + g.rank)
        same(x, (g.size * np.arange(count) + g.size * (g.size - 1) // 2).astype(np.int32))


def all_reduce_gives_the_same_bits(g: Group) -> None:
    for dtype in TOLERANCE:
        for count in (50, 2 * RING_BYTES):
            x = np.random.default_rng(g.rank).standard_normal(count).astype(DTYPES[dtype])
            y = np.sum([np.random.default_rng(rank).standard_normal(count) for rank in range(g.size)], axis=0)
            g.all_reduce(x)
            same_bits_everywhere(g, x)
            wide = np.complex128 if x.dtype.kind == "c" else np.float64
            np.testing.assert_allclose(x.astype(wide), y, rtol=0, atol=g.size**2 * TOLERANCE[dtype])
    for op in ("min", "max"):
        for count in (8, RING_BYTES):
            x = np.zeros(count)
            x[g.rank % 2 :: 2] = -0.0
            x[g.rank % 5 :: 5] = np.nan
            same_bits_everywhere(g, g.all_reduce(x, op))


def homes_are_reduced_as_other_arrays_are(g: Group) -> None:
    """Where ranks see each other's memory, in it, with the same bits; elsewhere there are no homes."""
    count = 50_001
    areas = g.homes(8 * count)
    assert (areas is None) == (not getattr(g.transport, "_on_board", False))
    for dtype, op in (("float32", "avg"), ("float64", "sum"), ("bfloat16", "avg"), ("int64", "max")):
        kind = DTYPES[dtype]
        x = np.random.default_rng(g.rank).integers(-99, 99, count).astype(np.float64) / 7
        rooms = areas or [np.zeros(8 * count, np.uint8) for _ in range(g.size)]
        homes = [room.view(kind)[1 : count - 1] for room in rooms]  # a part, as good as the whole
        homes[g.rank][:] = x[1:-1].astype(kind)
        expected = g.all_reduce(homes[g.rank].copy(), op)
        same(g.all_reduce_homes(homes, op), expected)
        if areas:
            g.barrier()
            assert all((home.view(np.uint8) == expected.view(np.uint8)).all() for home in homes)
            g.barrier()


def reduce_writes_on_the_root_only(g: Group) -> None:
    for root in range(g.size):
        for count in counts(g.size):
            x = sample(g.rank, count, "float64")
            g.reduce(x, root)
            ranks = range(g.size) if g.rank == root else [g.rank]
            same(x, np.sum([sample(rank, count, "float64") for rank in ranks], axis=0))
    x = np.full(base.PIECE_BYTES // 2, g.rank + 1.0)
    g.reduce(x, g.size - 1, "avg")
    assert (x == ((g.size + 1) / 2 if g.rank == g.size - 1 else g.rank + 1)).all()


def broadcast_copies_the_root(g: Group) -> None:
    for root in range(g.size):
        for count, dtype in ((0, "int8"), (1, "bool"), (33, "bfloat16"), (base.PIECE_BYTES // 2, "int32")):
            x = sample(g.rank, count, dtype)
            g.broadcast(x, root)
            same(x, sample(root, count, dtype))


def all_gather_stacks_by_rank(g: Group) -> None:
    for dtype in ("bool", "float16", "bfloat16", "complex64", "int64"):
        for count in (*counts(g.size), RING_BYTES):
            x = sample(g.rank, count, dtype)
            y = g.all_gather(x)
            same(y, np.stack([sample(rank, count, dtype) for rank in range(g.size)]))
            same(x, sample(g.rank, count, dtype))


def gather_stacks_on_the_root(g: Group) -> None:
    for root in range(g.size):
        for count in counts(g.size):
            x = sample(g.rank, count, "float32")
            y = g.gather(x, root)
            if g.rank == root:
                same(y, np.stack([sample(rank, count, "float32") for rank in range(g.size)]))
            else:
                assert y is None
            same(x, sample(g.rank, count, "float32"))


def scatter_deals_the_blocks_of_the_root(g: Group) -> None:
    for root in range(g.size):
        for count in counts(g.size):
            blocks = sample(root, g.size * count, "int16")
            x = blocks.copy()
            same(g.scatter(x if g.rank == root else None, "int16", count, root), blocks[g.rank * count :][:count])
            same(x, blocks)


def reduce_scatter_keeps_one_block(g: Group) -> None:
    for count in (0, 1, 5, RING_BYTES // 8):
        x = sample(g.rank, g.size * count, "int64")
        total = sum(sample(rank, g.size * count, "int64") for rank in range(g.size))
        same(g.reduce_scatter(x), total[g.rank * count :][:count])
        same(x, sample(g.rank, g.size * count, "int64"))
    x = np.arange(g.size, dtype=np.float32)
    same(g.reduce_scatter(x, "avg"), np.float32([g.rank]))


def all_to_all_transposes_the_blocks(g: Group) -> None:
    for count in (0, 1, 3, RING_BYTES):
        x = np.repeat(np.arange(g.size) + 100 * g.rank, count)
        same(g.all_to_all(x), np.repeat(100 * np.arange(g.size) + g.rank, count))


def arrays_apart_are_read_and_filled_where_they_lie(g: Group) -> None:
    """Where the transport says so: on the board. It gives back the very arrays that it was given."""
    assert g.transport.fills == getattr(g.transport, "_on_board", False)
    if not g.transport.fills:
        return
    transport, ranks = g.transport, range(g.size)
    for count in (0, 3, 150_001):
        x = sample(g.rank, count * g.size, "float32")
        mine, blocks = x[:count], [block.copy() for block in x.reshape(g.size, -1)]
        outs = [np.full(count, -1, np.float32) for _ in ranks]
        room = outs[0]
        plain = [g.all_gather(mine), g.all_to_all(x).reshape(g.size, -1), g.reduce_scatter(x)]

        found = transport.all_gather(mine, *g.call("all_gather", "float32", count), into=outs)
        assert found is outs
        same(np.stack(outs), plain[0])
        found = transport.all_to_all(blocks, *g.call("all_to_all", "float32", x.size), into=outs)
        assert found is outs
        same(np.stack(outs), plain[1])
        found = transport.reduce_scatter(blocks, "sum", *g.call("reduce_scatter", "float32", x.size), into=[room])
        assert found is room
        same(room, plain[2])
        for root in ranks:
            call = g.call("gather", "float32", count, f"root={root}")
            found = transport.gather(mine, root, *call, into=outs if g.rank == root else None)
            assert found is (outs if g.rank == root else None)
            call = g.call("scatter", "float32", count, f"root={root}")
            assert transport.scatter(blocks if g.rank == root else None, root, *call, into=[room]) is room
            same(room, sample(root, count * g.size, "float32")[g.rank * count :][:count])
            if g.rank == root:
                same(np.stack(outs[1:]), plain[0][1:])
        same(np.concatenate(blocks), x)


def barrier_lets_nobody_out_before_all_are_in(g: Group) -> None:
    time.sleep(0.02 * g.rank)
    came = time.monotonic()
    g.barrier()
    went = time.monotonic()
    times = g.all_gather(np.array([came, went]))  # one clock: all ranks are on one host
    assert times[:, 0].max() <= times[:, 1].min()


def collectives_follow_each_other_in_any_order(g: Group) -> None:
    """What a collective leaves behind, and who is late, does not matter to the next."""
    everybody = range(g.size)
    draw = np.random.default_rng(5)  # the same on all ranks
    for number in range(80):
        what, root, count = draw.integers(8), int(draw.integers(g.size)), int(draw.choice((1, 700, 9_000, 170_000)))
        arrays, late = [np.arange(count) * (rank + 1) + number for rank in everybody], int(draw.integers(g.size))
        mine, total = arrays[g.rank].copy(), np.sum(arrays, axis=0)
        time.sleep(1e-3 * (g.rank == late))
        if what < 2:
            same(g.all_reduce(mine), total)
        elif what == 2:
            g.reduce(mine, root)
            if g.rank == root:
                same(mine, total)
        elif what == 3:
            g.broadcast(mine, root)
            same(mine, arrays[root])
        elif what == 4:
            same(g.all_gather(mine), np.stack(arrays))
        elif what == 5:
            every = g.gather(mine, root)
            assert g.rank != root or (every == np.stack(arrays)).all()
        elif what == 6:
            whole = np.concatenate(arrays) if g.rank == root else None
            same(g.scatter(whole, str(mine.dtype), count, root), mine)
        else:
            same(g.all_to_all(np.concatenate(arrays) + g.rank), np.concatenate([mine + rank for rank in everybody]))


def send_matches_by_tag_and_passes_collectives(g: Group) -> None:
    right, left = (g.rank + 1) % g.size, (g.rank - 1) % g.size
    if g.size == 1:
        return
    for tag in (7, 3, 3, 1 << 40):
        g.send(right, np.array([g.rank, tag]), tag)
    g.send(right, np.empty(0, np.float32), 5)
    large = np.arange(base.PIECE_BYTES, dtype=np.int32) + g.rank
    g.send(right, large, 9)
    same(g.all_reduce(np.ones(3, np.int32)), np.full(3, g.size, np.int32))
    for tag in (3, 1 << 40, 7, 3):
        same(g.recv(left, np.zeros(2, np.int64), tag), np.array([left, tag]))
    same(g.recv(left, np.zeros_like(large), 9), large - g.rank + left)
    g.recv(left, np.empty(0, np.float32), 5)


def subsets_are_worlds_of_their_own(g: Group) -> None:
    ranks = list(range(g.size))[::-2]  # in another order than in the job
    if g.rank in ranks:
        part = Group(g.transport.subset(ranks), group=1)
        assert ranks[part.rank] == g.rank
        same(part.all_gather(np.array([g.rank])), np.array(ranks)[:, None])
        same(part.all_reduce(np.full(RING_BYTES, g.rank)), np.full(RING_BYTES, sum(ranks)))
        part.transport.close()
        with pytest.raises(RangeError, match="different ranks"):
            g.transport.subset([g.rank, g.rank])
    else:
        with pytest.raises(ArgumentError, match="among the ranks"):
            g.transport.subset(ranks)
    g.barrier()


def mistakes_are_refused_before_anything_moves(g: Group) -> None:
    with pytest.raises(ArgumentError, match=r"expected a known reduce op, got 'mean'; known: avg, band"):
        g.all_reduce(np.zeros(3), "mean")
    with pytest.raises(DTypeError, match="expected a floating or complex dtype for avg, got int64"):
        g.all_reduce(np.zeros(3, np.int64), "avg")
    with pytest.raises(DTypeError, match="expected an integer or bool dtype for band, got float64"):
        g.all_reduce(np.zeros(3), "band")
    for rooted in (lambda: g.broadcast(np.zeros(3), g.size), lambda: g.gather(np.zeros(3), -1)):
        with pytest.raises(RangeError, match="expected a root in 0 …"):
            rooted()
    with pytest.raises(RangeError, match=f"expected another rank of 0 … {g.size - 1}, got {g.rank}"):
        g.send(g.rank, np.zeros(3))
    with pytest.raises(RangeError, match="expected another rank"):
        g.recv(g.size, np.zeros(3))
    if g.size > 1:
        with pytest.raises(ShapeError, match=f"expected a multiple of {g.size} elements"):
            g.all_to_all(np.zeros(g.size + 1))
    if g.rank == 0:
        with pytest.raises(ShapeError, match="on the root, got no array"):
            g.scatter(None, "float32", 2, 0)
    g.number = 1000
    g.barrier()


def closing_twice_is_closing_once(g: Group) -> None:
    g.barrier()
    g.transport.close()
    g.transport.close()
    if g.size > 1:
        with pytest.raises(DDPError, match="expected an open transport"):
            g.send((g.rank + 1) % g.size, np.zeros(1))


HEALTHY = [
    all_reduce_has_every_op_and_dtype,
    all_reduce_takes_every_count,
    all_reduce_takes_large_arrays,
    all_reduce_gives_the_same_bits,
    homes_are_reduced_as_other_arrays_are,
    reduce_writes_on_the_root_only,
    broadcast_copies_the_root,
    all_gather_stacks_by_rank,
    gather_stacks_on_the_root,
    scatter_deals_the_blocks_of_the_root,
    reduce_scatter_keeps_one_block,
    all_to_all_transposes_the_blocks,
    arrays_apart_are_read_and_filled_where_they_lie,
    barrier_lets_nobody_out_before_all_are_in,
    collectives_follow_each_other_in_any_order,
    send_matches_by_tag_and_passes_collectives,
    subsets_are_worlds_of_their_own,
    mistakes_are_refused_before_anything_moves,
    closing_twice_is_closing_once,
]


# -- broken: the last rank does something else than the others ---------------------------------------------------------


def mismatch(*texts: str):
    """A body in which the last rank makes another call, and every rank must find out and name both."""

    def decorate(body):
        def run(g: Group) -> None:
            began = time.monotonic()
            with pytest.raises(MismatchError) as caught:
                body(g, g.rank == g.size - 1)
                g.barrier()  # a root that only sends is told here
            assert time.monotonic() - began < TIMEOUT_S / 2
            message = str(caught.value)
            assert message.startswith(f"rank {g.rank}: ")
            for text in texts:
                assert text in message, message
            with pytest.raises(MismatchError):  # and it stays so
                g.barrier()

        run.__name__ = body.__name__
        return run

    return decorate


@mismatch("all_reduce #1 (float32[10], sum)", "all_gather #1 (float32[10])")
def different_collectives(g: Group, odd: bool) -> None:
    g.all_gather(np.zeros(10, np.float32)) if odd else g.all_reduce(np.zeros(10, np.float32))


@mismatch("float32[10]", "float32[11]")
def different_shapes(g: Group, odd: bool) -> None:
    g.all_reduce(np.zeros(11 if odd else 10, np.float32))


@mismatch("float32[10]", f"float32[{RING_BYTES}]")
def different_algorithms(g: Group, odd: bool) -> None:
    g.all_reduce(np.zeros(RING_BYTES if odd else 10, np.float32))


@mismatch("float32[10]", "bfloat16[10]")
def different_dtypes(g: Group, odd: bool) -> None:
    g.all_reduce(np.zeros(10, DTYPES["bfloat16" if odd else "float32"]))


@mismatch("sum", "max")
def different_ops(g: Group, odd: bool) -> None:
    g.all_reduce(np.zeros(10), "max" if odd else "sum")


@mismatch("broadcast #1")
def different_roots_that_all_send(g: Group, odd: bool) -> None:
    g.broadcast(np.zeros(10), g.size - 1 if odd else 0)


@mismatch("float32[40000], sum", "at home")
def different_places(g: Group, odd: bool) -> None:
    homes = [np.zeros(40000, np.float32) for _ in range(g.size)]
    g.all_reduce_homes(homes) if odd else g.all_reduce(homes[g.rank])


@mismatch("root=0", "root=1")
def different_roots_that_all_wait(g: Group, odd: bool) -> None:
    """Nobody sends anything: each takes another for the root."""
    g.broadcast(np.zeros(10), 0 if odd else g.size - 1 if g.size == 2 else 0 if g.rank else 1)


def a_silent_rank_is_named(g: Group) -> None:
    last, g.timeout_s = g.size - 1, 1.2
    if g.rank == last:
        time.sleep(1.8)
    began = time.monotonic()
    with pytest.raises(DeadlineError, match=f"expected rank {last} within 1.2 s, got nothing") as caught:
        g.all_reduce(np.zeros(10))
        g.barrier()  # the late one has all that it needs for the first
    assert caught.value.rank == last
    assert str(caught.value).startswith(f"rank {g.rank}: ")
    assert time.monotonic() - began < 2.5


def a_late_message_is_no_failure_of_the_job(g: Group) -> None:
    peer, g.timeout_s = (g.rank + 1) % g.size, 0.1
    with pytest.raises(DeadlineError, match=f"send #4 .*expected rank {peer} within 0.1 s") as caught:
        g.recv(peer, np.zeros(1), tag=4)
    assert caught.value.rank == peer
    g.timeout_s = TIMEOUT_S
    g.barrier()


def a_rank_that_left_is_named(g: Group) -> None:
    last = g.size - 1
    if g.rank == last:
        g.barrier()
        g.transport.close()
        return
    with pytest.raises(PeerLostError, match=f"rank {last} has left") as caught:
        g.barrier()  # a slow rank may still be here when the others have found out
        g.all_reduce(np.zeros(10))
    assert caught.value.rank == last


BROKEN = [
    different_collectives,
    different_shapes,
    different_algorithms,
    different_dtypes,
    different_ops,
    different_places,
    different_roots_that_all_send,
    different_roots_that_all_wait,
    a_silent_rank_is_named,
    a_late_message_is_no_failure_of_the_job,
    a_rank_that_left_is_named,
]


def zmq_world(rank: int, size: int, key_file: str, job: str = "") -> World:
    """All on one host. The job is named after the folder of its key, so that test runs do not meet each other."""
    return World(rank, size, rank, size, job=job or os.path.dirname(key_file), key_file=key_file)


def main(rank: int, size: int, key_file: str) -> None:
    for body in HEALTHY + BROKEN:
        transport = open_transport("zmq", zmq_world(rank, size, key_file, f"{key_file} {body.__name__}"), TIMEOUT_S)
        try:
            body(Group(transport))
        except BaseException as error:
            error.add_note(f"rank {rank} of {size}: {body.__name__}")
            raise
        finally:
            transport.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
