"""Collectives of ranks that share memory: each reads what the others pinned up, where it is.

Contract: as in `base`, for ranks that have places on one `Board`.
- Every collective begins with a round in which each rank posts to each other one. The notes carry a mark made from the
  `Call`; a rank that sees another mark than its own says in which call it is and learns in which the other one is.
- Operands are combined in the order of the ranks, so the result does not depend on who came first, and every rank has
  the same bits.
- Two groups that have two ranks in common must make their calls in the same order on both.

An all-reduce of two ranks, and one in which a rank reads up to `direct_bytes`, takes one round: each combines all arrays itself. A
larger one of more ranks goes in pieces of a slot, each cut into one chunk a rank: every rank pins up its part of the others' chunks,
combines its own chunk from its own array and the others' slots, pins the result up into the hole that its own chunk left, and copies
the others' results. So an array is written once and read twice, whatever the number of ranks, and what is written stays in the cache.

Arrays that are to be reduced again and again can live in `homes`, memory that all ranks see: then nothing is pinned up. When all are
there, each rank combines its chunk of all arrays and writes the result into all of them; when all have, the call has ended.

Not here: waiting and failing (`same_host`, `framed`), ranks of other hosts (`zeromq`, `mpi`), the memory (`board`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from ddp.transport.base import DTYPES, Call, Deadline, Subset, Transport, chunks, divide, reduction
from ddp.transport.board import Board

# So much of an array goes at a time: slot and array are still in the cache when they are read.
HOT_BYTES = 1 << 20
LINE_BYTES = 64
# Two ranks swap slots after a call of one piece up to here (`Board.swap`): larger ones leave the cache by themselves.
SWAP_BYTES = 128 << 10

Slots = dict[int, int]  # rank -> the slot in which its note is
Arrays = Sequence[np.ndarray] | np.ndarray  # one a rank


class BoardCollectives(Transport):
    """A transport whose collectives use a board, if it has one, and else those of the next class.

    A member says whether all of its ranks are on the board (`_on_board`), where (`_places`, by rank) and how to wait.
    """

    _on_board = False
    _board: Board
    _places: list[int]
    _mark: int  # of the call under way

    @cached_property
    def _everybody(self) -> tuple[int, ...]:
        return tuple(self._others())

    @cached_property
    def _everywhere(self) -> tuple[int, ...]:
        """Their places."""
        return tuple(self._places[peer] for peer in self._others())

    # -- what a member writes -----------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        """Raise if no call can begin."""
        raise NotImplementedError

    def _await_note(self, peer: int, call: Call, deadline: Deadline) -> int:
        """The slot of the next note of `peer`."""
        raise NotImplementedError

    def _await_slot(self, readers: Sequence[int], call: Call, deadline: Deadline) -> int:
        """Claim a slot, once nobody reads it any more. `readers` are those of the next post."""
        raise NotImplementedError

    def _differ(self, peer: int, call: Call, deadline: Deadline) -> Exception:
        """Tell the others our call, wait for the peer's, and return the error."""
        raise NotImplementedError

    def _new_homes(self, ranks: Sequence[int], nbytes: int, call: Call, deadline: Deadline) -> list[np.ndarray] | None:
        """The memory for `homes` of these ranks, which are all in the call; None if one of them cannot have it."""
        raise NotImplementedError

    # -- collectives --------------------------------------------------------------------------------------------------

    def all_reduce(self, array: np.ndarray, op: str, call: Call, deadline: Deadline) -> None:
        if not self._on_board:
            return super().all_reduce(array, op, call, deadline)
        self._reduce(array, op, None, call, deadline)

    def reduce(self, array: np.ndarray, op: str, root: int, call: Call, deadline: Deadline) -> None:
        if not self._on_board:
            return super().reduce(array, op, root, call, deadline)
        self._check_root(root, call)
        self._reduce(array, op, root, call, deadline)

    def broadcast(self, array: np.ndarray, root: int, call: Call, deadline: Deadline) -> None:
        if not self._on_board:
            return super().broadcast(array, root, call, deadline)
        self._check_root(root, call)

        def fill(span: slice, slot: int) -> None:
            self._piece(self.rank, slot, span, array.dtype)[:] = array[span]

        def take(span: slice, slots: Slots) -> None:
            array[span] = self._piece(root, slots[root], span, array.dtype)

        spans = _cut(array.size, self._piece_count(array.dtype))
        if self.rank == root:
            self._rounds(spans, fill, None, self._everybody, (), call, deadline)
        else:
            self._rounds(spans, None, take, (), (root,), call, deadline)

    @property
    def fills(self) -> bool:
        return self._on_board

    def all_gather(self, array: np.ndarray, call: Call, deadline: Deadline, into: Arrays | None = None) -> Any:
        if not self._on_board:
            return super().all_gather(array, call, deadline)
        out = np.empty((self.size, array.size), array.dtype) if into is None else into
        self._gather(array, out, self._everybody, self._everybody, call, deadline)
        return out

    def gather(self, array: np.ndarray, root: int, call: Call, deadline: Deadline, into: Arrays | None = None) -> Any:
        if not self._on_board:
            return super().gather(array, root, call, deadline)
        self._check_root(root, call)
        if self.rank != root:
            self._gather(array, None, (root,), (), call, deadline)
            return None
        out = np.empty((self.size, array.size), array.dtype) if into is None else into
        self._gather(array, out, (), self._everybody, call, deadline)
        return out

    def scatter(self, array: Any, root: int, call: Call, deadline: Deadline, into: Arrays | None = None) -> np.ndarray:
        if not self._on_board:
            return super().scatter(array, root, call, deadline)
        self._check_root(root, call)
        blocks = () if self.rank != root else array if isinstance(array, list) else self._check_scatter(array, call)
        out = self._empty(call) if into is None else into[0]

        def take(span: slice, slots: Slots) -> None:
            out[span] = self._part(root, slots[root], self.rank, span, out.dtype)

        if self.rank == root:
            self._deal(blocks, None, self._everybody, (), call, deadline, out)
        else:
            self._deal((out,), take, (), (root,), call, deadline)
        return out

    def reduce_scatter(
        self, array: Any, op: str, call: Call, deadline: Deadline, into: Arrays | None = None
    ) -> np.ndarray:
        if not self._on_board:
            return super().reduce_scatter(array, op, call, deadline)
        blocks = self._rows(array, call)
        own = blocks[self.rank]
        combine = reduction(op, own.dtype, call)
        out = np.empty_like(own) if into is None else into[0]

        def take(span: slice, slots: Slots) -> None:
            operands = [own[span]] * self.size
            for peer, slot in slots.items():
                operands[peer] = self._part(peer, slot, self.rank, span, own.dtype)
            self._combine(operands, combine, out[span])

        self._deal(blocks, take, self._everybody, self._everybody, call, deadline)
        if op == "avg":
            divide(out, self.size)
        return out

    def all_to_all(self, array: Any, call: Call, deadline: Deadline, into: Arrays | None = None) -> Any:
        if not self._on_board:
            return super().all_to_all(array, call, deadline)
        blocks = self._rows(array, call)
        out = np.empty((self.size, blocks[0].size), blocks[0].dtype) if into is None else into

        def take(span: slice, slots: Slots) -> None:
            for peer, slot in slots.items():
                out[peer][span] = self._part(peer, slot, self.rank, span, out[peer].dtype)

        self._deal(blocks, take, self._everybody, self._everybody, call, deadline, out[self.rank])
        return out.reshape(-1) if isinstance(out, np.ndarray) else out

    def barrier(self, call: Call, deadline: Deadline) -> None:
        if not self._on_board:
            return super().barrier(call, deadline)
        self._together(call, deadline)

    def homes(self, nbytes: int, call: Call, deadline: Deadline) -> list[np.ndarray] | None:
        if not self._on_board:
            return super().homes(nbytes, call, deadline)
        self._together(call, deadline)
        return self._new_homes(range(self.size), nbytes, call, deadline)

    def all_reduce_homes(self, homes: Sequence[np.ndarray], op: str, call: Call, deadline: Deadline) -> None:
        """Each rank reduces its chunk of all arrays where they are, and writes the result to all of them."""
        mine = homes[self.rank]
        if not self._on_board or mine.nbytes * (self.size - 1) <= self.tuning.direct_bytes:
            return self.all_reduce(mine, op, call, deadline)
        combine = reduction(op, mine.dtype, call)
        self._open(call, deadline)
        slot = self._slot_for_all(call, deadline)
        self._arrive(slot, call, deadline)
        for span in _own_spans(mine.size, mine.itemsize, self.rank, self.size):
            hot = [home[span] for home in homes]
            result = hot[self.rank]
            self._combine(hot, combine, result)
            if op == "avg":
                divide(result, self.size)
            for peer in self._everybody:
                hot[peer][:] = result
        self._arrive(slot, call, deadline)

    # -- rounds -------------------------------------------------------------------------------------------------------

    def _rounds(
        self,
        spans: Sequence[slice],
        fill: Callable[[slice, int], None] | None,
        take: Callable[[slice, Slots], None] | None,
        readers: Sequence[int],
        writers: Sequence[int],
        call: Call,
        deadline: Deadline,
        keep: Callable[[slice], None] | None = None,
    ) -> None:
        """For each span: fill a slot for the readers, do what needs nobody else (`keep`), take from the writers' slots.

        The first round is with everybody, so that all ranks see that they are in the same call.
        """
        self._open(call, deadline)
        to: Sequence[int] = self._everybody
        source = to
        for span in spans:
            if to:
                slot = self._slot_for(to, call, deadline)
                if fill:
                    fill(span, slot)
                self._show(slot, to)
            if keep:
                keep(span)
            slots = self._notes(source, call, deadline)
            if take:
                take(span, slots)
            self._done(source)
            to, source = readers, writers
        if self._board.size == self.size == 2 and len(spans) == 1:
            if spans[0].stop * DTYPES[call.dtype].itemsize <= SWAP_BYTES:
                self._board.swap(slot, slots[1 - self.rank])

    def _together(self, call: Call, deadline: Deadline) -> None:
        """Return once all ranks are here."""
        self._open(call, deadline)
        self._arrive(self._slot_for_all(call, deadline), call, deadline)

    def _arrive(self, slot: int, call: Call, deadline: Deadline) -> None:
        """Return once all ranks are here: a round, with a slot that was claimed."""
        board = self._board
        board.post(slot, self._everywhere, self._mark)
        for peer, place in zip(self._everybody, self._everywhere):
            self._note(peer, call, deadline)
            board.done(place)

    def _reduce(self, array: np.ndarray, op: str, root: int | None, call: Call, deadline: Deadline) -> None:
        """All-reduce in place, or reduce in place on `root`."""
        combine, average = reduction(op, array.dtype, call), op == "avg"
        room = self._slot_count(array.dtype)
        self._open(call, deadline)
        if self.size == 2:
            most = self._piece_count(array.dtype)
            for piece in [array] if array.size <= most else [array[span] for span in _cut(array.size, most)]:
                self._reduce_direct(piece, combine, average, root, call, deadline)
        elif array.size <= room and array.nbytes * (self.size - 1) <= self.tuning.direct_bytes:
            self._reduce_direct(array, combine, average, root, call, deadline)
        else:
            self._reduce_pieces(array, combine, average, _cut(array.size, room), root, call, deadline)

    def _reduce_direct(
        self, array: np.ndarray, combine: np.ufunc, average: bool, root: int | None, call: Call, deadline: Deadline
    ) -> None:
        board, everywhere = self._board, self._everywhere
        span, dtype = slice(0, array.size), array.dtype
        slot = self._slot_for_all(call, deadline)
        own = board.array(board.me, slot, span, dtype)
        np.copyto(own, array)
        board.post(slot, everywhere, self._mark)
        # of more than two ranks the array may be written to before its own turn comes
        operands = [own if self.size > 2 else array] * self.size
        for peer, place in zip(self._everybody, everywhere):
            theirs = self._note(peer, call, deadline)
            operands[peer] = board.array(place, theirs, span, dtype)
        if root is None or root == self.rank:
            self._combine(operands, combine, array)
            if average:
                divide(array, self.size)
        for place in everywhere:
            board.done(place)
        if board.size == 2:
            board.swap(slot, theirs)

    def _reduce_pieces(
        self,
        array,
        combine: np.ufunc,
        average: bool,
        spans: Sequence[slice],
        root: int | None,
        call: Call,
        deadline: Deadline,
    ) -> None:
        dtype, everybody = array.dtype, self._everybody
        slot = self._pin_others_chunks(array[spans[0]], call, deadline)
        for span, following in pairwise([*spans, None]):
            piece = array[span]
            bounds = chunks(piece.size, self.size)
            own = bounds[self.rank]
            slots = self._notes(everybody, call, deadline)
            result = self._slot(self.rank, slot, own, dtype)
            operands = [piece[own]] * self.size
            for peer, theirs in slots.items():
                operands[peer] = self._slot(peer, theirs, own, dtype)
            self._combine(operands, combine, result)
            if average:
                divide(result, self.size)
            self._done(everybody)
            self._show(slot, everybody)
            if root in (None, self.rank):
                piece[own] = result
            if following is not None:  # the others can go on with the next piece while we copy the results of this one
                slot = self._pin_others_chunks(array[following], call, deadline)
            for peer in everybody:
                theirs = self._note(peer, call, deadline)
                if root in (None, self.rank):
                    piece[bounds[peer]] = self._slot(peer, theirs, bounds[peer], dtype)
                self._done((peer,))

    def _pin_others_chunks(self, piece: np.ndarray, call: Call, deadline: Deadline) -> int:
        """Pin up a piece, but for the chunk that this rank reduces itself."""
        everybody = self._everybody
        own = chunks(piece.size, self.size)[self.rank]
        slot = self._await_slot(everybody, call, deadline)
        for span in (slice(0, own.start), slice(own.stop, piece.size)):
            if span.start < span.stop:
                self._slot(self.rank, slot, span, piece.dtype)[:] = piece[span]
        self._show(slot, everybody)
        return slot

    def _gather(
        self,
        array,
        out: Arrays | None,
        readers: Sequence[int],
        writers: Sequence[int],
        call: Call,
        deadline: Deadline,
    ) -> None:
        def fill(span: slice, slot: int) -> None:
            self._piece(self.rank, slot, span, array.dtype)[:] = array[span]

        def keep(span: slice) -> None:
            if out is not None:
                out[self.rank][span] = array[span]

        def take(span: slice, slots: Slots) -> None:
            if out is not None:
                for peer, slot in slots.items():
                    out[peer][span] = self._piece(peer, slot, span, array.dtype)

        spans = _cut(array.size, self._piece_count(array.dtype))
        self._rounds(spans, fill if readers else None, take, readers, writers, call, deadline, keep)

    def _deal(
        self,
        blocks: Arrays,
        take: Callable[[slice, Slots], None] | None,
        readers: Sequence[int],
        writers: Sequence[int],
        call: Call,
        deadline: Deadline,
        own: np.ndarray | None = None,
    ) -> None:
        """Rounds in which a writer's slot holds a share for each other rank: a span of each of its blocks.

        `own` gets this rank's block.
        """
        dtype = blocks[0].dtype

        def fill(span: slice, slot: int) -> None:
            for peer in readers:
                self._part(self.rank, slot, peer, span, dtype)[:] = blocks[peer][span]

        def keep(span: slice) -> None:
            if own is not None:
                own[span] = blocks[self.rank][span]

        spans = _cut(blocks[0].size, self._part_bytes // dtype.itemsize)
        self._rounds(spans, fill if readers else None, take, readers, writers, call, deadline, keep)

    def _rows(self, array: Any, call: Call) -> Arrays:
        """The blocks of an array, or those that were given one by one."""
        if isinstance(array, list):
            return array
        self._check_blocks(array, call)
        return array.reshape(self.size, -1)

    def _combine(self, operands: Sequence[np.ndarray], combine: np.ufunc, out: np.ndarray) -> None:
        """out = the operands of all ranks, combined in the order of the ranks. That of this rank may be `out`."""
        so_far = operands[0]
        for rank in range(1, self.size):
            early = rank < self.rank and operands[self.rank] is out  # what has yet to be read must stay
            into = out if not early else so_far if rank > 1 else None
            so_far = combine(so_far, operands[rank], out=into)

    # -- notes, by rank -----------------------------------------------------------------------------------------------

    def _slot_count(self, dtype: np.dtype) -> int:
        """How many elements fit into a slot."""
        return self._board.layout.slot_bytes // dtype.itemsize

    @cached_property
    def _piece_bytes(self) -> int:
        """So much goes into a slot at a time."""
        return min(self._board.layout.slot_bytes, HOT_BYTES)

    @cached_property
    def _part_bytes(self) -> int:
        """So much of it for each other rank, where a slot is dealt out."""
        return self._piece_bytes // max(1, self.size - 1)

    def _piece_count(self, dtype: np.dtype) -> int:
        """How many elements go into a slot at a time."""
        return self._piece_bytes // dtype.itemsize

    def _slot(self, rank: int, slot: int, span: slice, dtype: np.dtype) -> np.ndarray:
        """The elements `span` of a slot."""
        return self._board.array(self._places[rank], slot, span, dtype)

    def _piece(self, rank: int, slot: int, span: slice, dtype: np.dtype) -> np.ndarray:
        """Room for array[span], at the start of a slot."""
        return self._slot(rank, slot, slice(0, span.stop - span.start), dtype)

    def _part(self, rank: int, slot: int, receiver: int, span: slice, dtype: np.dtype) -> np.ndarray:
        """Room for one receiver's block[span] in a slot that is dealt out to the other ranks."""
        start = (receiver - (receiver > rank)) * (self._part_bytes // dtype.itemsize)
        return self._slot(rank, slot, slice(start, start + span.stop - span.start), dtype)

    def _slot_for_all(self, call: Call, deadline: Deadline) -> int:
        """Claim a slot for everybody."""
        return self._slot_for(self._everybody, call, deadline)

    def _slot_for(self, readers: Sequence[int], call: Call, deadline: Deadline) -> int:
        """Claim a slot, once nobody reads it any more."""
        board = self._board
        if board.busy(self._places_of(readers)) is None:
            return board.claim()
        return self._await_slot(readers, call, deadline)

    def _places_of(self, ranks: Sequence[int]) -> Sequence[int]:
        return self._everywhere if ranks is self._everybody else [self._places[rank] for rank in ranks]

    def _show(self, slot: int, readers: Sequence[int]) -> None:
        self._board.post(slot, self._places_of(readers), self._mark)

    def _notes(self, writers: Sequence[int], call: Call, deadline: Deadline) -> Slots:
        return {peer: self._note(peer, call, deadline) for peer in writers}

    def _note(self, peer: int, call: Call, deadline: Deadline) -> int:
        """The slot of the next note of `peer`, which must be of the same call."""
        board, place = self._board, self._places[peer]
        slot = board.look(place)
        if slot is None:
            slot = self._await_note(peer, call, deadline)
        if board.mark(place, slot) != self._mark:
            raise self._differ(peer, call, deadline)
        return slot

    def _done(self, writers: Sequence[int]) -> None:
        for peer in writers:
            self._board.done(self._places[peer])

    def _open(self, call: Call, deadline: Deadline) -> None:
        """Begin a collective. An empty note to and from each rank that was not met in this generation: it has left all earlier calls."""
        self._begin(call)
        self._mark = mark(call)
        board = self._board
        if board.strangers and (new := [peer for peer in self._everybody if self._places[peer] in board.strangers]):
            self._show(self._await_slot(new, call, deadline), new)
            self._notes(new, call, deadline)
            self._done(new)
            board.strangers.difference_update(self._places[peer] for peer in new)


class HostSubset(BoardCollectives, Subset):
    """Ranks of one host, out of a transport with a board."""

    def __init__(self, whole: BoardCollectives, ranks: Sequence[int], places: list[int]):
        super().__init__(whole, ranks)
        self._on_board = True
        self._board = whole._board
        self._places = places
        self._boss = whole

    def _begin(self, call: Call) -> None:
        self._boss._begin(call)

    def _await_note(self, peer: int, call: Call, deadline: Deadline) -> int:
        return self._boss._await_note(self._ranks[peer], call, deadline)

    def _await_slot(self, readers: Sequence[int], call: Call, deadline: Deadline) -> int:
        return self._boss._await_slot([self._ranks[peer] for peer in readers], call, deadline)

    def _differ(self, peer: int, call: Call, deadline: Deadline) -> Exception:
        return self._boss._differ(self._ranks[peer], call, deadline)

    def _new_homes(self, ranks: Sequence[int], nbytes: int, call: Call, deadline: Deadline) -> list[np.ndarray] | None:
        return self._boss._new_homes([self._ranks[rank] for rank in ranks], nbytes, call, deadline)


def mark(call: Call) -> int:
    """A number that stands for a call: two ranks in different calls have, but for one case in 2**31, different ones."""
    return _digest(call[0], call[2:]) << 32 | call.number & 0xFFFFFFFF


@lru_cache(maxsize=1024)
def _digest(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode()) >> 1


@lru_cache(maxsize=1024)
def _own_spans(count: int, itemsize: int, rank: int, size: int) -> tuple[slice, ...]:
    """What a rank reduces of arrays in `homes`, in spans of HOT_BYTES: whole lines, so that no two ranks write to one."""
    line = LINE_BYTES // itemsize
    own = chunks(-(-count // line), size)[rank]
    return _cut(min(own.stop * line, count), HOT_BYTES // itemsize, own.start * line)


@lru_cache(maxsize=1024)
def _cut(stop: int, step: int, first: int = 0) -> tuple[slice, ...]:
    """first … stop in spans of at most `step`; no elements are one empty span."""
    starts = range(first, stop, step) or (first,)
    return tuple(slice(start, min(start + step, stop)) for start in starts)
