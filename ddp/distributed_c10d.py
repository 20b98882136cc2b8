"""torch.distributed.distributed_c10d: where some scripts import from. The names are those of `ddp`."""

from __future__ import annotations

from typing import Any

import ddp
from ddp import distributed


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(ddp, name)


def _get_default_group() -> Any:
    """The world's process group."""
    return distributed._group(None)
