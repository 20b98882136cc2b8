"""Sockets of ZeroMQ that only the job's own ranks can connect to, the events of these sockets, and the job's secret.

Contract: every socket is CURVE, encrypted and authenticated in both directions. A server lets in who proves to have the job's own
key, and counts the others (`refused`). Nothing here blocks but `poll`.
Not here: who the peers are and what they say (`zeromq`).
Source: ZeroMQ RFC 26 (CURVE), 27 (ZAP); zmq_socket_monitor(3).
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
import os
import stat
import sys
from collections.abc import Callable

import zmq
from zmq.utils import z85

from ddp.env import World
from ddp.errors import WorldError
from ddp.transport import one_host
from ddp.wire import MAX_PAYLOAD_BYTES

# Events of a connection: it was refused; it has ended.
REFUSALS = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
ENDS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
# What CURVE adds to a message.
_SEAL_BYTES = 64


class CurveSockets:
    """The sockets of one rank, and what to do when there is something to read."""

    def __init__(self, rank: int, secret: bytes, sockets: int):
        self.refused = 0
        self._rank = rank
        self._keys = job_keys(secret)
        self._client = (
            (zmq.CURVE_PUBLICKEY, self._keys[0]),
            (zmq.CURVE_SECRETKEY, self._keys[1]),
            (zmq.CURVE_SERVERKEY, self._keys[0]),
            (zmq.ROUTING_ID, identity(rank)),
            (zmq.RCVHWM, 0),
            (zmq.SNDHWM, 0),
            (zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES + _SEAL_BYTES),
        )
        self._welcome = z85.decode(self._keys[0])
        self._serial = itertools.count()
        self._context = zmq.Context()
        self._context.max_sockets = sockets
        self._poller = zmq.Poller()
        self._monitors: dict[zmq.Socket, zmq.Socket] = {}  # socket -> where its events are read
        self._on: dict[zmq.Socket | int, Callable[[], object]] = {}
        self._guard = self._context.socket(zmq.REP)
        self._guard.bind("inproc://zeromq.zap.01")
        self.watch(self._guard, self._admit)

    def server(self, backlog: int) -> zmq.Socket:
        server = self._context.socket(zmq.ROUTER)
        server.curve_server = True
        server.curve_publickey, server.curve_secretkey = self._keys
        server.zap_domain = b"lockstep"
        server.backlog = 16 + backlog
        server.rcvhwm = server.sndhwm = 0  # `send` never waits; how much is on its way is bounded by the collectives
        server.maxmsgsize = MAX_PAYLOAD_BYTES + _SEAL_BYTES
        return server

    def client(self, reconnect_ms: int) -> zmq.Socket:
        client = self._context.socket(zmq.DEALER)
        for option, value in self._client:  # there is one for each rank: attributes would take three times as long
            client.set(option, value)
        client.set(zmq.RECONNECT_IVL, reconnect_ms)
        return client

    def bind(self, server: zmq.Socket, address: str) -> None:
        try:
            server.bind(address)
        except zmq.ZMQError as error:
            raise WorldError(
                f"rank {self._rank}: open: expected to listen on {address}, got: {error}; "
                f"another job may have the same name or port"
            ) from None

    def watch(self, each: zmq.Socket | int, act: Callable[[], object]) -> None:
        self._on[each] = act
        self._poller.register(each, zmq.POLLIN)

    def unwatch(self, each: zmq.Socket | int) -> None:
        if self._on.pop(each, None):
            self._poller.unregister(each)

    def _admit(self) -> None:
        """Answer ZeroMQ's question (ZAP, RFC 27) whether a client may come in: only with the job's own key."""
        _, request, _, _, _, mechanism, *credentials = self._guard.recv_multipart(zmq.NOBLOCK)
        welcome = mechanism == b"CURVE" and hmac.compare_digest(credentials[0], self._welcome)
        self.refused += not welcome
        status = (b"200", b"OK") if welcome else (b"400", b"not of this job")
        self._guard.send_multipart((b"1.0", request, *status, b"", b""))

    def poll(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for something to read, and do what is to be done then."""
        for ready, _ in self._poller.poll(math.ceil(timeout_s * 1000)):
            if act := self._on.get(ready):  # an earlier one of this round may have closed it
                act()

    def monitor(self, each: zmq.Socket, events: int, act: Callable[[int], None]) -> None:
        """Call act(event) from `poll` when one of the events happens to a socket."""
        reader = self._context.socket(zmq.PAIR)
        reader.rcvhwm = 0  # a full queue would stop ZeroMQ's own thread
        address = f"inproc://monitor-{next(self._serial)}"
        each.monitor(address, events)
        reader.connect(address)
        self._monitors[each] = reader
        self.watch(reader, lambda: act(_event(reader.recv_multipart(zmq.NOBLOCK))))

    def close(self, each: zmq.Socket, linger_ms: int = 0) -> None:
        if reader := self._monitors.pop(each, None):
            each.monitor(None, 0)  # before its reader goes: ZeroMQ's thread waits for ever for a reader that is gone
            self.unwatch(reader)
            reader.close(linger=0)
        each.close(linger=linger_ms)

    def destroy(self) -> None:
        """Close what is open, without waiting."""
        self._context.destroy(linger=0)


def identity(rank: int) -> bytes:
    """The name by which a rank's socket is known to the others'."""
    return b"rank %d" % rank


def _event(parts: list[bytes]) -> int:
    """The event in a monitor's message. (zmq.utils.monitor would load asyncio for it.)"""
    return int.from_bytes(parts[0][:2], sys.byteorder)


# -- the secret -------------------------------------------------------------------------------------------------------


def read_secret(world: World) -> bytes:
    """The 32 bytes of the job's secret, from the file that the launcher names. They appear in no message."""
    remedy = (
        "start with ddprun, or set LOCKSTEP_KEY_FILE to a file with 64 hex characters, mode 0600, the same everywhere"
    )
    where = f"rank {world.rank}: open"
    if not world.key_file:
        remedy = "; ".join(filter(None, (remedy, one_host.why_not(world))))
        raise WorldError(f"{where}: expected the job's key file, got none; {remedy}")
    try:
        with open(world.key_file, encoding="ascii") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):  # a pipe under the descriptor's number: reading would wait for ever
                raise OSError("expected a regular file")
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
