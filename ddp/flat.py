"""Tensors of the host as the flat arrays that transports move: read where they lie, and filled there, where that is possible.

Not here: tensors of a GPU (`ddp.staging`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor
from core.errors import DTypeError
from ddp.staging import DeviceLanding
from ddp.transport.base import Call, Deadline


class Flat:
    """The elements of a tensor of the host as a contiguous 1-D array: the memory itself where possible, else a copy that `store`
    writes back.
    """

    def __init__(self, tensor: Any, writes: bool = False):
        if not isinstance(tensor, Tensor):
            raise DTypeError(f"collective: expected a Tensor, got {type(tensor).__name__}")
        if writes:
            tensor._check_inplace("collective")
        self.tensor, host = tensor, tensor._a
        self.shared = host.flags.c_contiguous
        array = host if self.shared else np.ascontiguousarray(host)
        self.array = array if array.ndim == 1 else array.reshape(-1)

    def arrive(self, call: Call, deadline: Deadline) -> Any:
        """The array, once its values are there."""
        return self.array

    def put_back(self, call: Call, deadline: Deadline) -> None:
        """The tensor holds what the array holds."""
        if self.shared:
            self.tensor._bump()
        else:
            self.store()

    def store(self, array: np.ndarray | None = None) -> None:
        """The tensor holds what `array` (or the buffer itself) holds."""
        source = self.array if array is None else array
        if source is not self.array or not self.shared:
            a = self.tensor._a
            a[...] = source.reshape(a.shape)
        self.tensor._bump()


class Blocks:
    """Tensors of the host, of one shape, as `arrive` gives them to a transport that takes them apart: flat, a list."""

    def __init__(self, tensors: Sequence[Tensor]):
        self._arrays = [Flat(t).array for t in tensors]
        self.array = self._arrays[0]

    def arrive(self, call: Call, deadline: Deadline) -> list[np.ndarray]:
        return self._arrays


def landing(tensor: Tensor) -> Any:
    """What `store`s a result in a tensor."""
    on_device = isinstance(tensor, Tensor) and backend.of(tensor._a).device_type != "cpu"
    return DeviceLanding(tensor) if on_device else Flat(tensor, writes=True)


def free_rooms(outs: Sequence[Any], sources: Sequence[np.ndarray], own: int = -1) -> list[np.ndarray] | None:
    """The arrays of `landing`s that may be filled while `sources` are read; None unless all may. That of number `own` may be its source."""
    if not all(isinstance(out, Flat) for out in outs):
        return None
    rooms = [out.array for out in outs]
    for i, room in enumerate(rooms):
        for source in sources:
            if np.may_share_memory(room, source) and (i != own or _address(room) != _address(source)):
                return None
    return rooms


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
