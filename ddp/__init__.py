"""Many processes train one model: torch.distributed's API over MPI, ZeroMQ, or threads.

Importing this package opens nothing and loads little; names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "DistributedDataParallel": "ddp.parallel",
    "DistributedSampler": "ddp.sampler",
    "World": "ddp.env",
    "world_from_env": "ddp.env",
    "ProcessGroup": "ddp.group",
    "Work": "ddp.group",
}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        value = getattr(import_module(_HOMES.get(name, "ddp.distributed")), name)
    except AttributeError:
        raise AttributeError(f"module 'ddp' has no attribute '{name}'") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    names = (n for n in vars(import_module("ddp.distributed")) if not n.startswith("_"))
    return sorted({*globals(), *_HOMES, *names})
