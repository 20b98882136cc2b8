"""ZeroMQ: frames between processes over Unix sockets inside a host and TCP between hosts, with no library but a wheel;
inside a host, what is large or urgent goes through shared memory instead.

Contract
- *Who gets in.* Every connection is CURVE: encrypted, and authenticated in both directions. From the job's secret,
  which the launcher hands over in a file, each rank derives the one key pair of the job; a peer must prove that it
  has the same. Strangers are refused and counted (`refused_peers`), and so are frames that are none of this job's
  (`dropped_frames`); neither disturbs the job.
- *Who listens where.* All ranks on one Linux host: abstract Unix sockets, which leave nothing on disk. Otherwise TCP,
  bound to the one interface that faces rank 0's address (IPv4), on ports that the system chooses; rank 0 alone
  listens on a known port, while the job starts.
- *How the ranks meet.* All report the address of their ROUTER to rank 0, which answers with the list once it is
  complete. Then each rank connects one DEALER to each peer's ROUTER and sends through it; so a connection carries
  frames one way, and both ends see it end.
- *Shared memory.* Ranks of one host (one kernel, network namespace and user) share a `board`: collectives among them
  run there, and messages of LEND_BYTES and more are lent from there. It is set up by the connections, which go on
  telling who is alive, what went wrong and what others wait for. Where one of the ranks cannot have it, none of its
  host does, and `without_board` says why; LOCKSTEP_SHARED_MEMORY=0 switches it off. It takes up to
  SLOTS × tuning.slot_bytes + BLOCKS × BLOCK_BYTES a rank (10 MiB by default), of which only what is used is real.
- *Several hosts.* An all-reduce is a reduce inside each host, an all-reduce among the first ranks of the hosts, and a
  broadcast inside each host. The other collectives are the plain ones.
- *Death.* Nothing reconnects. A connection that ends is a peer that left (its goodbye came) or died (none came). A
  process that is killed is noticed within GRACE_S, wherever the others wait; one that is stopped, or a host that
  vanishes, by the deadline.

Limits: about six file descriptors a peer, so `ulimit -n 1024` is enough for 150 ranks.
Not here: what the frames mean (`framed`), the launcher that makes the secret.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import itertools
import json
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from ddp.env import World
from ddp.errors import DDPError, DeadlineError, PeerLostError, WireError, WorldError
from ddp.transport import segment, tuning
from ddp.transport.base import DTYPES, Call, Deadline, Subset, Transport, divide, reduction
from ddp.transport.board import BLOCK_BYTES, BLOCKS, NAP_S, Layout
from ddp.transport.framed import FrameTransport, T
from ddp.transport.loopback import LoopbackTransport
from ddp.transport.shared import BoardCollectives, HostSubset
from ddp.wire import MAX_PAYLOAD_BYTES, Frame, Kind, job_id, pack, payload, unpack

# After a connection ended, how long the last frames that came before may take to be seen. They come by another socket.
GRACE_S = 0.05
# From here on an array is sent from where it is: a copy and its page faults less, but a detour by the thread of pyzmq
# that frees it.
ZERO_COPY_BYTES = 64 << 10
# How long closing waits for goodbyes to be written to peers that do not read.
LINGER_MS = 1000
# How often a rank knocks at rank 0's door until that is open.
KNOCK_MS = 10
# Pings in the time of a heartbeat. ZeroMQ's own thread sends and answers them.
PINGS = 8
# From here on a message to a rank of the same host is lent, not sent. Half of what ZeroMQ and CURVE need for it.
LEND_BYTES = 8 << 10
# How long a wait on the board spins before it sleeps until the bell rings; and how long a message waits for a free block
# before it is sent.
SPIN_S = 200e-6
LEND_S = 2e-3
# What CURVE adds to a message.
_SEAL_BYTES = 64

_HELLO = Call("hello", 0, "uint8", 0)
_SHARE = Call("share", 0, "uint8", 0)
_READY = b"ready"
_REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_ENDS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED


class ZMQTransport(BoardCollectives, FrameTransport):
    name = "zmq"

    @classmethod
    def open(cls, world: World, timeout_s: float) -> Transport:
        if world.size == 1:
            return LoopbackTransport.open(world, timeout_s)
        transport = cls(world, read_secret(world))
        try:
            deadline = Deadline.after(timeout_s)
            transport._meet(world, deadline)
            transport._share(deadline)
        except BaseException:
            transport._closed = True
            transport._shut()
            raise
        return transport

    def __init__(self, world: World, secret: bytes):
        super().__init__(world.rank, world.size)
        self.refused_peers = 0
        self._job = job_id(world.job)
        self._keys = job_keys(secret)
        self._dealers: dict[int, zmq.Socket] = {}
        self._suspects: dict[int, float] = {}  # peers whose connection ended -> when we last heard of them
        self._unsent: list[tuple[int, zmq.MessageTracker]] = []
        self._up: set[int] = set()  # peers that let us in
        self._met: set[int] = set()  # peers that said hello
        self.without_board = "not set up yet"  # why; empty if there is one
        self._hosts: list[list[int]] = []  # the ranks by host
        self._places = [-1] * world.size  # where each rank is on our host's board
        self._segment: segment.Segment | None = None
        self._notices: dict[int, deque[bytes]] = {}  # about sharing, by sender
        self._nap_s = math.inf
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
        self._spin_s = SPIN_S * min(1.0, cores / world.local_size)
        self._looks = 20 if world.local_size <= cores else 1  # before others may run
        self._serial = itertools.count()
        self._context = zmq.Context()
        self._context.max_sockets = 64 + 4 * world.size
        self._poller = zmq.Poller()
        self._monitors: dict[zmq.Socket, zmq.Socket] = {}  # socket -> where its events are read
        self._on: dict[zmq.Socket | int, Callable[[], object]] = {}  # what to do when there is something to read
        self._guard = self._context.socket(zmq.REP)
        self._guard.bind("inproc://zeromq.zap.01")
        self._watch(self._guard, self._admit)
        self._router = self._server()
        self._watch(self._router, self._receive)

    # -- collectives ------------------------------------------------------------------------------------------------

    def all_reduce(self, array: np.ndarray, op: str, call: Call, deadline: Deadline) -> None:
        if self._on_board or len(self._hosts) in (1, self.size):
            return super().all_reduce(array, op, call, deadline)
        reduction(op, array.dtype, call)
        host = next(host for host in self._hosts if self.rank in host)
        inside, first_of_hosts = self.subset(host), [host[0] for host in self._hosts]
        partly = "sum" if op == "avg" else op
        inside.reduce(array, partly, 0, call, deadline)
        if self.rank in first_of_hosts:
            self.subset(first_of_hosts).all_reduce(array, partly, call, deadline)
        inside.broadcast(array, 0, call, deadline)
        if op == "avg":
            divide(array, self.size)

    def subset(self, ranks: Sequence[int]) -> Transport:
        if not self.without_board and len(ranks) > 1 and self.rank in ranks and len(set(ranks)) == len(ranks):
            if all(0 <= rank < self.size and self._places[rank] >= 0 for rank in ranks):
                return HostSubset(self, ranks, [self._places[rank] for rank in ranks])
        return Subset(self, ranks)

    def advance(self, generation: int) -> None:
        super().advance(generation)
        if not self.without_board:
            self._board.advance(generation)

    # -- waiting on the board ---------------------------------------------------------------------------------------

    def _begin(self, call: Call) -> None:
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

    # -- frames -----------------------------------------------------------------------------------------------------

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        if not self.without_board and 0 <= peer < self.size and self._can_lend(peer, array):
            self._spin(lambda: self._board.has_block(self._gone_places()) or None, LEND_S)
        super().send(peer, array, call, deadline)

    def flush(self, deadline: Deadline) -> None:
        """Wait for ZeroMQ's own threads, here and at the peers. When a connection ends, its arrays are let go."""
        while self._unsent:
            peer, tracker = self._unsent[-1]
            try:
                tracker.wait(min(GRACE_S, deadline.remaining_s()))
                self._unsent.pop()
            except zmq.NotDone:
                if deadline.expired():
                    raise DeadlineError(f"rank {self.rank}: flush: {deadline.text(peer)}", rank=peer) from None
                self._pump(0.0)

    def _post(self, frame: Frame, peer: int, data: np.ndarray) -> bool:
        dealer = self._dealers.get(peer)
        if dealer is None:
            return False
        if frame.kind == Kind.DATA and self._can_lend(peer, data):
            block = self._board.lend(data, self._places[peer], self._gone_places())
            if block is not None:
                frame, data = frame._replace(kind=Kind.LENT, peer=block), data[:0]
        try:
            dealer.send(pack(frame, self._job), zmq.NOBLOCK | zmq.SNDMORE)
            body = data.view(np.uint8).data  # NumPy exports no buffer of bfloat16
            if data.nbytes < ZERO_COPY_BYTES:
                dealer.send(body, zmq.NOBLOCK)
            else:
                self._unsent.append((peer, dealer.send(body, zmq.NOBLOCK, copy=False, track=True)))
        except zmq.Again:  # queues have no limit, so this means that the connection is gone
            return False
        return True

    def _can_lend(self, peer: int, data: np.ndarray) -> bool:
        return not self.without_board and self._places[peer] >= 0 and LEND_BYTES <= data.nbytes <= BLOCK_BYTES

    def _gone_places(self) -> set[int]:
        return {self._places[peer] for peer in self._gone}

    def _pump(self, timeout_s: float) -> None:
        if self._receive():
            return
        timeout_s = min(timeout_s, self._nap_s)
        if self._suspects:
            timeout_s = min(timeout_s, GRACE_S / 2)
        for ready, _ in self._poller.poll(math.ceil(timeout_s * 1000)):
            if act := self._on.get(ready):  # an earlier one of this round may have closed it
                act()
        for peer, since in list(self._suspects.items()):
            if peer in self._gone or time.monotonic() > since + GRACE_S:
                del self._suspects[peer]
                self._hang_up(peer)
                self._lost(peer)

    def _receive(self) -> bool:
        """Take one message from the ROUTER, if there is one."""
        try:
            parts = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        try:
            identity, header, data = parts
            frame = unpack(header.buffer, self._job)
            if identity.bytes != _identity(frame.sender):
                raise WireError(f"frame: expected sender {frame.sender} to be {_identity(frame.sender)!r}")
            if frame.kind == Kind.LENT:
                frame, array = frame._replace(kind=Kind.DATA), self._borrowed(frame)
            else:
                array = payload(frame, data.buffer)
        except (WireError, ValueError):  # ValueError: not three parts
            self.dropped_frames += 1
            return True
        if frame.sender in self._suspects:
            self._suspects[frame.sender] = time.monotonic()
        if frame.kind == Kind.HELLO:
            self._met.add(frame.sender)
        elif frame.kind == Kind.SHARE:
            self._notices.setdefault(frame.sender, deque()).append(array.tobytes())
        self._arrived(frame, array)
        return True

    def _borrowed(self, frame: Frame) -> np.ndarray:
        """The array that is in one of the sender's blocks, copied."""
        place = self._places[frame.sender] if frame.sender < self.size else -1
        if place < 0 or frame.peer >= BLOCKS or frame.nbytes > BLOCK_BYTES:
            raise WireError(f"frame: expected a block of a rank of this host, got block {frame.peer} of {frame.sender}")
        return self._board.take(place, frame.peer, frame.nbytes).view(DTYPES[frame.call.dtype])

    def _shut(self) -> None:
        for peer in list(self._dealers):
            self._hang_up(peer, linger_ms=LINGER_MS)
        self._context.destroy(linger=0)
        if self._segment is not None:
            self._board.close()
            self._segment.close()
            self._segment, self.without_board, self._on_board = None, "closed", False

    # -- meeting ----------------------------------------------------------------------------------------------------

    def _meet(self, world: World, deadline: Deadline) -> None:
        """Learn the peers' addresses, connect to all of them, and see that all of them connected to us."""
        door, own = addresses(world, self._job.hex())
        self._bind(self._router, own)
        here = {"at": self._router.getsockopt_string(zmq.LAST_ENDPOINT), "host": host_of(world)}
        everybody = self._keep_door(door, here, deadline) if self.rank == 0 else self._knock(door, here, deadline)
        endpoints = [each["at"] for each in everybody["ranks"]]
        self.tuning = tuning.checked(everybody["tuning"], f"rank {self.rank}: open: rank 0's table")
        self._hosts = by_host([each["host"] for each in everybody["ranks"]])
        for peer in self._others():
            self._dial(peer, endpoints[peer])
        while missing := [peer for peer in self._others() if peer not in self._up & self._met]:
            # Not at every failure: peers may have met, gone on and failed while we are still on our way.
            if gone := [peer for peer in missing if peer in self._gone]:
                raise PeerLostError(f"rank {self.rank}: open: rank {gone[0]} {self._gone[gone[0]]}", rank=gone[0])
            if deadline.expired():
                raise self._nobody(missing, deadline)
            self._pump(deadline.remaining_s())

    def _keep_door(self, address: str, here: dict[str, str], deadline: Deadline) -> dict[str, Any]:
        """Rank 0: collect everybody's address and give everybody the list."""
        door, table = self._server(), dataclasses.asdict(tuning.load())
        found: dict[int, tuple[bytes, dict[str, str]]] = {0: (b"", here)}

        def greet() -> None:
            try:
                identity, header, data = door.recv_multipart(zmq.NOBLOCK)
                frame = unpack(header, self._job)
                if frame.kind != Kind.HELLO or not 0 < frame.sender < self.size or identity != _identity(frame.sender):
                    raise WireError("door: expected the hello of a rank")
                there = json.loads(payload(frame, data).tobytes())
                found[frame.sender] = (identity, {"at": str(there["at"]), "host": str(there["host"])})
            except (WireError, ValueError, KeyError, TypeError):
                self.dropped_frames += 1

        def refused(event: int) -> None:  # who has no idea of the key fails before the guard is asked
            self.refused_peers += 1

        def answer(kind: Kind, text: str) -> None:
            data = text.encode()
            frame = Frame(kind, 0, _HELLO, 0, len(data))
            for identity, _ in list(found.values())[1:]:
                door.send_multipart((identity, pack(frame, self._job), data))

        self._watch(door, greet)
        self._monitor(door, _REFUSALS, refused)
        self._bind(door, address)
        # A little early, so that rank 0's account of who is missing reaches the others before they give up.
        soon = Deadline.after(0.9 * deadline.remaining_s())
        try:
            while len(found) < self.size:
                if soon.expired():
                    error = self._nobody([rank for rank in self._others() if rank not in found], deadline)
                    answer(Kind.ABORT, str(error))
                    raise error
                self._pump(soon.remaining_s())
            everybody = {"ranks": [found[rank][1] for rank in range(self.size)], "tuning": table}
            answer(Kind.HELLO, json.dumps(everybody))
            return everybody
        finally:
            self._unwatch(door)
            self._close(door, LINGER_MS)

    def _knock(self, address: str, here: dict[str, str], deadline: Deadline) -> dict[str, Any]:
        """The other ranks: tell rank 0 our address and get the list."""
        client = self._client(reconnect_ms=KNOCK_MS)
        data = json.dumps(here).encode()
        hello = (pack(Frame(Kind.HELLO, self.rank, _HELLO, 0, len(data)), self._job), data)
        answers: list[list[bytes]] = []
        self._watch(client, lambda: answers.append(client.recv_multipart(zmq.NOBLOCK)))
        try:
            client.connect(address)
            client.send_multipart(hello)
            while not answers:
                if deadline.expired():
                    raise self._nobody([0], deadline)
                self._pump(deadline.remaining_s())
        finally:
            self._unwatch(client)
            self._close(client)
        header, data = answers[0]
        frame = unpack(header, self._job)
        text = payload(frame, data).tobytes().decode()
        if frame.kind != Kind.HELLO:
            raise DeadlineError(f"rank {self.rank}: open: told by {text}", rank=0)
        everybody = json.loads(text)
        if len(everybody["ranks"]) != self.size:
            raise WorldError(
                f"rank {self.rank}: open: expected {self.size} ranks, got {len(everybody['ranks'])} from rank 0; "
                f"start all ranks with the same size"
            )
        return everybody

    def _nobody(self, missing: list[int], deadline: Deadline) -> DeadlineError:
        return DeadlineError(
            f"rank {self.rank}: open: expected all {self.size} ranks to meet within {deadline.timeout_s:g} s, "
            f"missing: {', '.join(map(str, missing))}; refused for a wrong key: {self.refused_peers}; "
            f"see that these ranks run, with the same job name and key file",
            rank=missing[0],
        )

    # -- sharing memory ---------------------------------------------------------------------------------------------

    def _share(self, deadline: Deadline) -> None:
        """Get a board together with the ranks of this host, all of them or none."""
        host = next(host for host in self._hosts if self.rank in host)
        if not 1 < len(host) <= segment.MAX_RANKS:
            self.without_board = f"{len(host)} ranks on this host"
            return
        layout = Layout(len(host), self.tuning.slot_bytes)
        share = self._share_out if self.rank == host[0] else self._share_in
        self.without_board = share(host, layout, deadline)
        if not self.without_board:
            self._on_board = len(host) == self.size
            self._watch(self._board.bells[self._board.me], self._board.hush)

    def _share_out(self, host: list[int], layout: Layout, deadline: Deadline) -> str:
        """The host's first rank makes the memory and gives it to the others. Why not, if not."""
        counter, offer, answers = None, b"", []
        try:
            counter = segment.Counter(segment.make(layout), len(host))
            self._map(counter.copies(), host, layout)
            offer, answers = counter.offer, [_READY]
            self._watch(counter.fileno(), counter.serve)
        except OSError as error:
            answers = [f"rank {self.rank}: {error}".encode()]
        try:
            for peer in host[1:]:
                self._notify(peer, offer)
            answers += [self._hear(peer, deadline) for peer in host[1:]]
        finally:
            if counter is not None:
                self._unwatch(counter.fileno())
                self.refused_peers += counter.refused
                counter.close()
        verdict = next((answer for answer in answers if answer != _READY), b"")
        for peer in host[1:]:
            self._notify(peer, verdict)
        return verdict.decode()

    def _share_in(self, host: list[int], layout: Layout, deadline: Deadline) -> str:
        """The other ranks take it from there. Why not, if not."""
        offer, answer = self._hear(host[0], deadline), _READY
        try:
            if offer:
                self._map(segment.fetch(offer, len(host)), host, layout)
        except OSError as error:
            answer = f"rank {self.rank}: {error}".encode()
        self._notify(host[0], answer)
        return self._hear(host[0], deadline).decode()

    def _map(self, fds: list[int], host: list[int], layout: Layout) -> None:
        """Have the board before we know whether it will be used: who knows earlier may already lend us something."""
        self._segment = segment.Segment(fds, layout)
        self._board = self._segment.board(host.index(self.rank))
        for place, rank in enumerate(host):
            self._places[rank] = place

    def _notify(self, peer: int, text: bytes) -> None:
        self._tell(peer, Kind.SHARE, _SHARE, np.frombuffer(text, np.uint8))

    def _hear(self, peer: int, deadline: Deadline) -> bytes:
        """The next notice of a peer. Not at every failure: the others may be further than we are."""
        while not (notices := self._notices.get(peer)):
            if peer in self._gone:
                raise PeerLostError(f"rank {self.rank}: open: rank {peer} {self._gone[peer]}", rank=peer)
            if deadline.expired():
                raise self._nobody([peer], deadline)
            self._pump(deadline.remaining_s())
        return notices.popleft()

    def _dial(self, peer: int, address: str, heartbeat_ms: int = 0) -> None:
        """Connect to a peer; `_noticed` hears how it goes. With a heartbeat, one that is stopped for so long is lost."""
        self._dealers[peer] = dealer = self._client(reconnect_ms=-1)
        dealer.immediate = True  # a connection that ends takes its queue along: nothing lingers for who is gone
        dealer.heartbeat_ivl, dealer.heartbeat_timeout = heartbeat_ms // PINGS, heartbeat_ms
        self._monitor(dealer, zmq.EVENT_HANDSHAKE_SUCCEEDED | _REFUSALS | _ENDS, partial(self._noticed, peer))
        dealer.connect(address)

    # -- sockets ----------------------------------------------------------------------------------------------------

    def _server(self) -> zmq.Socket:
        server = self._context.socket(zmq.ROUTER)
        server.curve_server = True
        server.curve_publickey, server.curve_secretkey = self._keys
        server.zap_domain = b"lockstep"
        server.backlog = 16 + self.size
        server.rcvhwm = server.sndhwm = 0  # `send` never waits; how much is on its way is bounded by the collectives
        server.maxmsgsize = MAX_PAYLOAD_BYTES + _SEAL_BYTES
        return server

    def _client(self, reconnect_ms: int) -> zmq.Socket:
        client = self._context.socket(zmq.DEALER)
        client.curve_publickey, client.curve_secretkey = self._keys
        client.curve_serverkey = self._keys[0]
        client.routing_id = _identity(self.rank)
        client.rcvhwm = client.sndhwm = 0
        client.maxmsgsize = MAX_PAYLOAD_BYTES + _SEAL_BYTES
        client.reconnect_ivl = reconnect_ms
        return client

    def _bind(self, server: zmq.Socket, address: str) -> None:
        try:
            server.bind(address)
        except zmq.ZMQError as error:
            raise WorldError(
                f"rank {self.rank}: open: expected to listen on {address}, got: {error}; "
                f"another job may have the same name or port"
            ) from None

    def _watch(self, each: zmq.Socket | int, act: Callable[[], object]) -> None:
        self._on[each] = act
        self._poller.register(each, zmq.POLLIN)

    def _unwatch(self, each: zmq.Socket | int) -> None:
        if self._on.pop(each, None):
            self._poller.unregister(each)

    def _admit(self) -> None:
        """Answer ZeroMQ's question (ZAP, RFC 27) whether a client may come in: only with the job's own key."""
        _, request, _, _, _, mechanism, *credentials = self._guard.recv_multipart(zmq.NOBLOCK)
        welcome = mechanism == b"CURVE" and hmac.compare_digest(credentials[0], z85.decode(self._keys[0]))
        self.refused_peers += not welcome
        status = (b"200", b"OK") if welcome else (b"400", b"not of this job")
        self._guard.send_multipart((b"1.0", request, *status, b"", b""))

    def _noticed(self, peer: int, event: int) -> None:
        """Something happened to our connection to a peer."""
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._up.add(peer)
            self._tell(peer, Kind.HELLO, _HELLO)
        else:
            self._suspects.setdefault(peer, time.monotonic())

    def _hang_up(self, peer: int, linger_ms: int = 0) -> None:
        if dealer := self._dealers.pop(peer, None):
            self._close(dealer, linger_ms)

    def _monitor(self, each: zmq.Socket, events: int, act: Callable[[int], None]) -> None:
        """Call act(event) from `_pump` when one of the events happens to a socket."""
        reader = self._context.socket(zmq.PAIR)
        reader.rcvhwm = 0  # a full queue would stop ZeroMQ's own thread
        address = f"inproc://monitor-{next(self._serial)}"
        each.monitor(address, events)
        reader.connect(address)
        self._monitors[each] = reader
        self._watch(reader, lambda: act(parse_monitor_message(reader.recv_multipart(zmq.NOBLOCK))["event"]))

    def _close(self, each: zmq.Socket, linger_ms: int = 0) -> None:
        if reader := self._monitors.pop(each, None):
            each.monitor(None, 0)  # before its reader goes: ZeroMQ's thread waits for ever for a reader that is gone
            self._unwatch(reader)
            reader.close(linger=0)
        each.close(linger=linger_ms)


def _identity(rank: int) -> bytes:
    return b"rank %d" % rank


def read_secret(world: World) -> bytes:
    """The 32 bytes of the job's secret, from the file that the launcher names. They appear in no message."""
    remedy = (
        "start with ddprun, or set LOCKSTEP_KEY_FILE to a file with 64 hex characters, mode 0600, the same everywhere"
    )
    where = f"rank {world.rank}: open"
    if not world.key_file:
        raise WorldError(f"{where}: expected the job's key file, got none; {remedy}")
    try:
        with open(world.key_file, encoding="ascii") as file:
            info = os.fstat(file.fileno())
            text = file.read(66).strip()  # 64 and a line end
    except (OSError, UnicodeDecodeError) as error:
        raise WorldError(
            f"{where}: expected a readable key file, got {type(error).__name__}: {world.key_file}; {remedy}"
        ) from None
    if info.st_nlink and info.st_mode & 0o077:  # no link: a file in memory, seen by those who inherited it
        raise WorldError(
            f"{where}: expected a key file that only its owner can read, got mode {info.st_mode & 0o777:04o}; "
            f"chmod 600 {world.key_file}"
        )
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) != 32:
        raise WorldError(f"{where}: expected 64 hex characters in {world.key_file}, got something else; {remedy}")
    return secret


def job_keys(secret: bytes) -> tuple[bytes, bytes]:
    """The CURVE key pair (public, secret) in Z85. All ranks have the same: it stands for the job, not for a rank."""
    private = z85.encode(hashlib.sha256(b"lockstep curve\0" + secret).digest())
    return zmq.curve_public(private), private


def host_of(world: World) -> str:
    """A name for where this rank is: two ranks with the same one can share memory. Empty if it wants to be alone."""
    if not segment.available() or os.environ.get("LOCKSTEP_SHARED_MEMORY") == "0":
        return ""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts = (file.read(), os.readlink("/proc/self/ns/net"), os.getuid(), world.node_rank)
    except OSError:  # a sandbox without /proc
        return ""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def by_host(names: Sequence[str]) -> list[list[int]]:
    """Ranks with the same name together, in the order of their first ranks; a rank without one is alone."""
    hosts: dict[str, list[int]] = {}
    for rank, name in enumerate(names):
        hosts.setdefault(name or f"alone {rank}", []).append(rank)
    return list(hosts.values())


def addresses(world: World, job: str) -> tuple[str, str]:
    """Where rank 0's door is, and where this rank's ROUTER binds."""
    one_host = world.local_size == world.size or not world.master_addr
    if one_host and sys.platform == "linux":
        return f"ipc://@lockstep-{job}-door", f"ipc://@lockstep-{job}-{world.rank}"
    if not world.master_port:
        raise WorldError(f"rank {world.rank}: open: expected a port for rank 0 to listen on, got none; set MASTER_PORT")
    host = world.master_addr or "127.0.0.1"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing, only asks for the route
            probe.connect((host, world.master_port))
            address, facing = probe.getpeername()[0], probe.getsockname()[0]
    except OSError as error:
        raise WorldError(
            f"rank {world.rank}: open: expected MASTER_ADDR to be a host that can be reached, got {host!r}: {error}"
        ) from None
    return f"tcp://{address}:{world.master_port}", f"tcp://{facing}:*"
