"""Memory without a name that the ranks of one host share, and how it reaches them.

Contract
- The memory is a memfd, and the bells are eventfds: no name, no file, nothing that could be left behind or opened by
  whoever guesses a name. The kernel frees both with the last process that has them, also after kill -9. The size is
  sealed, so nobody can pull the memory from under the others.
- Descriptors go over an abstract Unix socket (SCM_RIGHTS), only between processes of one user (SO_PEERCRED, asked of the
  kernel by both ends before a byte is read), and only to whom has the ticket: 32 random bytes, which together with the
  address reach the peers by the connection that they have already, which over ZeroMQ is authenticated.
- Nothing here waits for more than MOMENT_S at a time.

Not here: who is on one host (`zeromq`, `mpi`) and whether all of them take part (`same_host`), what the memory holds (`board`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import mmap
import os
import platform
import secrets
import socket
import struct
import sys
from collections.abc import Sequence

from ddp.transport.board import MACHINES, Board, Layout

MOMENT_S = 1.0
# What the kernel passes in one message is 253 descriptors; the memory is one of them.
MAX_RANKS = 128

_TICKET_BYTES = 32
_SEALS = getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4) | getattr(fcntl, "F_SEAL_SEAL", 1)


def available() -> bool:
    """Whether this machine has what it takes. Elsewhere everything goes by sockets."""
    return sys.platform == "linux" and platform.machine() in MACHINES and hasattr(os, "eventfd")


class Segment:
    """One mapping of the memory, and the bells. The descriptors belong to it."""

    def __init__(self, fds: Sequence[int], layout: Layout):
        """Takes over the descriptors: the memory's and one bell for each rank. OSError if they are not these."""
        memory, *self._bells = fds
        try:
            self._map = mapped(memory, layout.nbytes)
            if len(self._bells) != layout.size:
                raise OSError(f"expected {layout.size} bells, got {len(self._bells)}")
        except OSError:
            close_all(self._bells)
            raise
        self._layout = layout

    def board(self, me: int) -> Board:
        return Board(self._map, self._bells, self._layout, me)

    def close(self) -> None:
        """After its board was closed."""
        close_all(self._bells)
        with contextlib.suppress(BufferError):  # a traceback still shows an array of it: then it goes with that
            self._map.close()


def make(nbytes: int, bells: int = 0) -> list[int]:
    """New memory, zeroed when touched, and its bells."""
    fds = [os.memfd_create("lockstep", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)]
    try:
        os.ftruncate(fds[0], nbytes)
        fcntl.fcntl(fds[0], fcntl.F_ADD_SEALS, _SEALS)
        for _ in range(bells):
            fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    except OSError:
        close_all(fds)
        raise
    return fds


def mapped(memory: int, nbytes: int) -> mmap.mmap:
    """The memory of a descriptor, which is taken over. OSError if it is not what `make` makes."""
    try:
        if os.fstat(memory).st_size != nbytes:
            raise OSError("the shared memory has another size")
        if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
            raise OSError("the shared memory is not sealed")
        return mmap.mmap(memory, nbytes)
    finally:
        os.close(memory)


class Counter:
    """Where descriptors are handed out. `offer` is what a peer needs to get them."""

    def __init__(self, fds: Sequence[int], customers: int):
        self._fds = list(fds)
        self._ticket = secrets.token_bytes(_TICKET_BYTES)
        name = secrets.token_hex(16)
        self.offer = name.encode() + self._ticket
        self.refused = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(f"\0lockstep-{name}")
        self._socket.listen(customers)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def copies(self) -> list[int]:
        """The descriptors once more, for the process that has the counter."""
        return [os.dup(fd) for fd in self._fds]

    def serve(self) -> None:
        """Whoever stands at the counter: hand over or refuse."""
        try:
            customer, _ = self._socket.accept()
        except BlockingIOError:
            return
        with customer:
            customer.settimeout(MOMENT_S)
            try:
                if _user(customer) == os.getuid() and hmac.compare_digest(_exactly(customer), self._ticket):
                    socket.send_fds(customer, [b"!"], self._fds)
                else:
                    self.refused += 1
            except OSError:
                self.refused += 1

    def close(self) -> None:
        self._socket.close()
        close_all(self._fds)


def fetch(offer: bytes, bells: int = 0) -> list[int]:
    """The descriptors of an offer: the memory's and the bells'. OSError if there is nobody, or somebody else."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as here:
        here.settimeout(MOMENT_S)
        here.connect(b"\0lockstep-" + offer[:-_TICKET_BYTES])
        if _user(here) != os.getuid():
            raise PermissionError("the shared memory is another user's")
        here.sendall(offer[-_TICKET_BYTES:])
        _, fds, _, _ = socket.recv_fds(here, 1, bells + 1, socket.MSG_CMSG_CLOEXEC)
    if len(fds) != bells + 1:
        close_all(fds)
        raise OSError("the shared memory was refused")
    return fds


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _exactly(peer: socket.socket) -> bytes:
    """What a customer shows, at most a ticket's length of it."""
    shown = b""
    while len(shown) < _TICKET_BYTES and (more := peer.recv(_TICKET_BYTES - len(shown))):
        shown += more
    return shown


def _user(peer: socket.socket) -> int:
    """Who the process at the other end belongs to, as the kernel knows it."""
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid
