"""Batches in pinned memory: what a GPU copies while the host goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core._tensor import Tensor


def pinned(batch: Any) -> Any:
    """The batch with its tensors pinned, as deep as mappings and sequences go; what has a `pin_memory` of its own is asked."""
    if isinstance(batch, Tensor) or hasattr(batch, "pin_memory"):
        return batch.pin_memory()
    if isinstance(batch, (str, bytes)):
        return batch
    if isinstance(batch, Mapping):
        return type(batch)({k: pinned(v) for k, v in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(pinned, batch))
    if isinstance(batch, Sequence):
        return type(batch)(map(pinned, batch)) if isinstance(batch, (list, tuple)) else [pinned(v) for v in batch]
    return batch
