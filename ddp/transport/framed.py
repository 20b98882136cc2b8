"""What every transport made of frames has in common: streams, mismatches, goodbyes, deaths, blame.

Contract: a member writes `_post` (hand one frame over, never wait), `_pump` (wait a little for frames and give them
to `_arrived`, deaths to `_lost`) and `_shut`. Everything said about calls, tags and errors in `ddp.transport.base`
happens here, once.

How failures spread. A rank that finds one tells all others by an ABORT frame which rank is at fault and why, and who
hears of one for the first time tells all others too; so nothing that a rank does because of a failure, leaving among
it, is seen before the failure itself. All name the same culprit and none the messenger. A rank that has waited for a
moment in a collective says so by a WAITING frame, once, with its call and the rank that it waits for, and once more
when it goes on. From these the others see that they are in a different call though no array ever meets (two ranks
that each take the other for the root), and a deadline is blamed on the end of the chain of waiting ranks, not on its
next link.

A failure is final for its generation. `advance` begins the next one among the ranks that are left: what was sent
before is dropped.

Not here: sockets, bytes, which arrays go where.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from core.errors import ArgumentError
from ddp.errors import DDPError, DeadlineError, MismatchError, PeerLostError, WireError
from ddp.transport.base import Call, Deadline, Transport
from ddp.wire import MAX_PAYLOAD_BYTES, MAX_TEXT_BYTES, Frame, Kind

# How long a rank waits in a collective before it tells the others where it is.
WAITING_AFTER_S = 0.5

# How a peer went that said goodbye.
LEFT = "has left: it closed its transport before this call"

T = TypeVar("T")

_NOTHING = np.empty(0, np.uint8)


class Failure(NamedTuple):
    """Why nothing goes on: one of ERRORS, the rank at fault, and a text for people."""

    sort: str
    rank: int
    text: str


ERRORS: dict[str, type[DDPError]] = {
    "lost": PeerLostError,
    "deadline": DeadlineError,
    "mismatch": MismatchError,
    "wire": WireError,
}


class FrameTransport(Transport):
    """A transport whose member moves frames; see the module."""

    def __init__(self, rank: int, size: int):
        super().__init__(rank, size)
        self.generation = 0
        self.dropped_frames = 0  # of another job, of a past generation, replayed, or no frames at all
        self._sent = [0] * size
        self._seen = [0] * size
        self._streams: dict[tuple[int, ...], deque[tuple[Call, np.ndarray]]] = {}
        self._early: list[tuple[Frame, np.ndarray]] = []  # of a generation that this rank has yet to reach
        self._waiting: dict[int, Frame] = {}  # by sender
        self._gone: dict[int, str] = {}  # peer -> how it went
        self._failure: Failure | None = None
        self._closed = False

    # -- what a member writes ---------------------------------------------------------------------------------------

    def _post(self, frame: Frame, peer: int, data: np.ndarray) -> bool:
        """Hand a frame over without waiting. False: there is no connection any more, and `_pump` will report why."""
        raise NotImplementedError

    def _pump(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for something to happen, and report it by `_arrived` or `_lost`. May return early."""
        raise NotImplementedError

    def _shut(self) -> None:
        """Free everything, after the goodbyes."""
        raise NotImplementedError

    # -- the transport ------------------------------------------------------------------------------------------------

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        self._check_peer(peer, call)
        self._check_open(call)
        if array.nbytes > MAX_PAYLOAD_BYTES:
            raise ArgumentError(
                f"rank {self.rank}: {call}: expected a message of at most {MAX_PAYLOAD_BYTES} bytes, "
                f"got {array.nbytes}; use send_pieces"
            )
        if self._failure is not None:  # what a failed rank sends would only confuse those who do not know yet
            raise self._error(call)
        while peer in self._gone or not self._tell(peer, Kind.DATA, call, array):
            self._refuse(peer, call)
            if deadline.expired():
                raise deadline.error(self.rank, peer, call)
            self._pump(deadline.remaining_s())

    def recv(self, peer: int, call: Call, deadline: Deadline) -> np.ndarray:
        self._check_peer(peer, call)
        self._check_open(call)
        return self._wait_for(lambda: self._take(peer, call), peer, call, deadline)

    def flush(self, deadline: Deadline) -> None:
        """Nothing to wait for: members copy in `_post`, or say otherwise."""

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._tell_all(Kind.GOODBYE, _PLAIN)
            self._shut()

    def abort(self, reason: str) -> None:
        if not self._closed and self._failure is None:
            self._fail(Failure("lost", self.rank, f"rank {self.rank} gave up: {reason}"))
        self.close()

    def advance(self, generation: int) -> None:
        """Forget the failure and all that was sent in earlier generations. Ranks that are gone stay gone."""
        if generation <= self.generation:
            raise ArgumentError(
                f"rank {self.rank}: advance: expected a generation after {self.generation}, got {generation}"
            )
        self.generation = generation
        self._failure = None
        self._streams.clear()
        self._waiting.clear()
        early, self._early = self._early, []
        for frame, data in early:
            self._sort(frame, data)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def _wait_for(self, look: Callable[[], T | None], peer: int, call: Call, deadline: Deadline) -> T:
        """What `look` finds, once it finds something. It is `peer` who keeps us waiting."""
        silent = call.collective
        until = time.monotonic() + min(WAITING_AFTER_S, deadline.remaining_s() / 2) if silent else deadline.at
        while (found := look()) is None:
            self._refuse(peer, call)
            if deadline.expired():
                raise self._late(peer, call, deadline)
            self._pump(max(0.0, until - time.monotonic()))
            if silent and time.monotonic() >= until:
                silent, until = False, deadline.at
                self._tell_all(Kind.WAITING, call, about=peer)
        if call.collective and not silent:
            self._tell_all(Kind.WAITING, call, about=self.rank)
        return found

    # -- what arrives -------------------------------------------------------------------------------------------------

    def _arrived(self, frame: Frame, data: np.ndarray) -> None:
        """File a frame. `data` is its payload, which nobody else will change."""
        sender = frame.sender
        if sender >= self.size or sender == self.rank or frame.counter < self._seen[sender]:
            self.dropped_frames += 1
            return
        if frame.counter > self._seen[sender]:
            text = f"expected frame {self._seen[sender]} from rank {sender}, got {frame.counter}; frames were lost"
            self._fail(Failure("wire", sender, text))
        self._seen[sender] = frame.counter + 1
        self._sort(frame, data)

    def _sort(self, frame: Frame, data: np.ndarray) -> None:
        sender = frame.sender
        if frame.kind == Kind.GOODBYE:
            self._gone.setdefault(sender, LEFT)
        elif frame.generation > self.generation:
            self._early.append((frame, data))
        elif frame.generation < self.generation:
            self.dropped_frames += 1
        elif frame.kind == Kind.WAITING:
            if frame.peer == sender:
                self._waiting.pop(sender, None)
            else:
                self._waiting[sender] = frame
        elif frame.kind == Kind.ABORT:
            sort = frame.call.detail if frame.call.detail in ERRORS else "lost"
            self._fail(Failure(sort, frame.peer, data.tobytes()[:MAX_TEXT_BYTES].decode("utf-8", "replace")))
        elif frame.kind == Kind.DATA:
            self._streams.setdefault(_stream(sender, frame.call), deque()).append((frame.call, data))

    def _lost(self, peer: int) -> None:
        """The connection to a peer ended. After a goodbye that is as it should be; else the peer died."""
        if peer not in self._gone:
            self._gone[peer] = "died: its connection ended without a goodbye"
            self._fail(Failure("lost", peer, f"rank {peer} {self._gone[peer]}"))

    def _take(self, peer: int, call: Call) -> np.ndarray | None:
        """The next array of the call's stream, if there is one."""
        key = _stream(peer, call)
        stream = self._streams.get(key)
        if stream is None:
            return None
        theirs, array = stream.popleft()
        if not stream:
            del self._streams[key]
        if theirs != call:
            raise self._mismatch(peer, theirs, call)
        return array

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def _check_open(self, call: Call) -> None:
        if self._closed:
            raise DDPError(f"rank {self.rank}: {call}: expected an open transport, got one that was closed")

    def _refuse(self, peer: int, call: Call) -> None:
        """Raise if waiting for `peer` in `call` is in vain."""
        self._check_together(call)
        if peer in self._gone:
            text = f"rank {peer} {self._gone[peer]}"
            if call.collective:
                self._fail(Failure("lost", peer, text))
            raise PeerLostError(f"rank {self.rank}: {call}: {text}", rank=peer)

    def _check_together(self, call: Call) -> None:
        """Raise if the job has failed, or if a waiting rank is in another call than this one."""
        if self._failure is not None:
            raise self._error(call)
        if call.collective:
            for other, frame in self._waiting.items():
                theirs = frame.call
                if (theirs.group, theirs.number) == (call.group, call.number) and theirs != call:
                    raise self._mismatch(other, theirs, call)

    def _mismatch(self, peer: int, theirs: Call, call: Call) -> DDPError:
        text = (
            f"expected rank {peer} in the same call as rank {self.rank}, {call}, got {theirs}; "
            f"all ranks must make the same calls in the same order, with the same shapes, dtypes and roots"
        )
        if not call.collective:  # two ranks disagree about one message; the others are not concerned
            return MismatchError(f"rank {self.rank}: {call}: {text}")
        self._fail(Failure("mismatch", peer, text))
        return self._error(call)

    def _late(self, peer: int, call: Call, deadline: Deadline) -> DDPError:
        if not call.collective:
            return deadline.error(self.rank, peer, call)
        culprit, chain = peer, {self.rank}
        while culprit not in chain and culprit in self._waiting:
            chain.add(culprit)
            culprit = self._waiting[culprit].peer
        if culprit in chain:
            culprit = peer
        self._fail(Failure("deadline", culprit, deadline.text(culprit)))
        return self._error(call)

    def _error(self, call: Call) -> DDPError:
        assert self._failure is not None
        sort, rank, text = self._failure
        message = f"rank {self.rank}: {call}: {text}"
        kind = ERRORS[sort]
        return kind(message, rank=rank) if issubclass(kind, PeerLostError | DeadlineError) else kind(message)

    def _fail(self, failure: Failure) -> None:
        """Keep the first failure that this rank learns of, and tell the others."""
        if self._failure is None:
            self._failure = failure
            text = np.frombuffer(failure.text.encode()[:MAX_TEXT_BYTES], np.uint8)
            self._tell_all(Kind.ABORT, Call("abort", 0, "uint8", text.size, failure.sort), text, about=failure.rank)

    # -- frames out ---------------------------------------------------------------------------------------------------

    def _tell(self, peer: int, kind: Kind, call: Call, data: np.ndarray = _NOTHING, about: int = 0) -> bool:
        frame = Frame(kind, self.rank, call, self._sent[peer], data.nbytes, self.generation, about)
        posted = self._post(frame, peer, data)
        self._sent[peer] += posted
        return posted

    def _tell_all(self, kind: Kind, call: Call, data: np.ndarray = _NOTHING, about: int = 0) -> None:
        for peer in self._others():
            if peer not in self._gone:
                self._tell(peer, kind, call, data, about)


_PLAIN = Call("", 0, "uint8", 0)  # of frames that belong to no call


def _stream(peer: int, call: Call) -> tuple[int, ...]:
    return (peer, call.group) if call.collective else (peer, call.group, call.number)
