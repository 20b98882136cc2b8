"""Ranks of one host share memory: how they get it, how they wait for each other there, and what they lend instead of sending.

Contract: as in `framed` and `shared`, for a member that can tell which ranks are on this host (`_hosts`). Where one of them cannot have
the memory, none of its host does, and `without_board` says why. The connections go on telling who is alive, what went wrong and what
others wait for.
Not here: the memory (`segment`, `board`), the collectives on it (`shared`), frames and who is where (`zeromq`, `mpi`).
"""

from __future__ import annotations

import math
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ddp.env import World
from ddp.errors import DDPError, PeerLostError, WireError
from ddp.transport import segment
from ddp.transport.base import DTYPES, Call, Deadline, Subset, Transport
from ddp.transport.board import BLOCK_BYTES, BLOCKS, NAP_S, Layout
from ddp.transport.framed import FrameTransport, T
from ddp.transport.places import cores
from ddp.transport.shared import BoardCollectives, HostSubset
from ddp.wire import Frame, Kind

# From here on a message to a rank of the same host is lent, not sent. Half of what ZeroMQ and CURVE need for it.
LEND_BYTES = 8 << 10
# How long a wait on the board spins before it sleeps until the bell rings; and how long a message waits for a free block
# before it is sent.
SPIN_S = 200e-6
LEND_S = 2e-3

_SHARE = Call("share", 0, "uint8", 0)
_READY = b"ready"


class HostMemory(BoardCollectives, FrameTransport):
    """Frames between all ranks, and a board between those of this host."""

    def __init__(self, world: World):
        super().__init__(world.rank, world.size)
        self.without_board = "not set up yet"  # why; empty if there is one
        self._hosts: list[list[int]] = []  # the ranks by host
        self._places = [-1] * world.size  # where each rank is on our host's board
        self._segment: segment.Segment | None = None
        self._notices: dict[int, deque[bytes]] = {}  # about sharing, by sender
        self._nap_s = math.inf  # how long a wait for frames may take, lest the bell was missed
        self._take_turns(cores()[1], world.local_size)

    # -- what a member writes -----------------------------------------------------------------------------------------

    def _watch(self, fd: int, act: Callable[[], object]) -> None:
        """Call `act` from `_pump` when there is something to read."""
        raise NotImplementedError

    def _unwatch(self, fd: int) -> None:
        """No longer."""
        raise NotImplementedError

    def _nobody(self, missing: list[int], deadline: Deadline) -> DDPError:
        """The error when these ranks did not come in time."""
        raise NotImplementedError

    def _refused_a_stranger(self, times: int) -> None:
        """Somebody else asked for the memory."""
        raise NotImplementedError

    def _take_turns(self, processors: int, ranks: int) -> None:
        """How a wait spins where so many ranks have so many cores together."""
        self._spin_s = SPIN_S * min(1.0, processors / ranks)
        self._looks = 20 if ranks <= processors else 1  # before others may run

    # -- the transport ------------------------------------------------------------------------------------------------

    def subset(self, ranks: Sequence[int]) -> Transport:
        if not self.without_board and len(ranks) > 1 and self.rank in ranks and len(set(ranks)) == len(ranks):
            if all(0 <= rank < self.size and self._places[rank] >= 0 for rank in ranks):
                return HostSubset(self, ranks, [self._places[rank] for rank in ranks])
        return Subset(self, ranks)

    def advance(self, generation: int) -> None:
        super().advance(generation)
        if not self.without_board:
            self._board.advance(generation)

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        if not self.without_board and 0 <= peer < self.size and self._can_lend(peer, array):
            self._spin(lambda: self._board.has_block(self._gone_places()) or None, LEND_S)
        super().send(peer, array, call, deadline)

    # -- waiting on the board -----------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
        if self._closed or self._failure is not None or self._waiting:
            self._check_open(call)
            self._check_together(call)

    def _await_note(self, peer: int, call: Call, deadline: Deadline) -> int:
        return self._await(partial(self._board.look, self._places[peer]), peer, call, deadline)

    def _await_slot(self, readers: Sequence[int], call: Call, deadline: Deadline) -> int:
        places = [self._places[peer] for peer in readers]
        while (place := self._board.busy(places)) is not None:

            def finished(reader: int = place) -> bool | None:
                return None if self._board.busy(places) == reader else True

            self._await(finished, self._places.index(place), call, deadline)
        return self._board.claim()

    def _await(self, look: Callable[[], T | None], peer: int, call: Call, deadline: Deadline) -> T:
        """What `look` finds on the board. Spins for a while if it is urgent, then sleeps until the bell rings."""
        if (found := self._spin(look, self._spin_s) if self.is_urgent() else look()) is not None:
            return found
        self._board.lie_down(self._places[peer])
        self._nap_s = NAP_S
        try:
            return self._wait_for(look, peer, call, deadline)
        finally:
            self._nap_s = math.inf
            self._board.get_up()

    def _spin(self, look: Callable[[], T | None], seconds: float) -> T | None:
        """Look again and again, letting other threads and, where ranks share cores, other processes run in between."""
        until = time.perf_counter() + seconds
        while True:
            for _ in range(self._looks):
                if (found := look()) is not None:
                    return found
            if time.perf_counter() > until:
                return None
            os.sched_yield()

    def _differ(self, peer: int, call: Call, deadline: Deadline) -> DDPError:
        self._tell_all(Kind.WAITING, call, about=peer)
        theirs = self._wait_for(lambda: self._waiting.get(peer), peer, call, deadline)
        return self._mismatch(peer, theirs.call, call)

    # -- lending ------------------------------------------------------------------------------------------------------

    def _can_lend(self, peer: int, data: np.ndarray) -> bool:
        return not self.without_board and self._places[peer] >= 0 and LEND_BYTES <= data.nbytes <= BLOCK_BYTES

    def _gone_places(self) -> set[int]:
        return {self._places[peer] for peer in self._gone}

    def _lent(self, frame: Frame, peer: int, data: np.ndarray) -> tuple[Frame, np.ndarray]:
        """The frame to send for an array: one that lends it, where that is worth while and a block is free."""
        if frame.kind == Kind.DATA and self._can_lend(peer, data):
            block = self._board.lend(data, self._places[peer], self._gone_places())
            if block is not None:
                return frame._replace(kind=Kind.LENT, peer=block), data[:0]
        return frame, data

    def _borrowed(self, frame: Frame) -> np.ndarray:
        """The array that is in one of the sender's blocks, copied."""
        place = self._places[frame.sender] if frame.sender < self.size else -1
        if place < 0 or frame.peer >= BLOCKS or frame.nbytes > BLOCK_BYTES:
            raise WireError(f"frame: expected a block of a rank of this host, got block {frame.peer} of {frame.sender}")
        return self._board.take(place, frame.peer, frame.nbytes).view(DTYPES[frame.call.dtype])

    # -- getting the memory -------------------------------------------------------------------------------------------

    def _share(self, deadline: Deadline) -> None:
        """Get a board together with the ranks of this host, all of them or none."""
        host = next(host for host in self._hosts if self.rank in host)
        if not 1 < len(host) <= segment.MAX_RANKS:
            self.without_board = f"{len(host)} ranks on this host"
            return
        layout = Layout(len(host), self.tuning.slot_bytes)
        # not at every failure: the others may be further than we are
        self.without_board = self._handed_round(
            host, layout.nbytes, len(host), partial(self._map, host, layout), lambda peer: self._hear(peer, deadline)
        )
        if not self.without_board:
            self._on_board = len(host) == self.size
            self._watch(self._board.bells[self._board.me], self._board.hush)

    def _new_homes(self, ranks: Sequence[int], nbytes: int, call: Call, deadline: Deadline) -> list[np.ndarray] | None:
        step, found = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE, []

        def take(fds: list[int]) -> None:
            found.append(np.frombuffer(segment.mapped(fds[0], step * len(ranks)), np.uint8))

        def hear(peer: int) -> bytes:
            return self._wait_for(lambda: self._notice(peer), peer, call, deadline)

        if self._handed_round(ranks, step * len(ranks), 0, take, hear):
            return None
        return [found[0][i * step : i * step + nbytes] for i in range(len(ranks))]

    def _handed_round(
        self,
        ranks: Sequence[int],
        nbytes: int,
        bells: int,
        take: Callable[[list[int]], None],
        hear: Callable[[int], bytes],
    ) -> str:
        """New memory for all of `ranks`, or none of them: each gets its descriptors by `take`. Why not, if not.

        `hear` waits for a notice.
        """
        if self.rank == ranks[0]:
            return self._hand_out(ranks[1:], nbytes, bells, take, hear)
        offer, answer = hear(ranks[0]), _READY
        try:
            if offer:
                take(segment.fetch(offer, bells))
        except OSError as error:
            answer = f"rank {self.rank}: {error}".encode()
        self._notify(ranks[0], answer)
        return hear(ranks[0]).decode()

    def _hand_out(
        self,
        others: Sequence[int],
        nbytes: int,
        bells: int,
        take: Callable[[list[int]], None],
        hear: Callable[[int], bytes],
    ) -> str:
        """The first rank makes the memory and gives it to the others."""
        counter, offer, answers = None, b"", []
        try:
            counter = segment.Counter(segment.make(nbytes, bells), len(others) + 1)
            take(counter.copies())
            offer, answers = counter.offer, [_READY]
            self._watch(counter.fileno(), counter.serve)
        except OSError as error:
            answers = [f"rank {self.rank}: {error}".encode()]
        try:
            for peer in others:
                self._notify(peer, offer)
            answers += [hear(peer) for peer in others]
        finally:
            if counter is not None:
                self._unwatch(counter.fileno())
                self._refused_a_stranger(counter.refused)
                counter.close()
        verdict = next((answer for answer in answers if answer != _READY), b"")
        for peer in others:
            self._notify(peer, verdict)
        return verdict.decode()

    def _map(self, host: list[int], layout: Layout, fds: list[int]) -> None:
        """Have the board before we know whether it will be used: who knows earlier may already lend us something."""
        self._segment = segment.Segment(fds, layout)
        self._board = self._segment.board(host.index(self.rank))
        for place, rank in enumerate(host):
            self._places[rank] = place

    def _notify(self, peer: int, text: bytes) -> None:
        self._tell(peer, Kind.SHARE, _SHARE, np.frombuffer(text, np.uint8))

    def _sort(self, frame: Frame, data: np.ndarray) -> None:
        if frame.kind == Kind.SHARE:
            self._notices.setdefault(frame.sender, deque()).append(data.tobytes())
        else:
            super()._sort(frame, data)

    def _notice(self, peer: int) -> bytes | None:
        """The next notice of a peer, if there is one."""
        notices = self._notices.get(peer)
        return notices.popleft() if notices else None

    def _hear(self, peer: int, deadline: Deadline) -> bytes:
        """The next notice of a peer, while the ranks meet."""
        while (notice := self._notice(peer)) is None:
            if peer in self._gone:
                raise PeerLostError(f"rank {self.rank}: open: rank {peer} {self._gone[peer]}", rank=peer)
            if deadline.expired():
                raise self._nobody([peer], deadline)
            self._pump(deadline.remaining_s())
        return notice

    def _unshare(self) -> None:
        """Let go of the memory, if there is any."""
        if self._segment is not None:
            self._board.close()
            self._segment.close()
            self._segment, self.without_board, self._on_board = None, "closed", False
