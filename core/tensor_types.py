"""torch's named tensor types: `FloatTensor`, `cuda.LongTensor` and the rest, as constructors, in isinstance, and for `x.type(…)`.

A type is a dtype on a device type. Calling it makes a tensor: of sizes without values, or of data.
"""

from __future__ import annotations

from typing import Any

from core import creation, dtypes
from core import methods as methods  # what is made here has its methods
from core._tensor import Size, Tensor
from core.devices import device
from core.errors import DTypeError

_DTYPES = {
    "Float": dtypes.float32, "Double": dtypes.float64, "Half": dtypes.float16, "BFloat16": dtypes.bfloat16, "Byte": dtypes.uint8,
    "Char": dtypes.int8, "Short": dtypes.int16, "Int": dtypes.int32, "Long": dtypes.int64, "Bool": dtypes.bool,
}  # fmt: skip


class TensorType:
    """One named type."""

    def __init__(self, name: str, dtype: dtypes.dtype, device_type: str):
        self.__name__, self.dtype, self.device_type = name, dtype, device_type
        self.is_cuda = device_type == "cuda"

    def __call__(self, *data: Any, device: Any = None) -> Tensor:
        where = self.device_type if device is None else device
        if len(data) == 1 and not isinstance(data[0], (int, Size)):
            return creation.tensor(data[0], dtype=self.dtype, device=where)
        sizes = data[0] if len(data) == 1 and isinstance(data[0], Size) else data
        return creation.empty(*(sizes or (0,)), dtype=self.dtype, device=where)

    def __instancecheck__(self, t: Any) -> bool:
        return isinstance(t, Tensor) and t.dtype is self.dtype and t.device.type == self.device_type

    def __repr__(self) -> str:
        return f"<class '{self}'>"

    def __str__(self) -> str:
        return f"{dtypes.dtype.prefix}.{'cuda.' if self.is_cuda else ''}{self.__name__}"


CPU = {f"{n}Tensor": TensorType(f"{n}Tensor", d, "cpu") for n, d in _DTYPES.items()}
CUDA = {f"{n}Tensor": TensorType(f"{n}Tensor", d, "cuda") for n, d in _DTYPES.items()}


def named(name: Any) -> TensorType:
    """The type that "torch.FloatTensor" or the type itself means."""
    if isinstance(name, TensorType):
        return name
    *path, last = str(name).split(".")
    found = (CUDA if "cuda" in path else CPU).get(last)
    if found is None:
        raise DTypeError(f"type: expected the name of a tensor type such as 'torch.FloatTensor', got {name!r}; known: {', '.join(CPU)}")
    return found


def of(t: Tensor) -> TensorType:
    """The named type of a tensor."""
    name = next((n for n, d in _DTYPES.items() if d is t.dtype), t.dtype.name) + "Tensor"
    known = CUDA if t.is_cuda else CPU
    return known[name] if name in known else TensorType(name, t.dtype, t.device.type)


def set_default_tensor_type(t: Any) -> None:
    """Make a floating type the default: its dtype, and its device for new tensors."""
    found = named(t)
    dtypes.set_default_dtype(found.dtype)
    creation.set_default_device(device(found.device_type))
