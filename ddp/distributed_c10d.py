"""torch.distributed.distributed_c10d: where some scripts import from. The names are those of `ddp.distributed`."""

from __future__ import annotations

from typing import Any

from ddp import distributed


def __getattr__(name: str) -> Any:
    return getattr(distributed, name)


def _get_default_group() -> Any:
    """The world's process group."""
    return distributed._group(None)
