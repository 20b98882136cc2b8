"""torch.accelerator: the GPU if there is one, by whatever name."""

from __future__ import annotations

from typing import Any

from core import cuda
from core.devices import device


def is_available() -> bool:
    """Whether there is a GPU."""
    return cuda.is_available()


def device_count() -> int:
    """How many GPUs there are."""
    return cuda.device_count()


def current_accelerator(check_available: bool = False) -> device | None:
    """The kind of GPU there is; None if none."""
    return device("cuda") if cuda.is_available() else None


def current_device_index() -> int:
    """The index of the GPU that new tensors go to."""
    return cuda.current_device()


current_device_idx = current_device_index


def set_device_index(where: Any) -> None:
    """Choose the GPU that new tensors go to."""
    cuda.set_device(where)


set_device_idx = set_device_index


def synchronize(where: Any = None) -> None:
    """Wait until the GPU has done everything asked for."""
    cuda.synchronize(where)
