"""Moving bytes between the ranks of a job. The seam is `base`; the table names its members, imported on first use."""

from __future__ import annotations

import importlib
import importlib.util

from core.errors import ArgumentError, missing_library, unknown_name
from ddp.env import World
from ddp.transport.base import Transport

TRANSPORTS = {
    "ipc": "ddp.transport.cuda_ipc:IPCTransport",
    "loopback": "ddp.transport.loopback:LoopbackTransport",
    "mpi": "ddp.transport.mpi:MPITransport",
    "nccl": "ddp.transport.nccl:NCCLTransport",
    "threads": "ddp.transport.threads:ThreadTransport",
    "zmq": "ddp.transport.zeromq:ZMQTransport",
}

# What a member needs beyond a plain install: the library as it is imported, and our extra that brings it.
OPTIONAL = {"ipc": ("cupy", "cuda13"), "mpi": ("mpi4py", "mpi"), "nccl": ("cupy", "cuda13")}


def open_transport(name: str, world: World, timeout_s: float) -> Transport:
    """Connect this process with the others of its world. All are there on return, or an error names who is not."""
    if name not in TRANSPORTS:
        raise ArgumentError(unknown_name("open_transport", "transport", name, TRANSPORTS))
    module, _, member = TRANSPORTS[name].partition(":")
    library, extra = OPTIONAL.get(name, ("", ""))
    if library and importlib.util.find_spec(library) is None:
        raise missing_library(library, f"transport {name}", extra)
    return getattr(importlib.import_module(module), member).open(world, timeout_s)
