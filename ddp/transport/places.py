"""Where ranks are: which of them share a host, and at which addresses they listen.

Contract: asks the system, opens nothing that stays open.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Sequence

from ddp.env import World
from ddp.errors import WorldError
from ddp.transport import segment


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


def cores() -> tuple[int, int]:
    """The first of the cores on which this process may run, and how many they are."""
    if not hasattr(os, "sched_getaffinity"):
        return 0, 1
    mine = os.sched_getaffinity(0)
    return min(mine), len(mine)


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
