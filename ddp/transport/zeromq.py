"""ZeroMQ: frames between processes over Unix sockets inside a host and TCP between hosts, with no library but a wheel;
inside a host, what is large or urgent goes through shared memory instead.

Contract
- *Who gets in.* Every connection is CURVE: encrypted, and authenticated in both directions. From the job's secret,
  which the launcher hands over in a file (or, on one host without a launcher, rank 0 by `one_host`), each rank
  derives the one key pair of the job; a peer must prove that it has the same. Strangers are refused and counted
  (`refused_peers`), and so are frames that are none of this job's (`dropped_frames`); neither disturbs the job.
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
  SLOTS × tuning.slot_bytes + BLOCKS × BLOCK_BYTES a rank (10 MiB by default), of which only what is used is real. `homes` are
  further memory, as much as was asked for, until the last array of it is gone.
- *Several hosts.* An all-reduce is a reduce inside each host, an all-reduce among the first ranks of the hosts, and a
  broadcast inside each host. The other collectives are the plain ones.
- *Death.* Nothing reconnects. A connection that ends is a peer that left (its goodbye came) or died (none came). A
  process that is killed is noticed within GRACE_S, wherever the others wait; one that is stopped, or a host that
  vanishes, by the deadline.

Limits: about six file descriptors a peer, so `ulimit -n 1024` is enough for 150 ranks.
Not here: what the frames mean (`framed`), sockets and the secret (`curve`), where ranks are (`places`), how those of one host come to
share memory (`same_host`), the launcher that makes the secret.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import zmq

from ddp.env import World
from ddp.errors import DeadlineError, PeerLostError, WireError, WorldError
from ddp.transport import one_host, tuning
from ddp.transport.base import Call, Deadline, Transport, divide, reduction
from ddp.transport.curve import ENDS, REFUSALS, CurveSockets, identity, read_secret
from ddp.transport.loopback import LoopbackTransport
from ddp.transport.places import addresses, by_host, host_of
from ddp.transport.same_host import HostMemory
from ddp.wire import Frame, Kind, job_id, pack, payload, unpack

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

_HELLO = Call("hello", 0, "uint8", 0)


class ZMQTransport(HostMemory):
    name = "zmq"

    @classmethod
    def open(cls, world: World, timeout_s: float) -> Transport:
        if world.size == 1:
            return LoopbackTransport.open(world, timeout_s)
        deadline = Deadline.after(timeout_s)
        if world.key_file or one_host.why_not(world):
            secret = read_secret(world)
        else:
            world, secret = one_host.agree(world, deadline)
        transport = cls(world, secret)
        try:
            transport._meet(world, deadline)
            transport._share(deadline)
        except BaseException:
            transport._closed = True
            transport._shut()
            raise
        return transport

    def __init__(self, world: World, secret: bytes):
        super().__init__(world)
        self._job = job_id(world.job)
        self._sockets = CurveSockets(world.rank, secret, 64 + 4 * world.size)
        self._dealers: dict[int, zmq.Socket] = {}
        self._suspects: dict[int, float] = {}  # peers whose connection ended -> when we last heard of them
        self._unsent: list[tuple[int, zmq.MessageTracker]] = []
        self._up: set[int] = set()  # peers that let us in
        self._met: set[int] = set()  # peers that said hello
        self._router = self._sockets.server(self.size)
        self._sockets.watch(self._router, self._receive)

    @property
    def refused_peers(self) -> int:
        """How many strangers knocked."""
        return self._sockets.refused

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

    # -- frames -----------------------------------------------------------------------------------------------------

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
        frame, data = self._lent(frame, peer, data)
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

    def _pump(self, timeout_s: float) -> None:
        if self._receive():
            return
        timeout_s = min(timeout_s, self._nap_s)
        if self._suspects:
            timeout_s = min(timeout_s, GRACE_S / 2)
        self._sockets.poll(timeout_s)
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
            name, header, data = parts
            frame = unpack(header.buffer, self._job)
            if name.bytes != identity(frame.sender):
                raise WireError(f"frame: expected sender {frame.sender} to be {identity(frame.sender)!r}")
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
        self._arrived(frame, array)
        return True

    def _shut(self) -> None:
        for peer in list(self._dealers):
            self._hang_up(peer, linger_ms=LINGER_MS)
        self._sockets.destroy()
        self._unshare()

    def _watch(self, fd: int, act: Callable[[], object]) -> None:
        self._sockets.watch(fd, act)

    def _unwatch(self, fd: int) -> None:
        self._sockets.unwatch(fd)

    def _refused_a_stranger(self, times: int) -> None:
        self._sockets.refused += times

    def _listens_at(self) -> str:
        """The address of our ROUTER, once it is bound."""
        return self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    # -- meeting ----------------------------------------------------------------------------------------------------

    def _meet(self, world: World, deadline: Deadline) -> None:
        """Learn the peers' addresses, connect to all of them, and see that all of them connected to us."""
        door, own = addresses(world, self._job.hex())
        self._sockets.bind(self._router, own)
        here = {"at": self._listens_at(), "host": host_of(world)}
        everybody = self._keep_door(door, here, deadline) if self.rank == 0 else self._knock(door, here, deadline)
        endpoints = [each["at"] for each in everybody["ranks"]]
        self.tuning = tuning.checked(everybody["tuning"], f"rank {self.rank}: open: rank 0's table")
        self._hosts = by_host([each["host"] for each in everybody["ranks"]])
        for peer in self._others():
            self._dial(peer, endpoints[peer])
        while len(met := self._up & self._met) < self.size - 1:
            missing = [peer for peer in self._others() if peer not in met]
            # Not at every failure: peers may have met, gone on and failed while we are still on our way.
            if gone := [peer for peer in missing if peer in self._gone]:
                raise PeerLostError(f"rank {self.rank}: open: rank {gone[0]} {self._gone[gone[0]]}", rank=gone[0])
            if deadline.expired():
                raise self._nobody(missing, deadline)
            self._pump(deadline.remaining_s())

    def _keep_door(self, address: str, here: dict[str, str], deadline: Deadline) -> dict[str, Any]:
        """Rank 0: collect everybody's address and give everybody the list."""
        door, table = self._sockets.server(self.size), dataclasses.asdict(tuning.load())
        found: dict[int, tuple[bytes, dict[str, str]]] = {0: (b"", here)}

        def greet() -> None:
            try:
                name, header, data = door.recv_multipart(zmq.NOBLOCK)
                frame = unpack(header, self._job)
                if frame.kind != Kind.HELLO or not 0 < frame.sender < self.size or name != identity(frame.sender):
                    raise WireError("door: expected the hello of a rank")
                there = json.loads(payload(frame, data).tobytes())
                found[frame.sender] = (name, {"at": str(there["at"]), "host": str(there["host"])})
            except (WireError, ValueError, KeyError, TypeError):
                self.dropped_frames += 1

        def refused(event: int) -> None:  # who has no idea of the key fails before the guard is asked
            self._refused_a_stranger(1)

        def answer(kind: Kind, text: str) -> None:
            data = text.encode()
            frame = Frame(kind, 0, _HELLO, 0, len(data))
            for name, _ in list(found.values())[1:]:
                door.send_multipart((name, pack(frame, self._job), data))

        self._sockets.watch(door, greet)
        self._sockets.monitor(door, REFUSALS, refused)
        self._sockets.bind(door, address)
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
            self._sockets.unwatch(door)
            self._sockets.close(door, LINGER_MS)

    def _knock(self, address: str, here: dict[str, str], deadline: Deadline) -> dict[str, Any]:
        """The other ranks: tell rank 0 our address and get the list."""
        client = self._sockets.client(reconnect_ms=KNOCK_MS)
        data = json.dumps(here).encode()
        hello = (pack(Frame(Kind.HELLO, self.rank, _HELLO, 0, len(data)), self._job), data)
        answers: list[list[bytes]] = []
        self._sockets.watch(client, lambda: answers.append(client.recv_multipart(zmq.NOBLOCK)))
        try:
            client.connect(address)
            client.send_multipart(hello)
            while not answers:
                if deadline.expired():
                    raise self._nobody([0], deadline)
                self._pump(deadline.remaining_s())
        finally:
            self._sockets.unwatch(client)
            self._sockets.close(client)
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

    def _dial(self, peer: int, address: str, heartbeat_ms: int = 0) -> None:
        """Connect to a peer; `_noticed` hears how it goes. With a heartbeat, one that is stopped for so long is lost."""
        self._dealers[peer] = dealer = self._sockets.client(reconnect_ms=-1)
        dealer.immediate = True  # a connection that ends takes its queue along: nothing lingers for who is gone
        dealer.heartbeat_ivl, dealer.heartbeat_timeout = heartbeat_ms // PINGS, heartbeat_ms
        self._sockets.monitor(dealer, zmq.EVENT_HANDSHAKE_SUCCEEDED | REFUSALS | ENDS, partial(self._noticed, peer))
        dealer.connect(address)

    def _noticed(self, peer: int, event: int) -> None:
        """Something happened to our connection to a peer."""
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._up.add(peer)
            self._tell(peer, Kind.HELLO, _HELLO)
        else:
            self._suspects.setdefault(peer, time.monotonic())

    def _hang_up(self, peer: int, linger_ms: int = 0) -> None:
        if dealer := self._dealers.pop(peer, None):
            self._sockets.close(dealer, linger_ms)
