"""Shared memory: what a board promises to its readers, and to whom a segment is given."""

from __future__ import annotations

import mmap
import os
import secrets
import socket
import threading

import numpy as np
import pytest

from ddp.transport import segment
from ddp.transport.board import BLOCK_BYTES, BLOCKS, NOTES, SLOTS, Board, Layout

pytestmark = pytest.mark.skipif(not segment.available(), reason="needs Linux on x86-64")

FLOATS = np.dtype(np.float32)
ALL = slice(0, 4)


@pytest.fixture(params=[3])
def boards(request):
    """The views that three ranks, or as many as a test says, have of one board."""
    layout = Layout(request.param, 1 << 12)
    memory = mmap.mmap(-1, layout.nbytes)
    bells = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(layout.size)]
    views = [Board(memory, bells, layout, me) for me in range(layout.size)]
    yield views
    for view in views:
        view.close()
    segment.close_all(bells)
    memory.close()


def pin(board, value, readers, mark=0):
    assert board.busy(readers) is None
    slot = board.claim()
    board.array(board.me, slot, ALL, FLOATS)[:] = value
    board.post(slot, readers, mark)


def read(board, writer):
    value = board.array(writer, board.look(writer), ALL, FLOATS)[0]
    board.done(writer)
    return value


def test_nothing_overlaps():
    for size in (1, 2, 5, 64):
        layout = Layout(size, 5000)
        starts = [0, layout.posts, layout.dones, layout.owners, layout.marks, layout.slots // 8, layout.blocks // 8]
        lengths = [8 * size, 8 * size * size, 8 * size * size, 8 * size, 8 * size * SLOTS, size * SLOTS * 1024]
        assert all(start + length <= after for start, length, after in zip(starts, lengths, starts[1:]))
        assert layout.slots % 4096 == layout.blocks % 4096 == 0
        assert layout.nbytes == layout.blocks + size * BLOCKS * BLOCK_BYTES


def test_notes_come_in_order_and_only_to_their_readers(boards):
    a, b, c = boards
    assert b.look(0) is None
    pin(a, 1.0, [1, 2], mark=7)
    pin(a, 2.0, [1])
    assert b.mark(0, b.look(0)) == 7
    assert [read(b, 0), read(b, 0)] == [1.0, 2.0] and b.look(0) is None
    assert read(c, 0) == 1.0 and c.look(0) is None


def test_a_slot_is_not_claimed_while_it_is_read(boards):
    a, b, c = boards
    for value in range(SLOTS):
        pin(a, value, [1, 2])
    assert a.busy([2]) == 1
    assert read(b, 0) == 0
    assert a.busy([2]) == 2
    read(c, 0)
    assert a.busy([2]) is None


def test_no_more_notes_are_unread_than_there_is_room_for(boards):
    a, b, _ = boards
    slot = a.claim()
    for _ in range(NOTES):
        assert a.busy([2]) is None
        a.post(slot, [1])
    a.claim()
    assert a.busy([1]) == 1 and a.busy([2]) is None
    b.done(0)
    assert a.busy([1]) is None


@pytest.mark.parametrize("boards", [2], indirect=True)
def test_two_ranks_swap_slots_until_the_next_generation(boards):
    a, b = boards
    first = {board: [board.array(rank, 0, ALL, FLOATS).ctypes.data for rank in range(2)] for board in boards}
    for number in range(2 * SLOTS):
        pin(a, number, [1])
        pin(b, -number, [0])
        slots = b.look(0), a.look(1)
        assert [read(b, 0), read(a, 1)] == [number, -number]
        a.swap(*slots)
        b.swap(*reversed(slots))
        at = {board: [board.array(rank, 0, ALL, FLOATS).ctypes.data for rank in range(2)] for board in boards}
        assert all(at[board] == first[board][:: -1 if number < SLOTS else 1] for board in boards)
    a.swap(0, 2)
    a.advance(1)
    assert [a.array(rank, 0, ALL, FLOATS).ctypes.data for rank in range(2)] == first[a]


def test_a_bell_rings_only_for_whom_one_waits(boards):
    a, b, c = boards
    b.lie_down(0)
    pin(c, 1.0, [1])
    with pytest.raises(BlockingIOError):
        os.eventfd_read(b.bells[1])
    pin(a, 1.0, [1])
    assert os.eventfd_read(b.bells[1]) == 1
    b.get_up()
    pin(a, 1.0, [1])
    with pytest.raises(BlockingIOError):
        os.eventfd_read(b.bells[1])
    b.hush()  # not an error
    a.lie_down(1)
    b.done(0)
    assert os.eventfd_read(a.bells[0]) == 1


def test_the_next_generation_sees_nothing_of_the_last(boards):
    a, b, _ = boards
    for value in range(2):
        pin(a, value, [1])
    read(b, 0)
    b.advance(3)
    assert b.look(0) is None and b.strangers == {0, 2}
    pin(a, 5.0, [1])  # by one who has yet to advance
    assert b.look(0) is None
    a.advance(3)
    pin(a, 6.0, [1])
    assert read(b, 0) == 6.0


def test_blocks_are_lent_until_they_are_taken_or_their_receiver_is_gone(boards):
    a, b, _ = boards
    x = np.arange(10.0)
    lent = [a.lend(x + i, 1, ()) for i in range(BLOCKS)]
    assert sorted(lent) == list(range(BLOCKS))
    assert a.lend(x, 1, ()) is None and not a.has_block(())
    assert (b.take(0, lent[1], x.nbytes).view(np.float64) == x + 1).all()
    assert a.has_block(()) and a.lend(x, 2, ()) == lent[1]
    assert a.lend(x, 2, ()) is None and a.lend(x, 2, gone={1}) is not None


# -- segments ---------------------------------------------------------------------------------------------------------

LAYOUT = Layout(2, 1 << 12)


@pytest.fixture
def counter():
    """Serves in a thread, as a rank does in its pump."""
    counter = segment.Counter(segment.make(LAYOUT.nbytes, LAYOUT.size), 2)
    stop = threading.Event()

    def serve():
        while not stop.wait(0.01):
            counter.serve()

    thread = threading.Thread(target=serve)
    thread.start()
    yield counter
    stop.set()
    thread.join()
    counter.close()


def test_who_has_the_ticket_sees_the_same_memory(counter):
    ours = segment.Segment(counter.copies(), LAYOUT)
    theirs = segment.Segment(segment.fetch(counter.offer, 2), LAYOUT)
    a, b = ours.board(0), theirs.board(1)
    pin(a, 4.0, [1])
    assert read(b, 0) == 4.0
    for each in (a, b, ours, theirs):
        each.close()


@pytest.mark.parametrize("ticket", [b"", b"short", secrets.token_bytes(32)], ids=["none", "short", "wrong"])
def test_who_has_none_gets_nothing(counter, ticket):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(b"\0lockstep-" + counter.offer[:-32])
        stranger.sendall(ticket)
        stranger.shutdown(socket.SHUT_WR)
        assert socket.recv_fds(stranger, 1, 9)[:2] == (b"", [])
    assert counter.refused == 1


def test_another_user_gets_nothing_and_gives_nothing(counter, monkeypatch):
    monkeypatch.setattr(segment, "_user", lambda peer: os.getuid() + 1)
    with pytest.raises(PermissionError, match="another user's"):
        segment.fetch(counter.offer, 2)
    monkeypatch.undo()
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(b"\0lockstep-" + counter.offer[:-32])
        with pytest.raises(ConnectionError):  # closed before a byte was read
            stranger.sendall(counter.offer[-32:])
            socket.recv_fds(stranger, 1, 9)


def test_nobody_can_pull_the_memory_away(counter):
    memory, *bells = segment.fetch(counter.offer, 2)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 0)
    segment.close_all([memory, *bells])


def test_memory_that_is_not_sealed_or_of_another_size_is_refused():
    def bells():
        return [os.eventfd(0) for _ in range(2)]

    for nbytes, message in ((LAYOUT.nbytes, "not sealed"), (4096, "another size")):
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, nbytes)
        with pytest.raises(OSError, match=message):
            segment.Segment([fd, *bells()], LAYOUT)


def test_it_has_no_name(counter):
    assert not [name for name in os.listdir("/dev/shm") if "lockstep" in name]
    for fd in counter.copies():
        link = os.readlink(f"/proc/self/fd/{fd}")
        assert link.endswith("(deleted)") or link.startswith("anon_inode:")
        os.close(fd)
