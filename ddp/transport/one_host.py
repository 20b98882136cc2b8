"""The ranks of one host agree on a key when nobody has given them one.

Contract: torchrun, torch.multiprocessing.spawn and loops of subprocesses start ranks without a key. Where MASTER_ADDR is
an address of this very host, rank 0 makes one for this job and hands it to the others, once all are there, through an
abstract Unix socket (Linux). Its name follows from the user and MASTER_PORT, and at both ends the kernel vouches
(SO_PEERCRED) that the peer is a process of the same user: one who could read the key from our memory anyway. The key
is never on a command line, in the environment, in a file or in a message of ours. Every wait ends by the deadline.

Not here: ranks on several hosts. They need a key that somebody has brought there, and ddprun.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import select
import socket
import struct
import sys
import time
from typing import Any

from ddp.env import World
from ddp.errors import DDPError, DeadlineError, PeerLostError, WorldError
from ddp.transport.base import Deadline

# How often a rank looks whether rank 0's door is open.
KNOCK_S = 0.01
# How long a process of this user that has connected may take to say which rank it is.
HELLO_S = 1.0
_MESSAGE_BYTES = 4096
_TWO_JOBS = (
    "expected the other ranks of a job of {}, once each, got rank {} of {}{} (process {}); "
    "start all with the same size, and each job with a MASTER_PORT of its own"
)
_ERRORS = {each.__name__: each for each in (DeadlineError, PeerLostError)}


def placed(world: World) -> World:
    """The world, with its ranks on this host where they could agree on a key and no variable tells their places."""
    if world.key_file or world.local_size != 1 or world.size == 1 or why_not(world):
        return world
    return dataclasses.replace(world, local_rank=world.rank, local_size=world.size)


def why_not(world: World) -> str:
    """Why these ranks cannot agree on a key by themselves. Empty if they can."""
    if sys.platform != "linux":
        return "only on Linux can ranks agree on one by themselves"
    if not (world.master_addr and world.master_port):
        return "to agree on one by themselves the ranks of one host need MASTER_ADDR and MASTER_PORT"
    if world.local_size not in (1, world.size) or not _is_own(world.master_addr):
        return f"and ranks of several hosts (MASTER_ADDR is {world.master_addr!r}) cannot agree on one by themselves"
    return ""


def agree(world: World, deadline: Deadline) -> tuple[World, bytes]:
    """The world, with a name for this job, and the 32 bytes of its secret.

    Errors: DeadlineError that names who did not come, PeerLostError, WorldError (two jobs meet at the same port).
    """
    told = _give(world, deadline) if world.rank == 0 else _take(world, deadline)
    return dataclasses.replace(world, job=told["job"]), bytes.fromhex(told["key"])


# -- rank 0 -----------------------------------------------------------------------------------------------------------


def _give(world: World, deadline: Deadline) -> dict[str, Any]:
    told = {"job": f"one-host-{os.geteuid()}-{world.master_port}-{secrets.token_hex(8)}", "key": secrets.token_hex(32)}
    guests: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        door = stack.enter_context(_socket())
        _open(door, world)
        try:
            _gather(door, guests, world, deadline, stack)
        except DDPError as error:
            for guest in guests.values():
                _refuse(guest, error)
            raise
        for guest in guests.values():
            guest.send(json.dumps(told).encode())
    return told


def _open(door: socket.socket, world: World) -> None:
    try:
        door.bind(_name(world))
    except OSError:
        with _socket() as other:
            other.settimeout(HELLO_S)
            pid, uid = _peer(other) if other.connect_ex(_name(world)) == 0 else (0, -1)
        holder = f"process {pid} of user {uid}" if pid else "another process"
        raise WorldError(
            f"rank 0: open: expected MASTER_PORT={world.master_port} to be this job's alone while its ranks meet, got "
            f"one at which {holder} waits for its own; choose another MASTER_PORT, or stop that process"
        ) from None
    door.listen(max(128, world.size))


def _gather(
    door: socket.socket, guests: dict[int, socket.socket], world: World, deadline: Deadline, stack: contextlib.ExitStack
) -> None:
    """Until every rank is a guest. One that hangs up again has ended."""
    # A little early, so that our account of who is missing reaches the others before they give up.
    soon = Deadline.after(0.9 * deadline.remaining_s())
    while len(guests) < world.size - 1:
        ready, _, _ = select.select([door, *guests.values()], [], [], soon.remaining_s())
        if not ready:
            missing = [rank for rank in range(1, world.size) if rank not in guests]
            raise DeadlineError(
                f"rank 0: open: expected all {world.size} ranks to meet within {deadline.timeout_s:g} s, missing: "
                f"{', '.join(map(str, missing))}; see that they run, on this host, with the same MASTER_PORT",
                rank=missing[0],
            )
        if door in ready:
            guest = stack.enter_context(door.accept()[0])
            _welcome(guest, guests, world)
        for rank, guest in guests.items():
            if guest in ready:
                raise PeerLostError(f"rank 0: open: rank {rank} ended while the ranks met", rank=rank)


def _welcome(guest: socket.socket, guests: dict[int, socket.socket], world: World) -> None:
    """Take a newcomer in, if it is one of ours."""
    pid, uid = _peer(guest)
    if uid != os.geteuid():
        guest.close()  # not a word to strangers
        return
    guest.settimeout(HELLO_S)
    try:
        hello = json.loads(guest.recv(_MESSAGE_BYTES))
        rank, size = int(hello["rank"]), int(hello["size"])
    except (OSError, ValueError, KeyError, TypeError):
        guest.close()
        return
    if size != world.size or not 0 < rank < size or rank in guests:
        again = " a second time" if rank in guests else ""
        _refuse(guest, WorldError(f"rank {rank}: open: {_TWO_JOBS.format(world.size, rank, size, again, pid)}"))
        return
    guests[rank] = guest


def _refuse(guest: socket.socket, error: DDPError) -> None:
    reason = {"error": type(error).__name__, "text": str(error), "rank": getattr(error, "rank", None)}
    with contextlib.suppress(OSError):
        guest.send(json.dumps(reason).encode())
    guest.close()


# -- the other ranks --------------------------------------------------------------------------------------------------


def _take(world: World, deadline: Deadline) -> dict[str, Any]:
    where = f"rank {world.rank}: open"
    with _socket() as client:
        while client.connect_ex(_name(world)) != 0:
            if deadline.expired():
                raise _nobody(where, world, deadline)
            time.sleep(min(KNOCK_S, deadline.remaining_s()))
        pid, uid = _peer(client)
        if uid != os.geteuid():
            raise WorldError(
                f"{where}: expected rank 0 to be a process of this user, got process {pid} of user {uid} in its place; "
                f"choose another MASTER_PORT"
            )
        client.settimeout(max(deadline.remaining_s(), KNOCK_S))
        try:
            client.send(json.dumps({"rank": world.rank, "size": world.size}).encode())
            text = client.recv(_MESSAGE_BYTES)
        except TimeoutError:
            raise _nobody(where, world, deadline) from None
        except OSError:
            text = b""
    if not text:
        raise PeerLostError(f"{where}: rank 0 (process {pid}) ended while the ranks met", rank=0)
    told = json.loads(text)
    if "error" not in told:
        return dict(told)
    if told["error"] == "WorldError":
        raise WorldError(told["text"])
    raise _ERRORS[told["error"]](f"{where}: told by {told['text']}", told["rank"])


def _nobody(where: str, world: World, deadline: Deadline) -> DeadlineError:
    return DeadlineError(
        f"{where}: expected all {world.size} ranks to meet within {deadline.timeout_s:g} s, missing: 0; "
        f"see that rank 0 runs, on this host, with MASTER_PORT={world.master_port}",
        rank=0,
    )


# -- sockets ----------------------------------------------------------------------------------------------------------


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def _name(world: World) -> str:
    """An abstract one: it leaves nothing on disk and ends with its process."""
    return "\0lockstep-key-" + hashlib.sha256(f"{os.geteuid()} {world.master_port}".encode()).hexdigest()[:32]


def _peer(each: socket.socket) -> tuple[int, int]:
    """(process, user) at the other end, by the kernel's word: who connected, or who listens."""
    pid, uid, _ = struct.unpack("3i", each.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid


def _is_own(host: str) -> bool:
    """Whether an address of this host has this name: one can bind to one's own only."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
                return True
        except OSError:
            continue
    return False
