"""Where a tensor lives: `device("cpu")`, `device("cuda", 1)`, `device("cuda:1")`."""

from __future__ import annotations

from typing import Any

from core import backend
from core.errors import ArgumentError, DeviceError, unknown_name

stand_ins: dict[str, str] = {}  # device type -> another that is meant instead: see `core.cuda.on_cpu`
_outside: list[Any] = []  # the default devices outside of the `with` blocks that are open


class device:
    """A device's type and index. Immutable; equal when both agree."""

    __slots__ = ("type", "index")

    type: str
    index: int | None

    def __new__(cls, type: Any = None, index: int | None = None) -> device:
        if isinstance(type, device):
            return type
        if isinstance(type, int) and not isinstance(type, bool):
            type, index = "cuda", type
        if not isinstance(type, str):
            raise ArgumentError(f"device: expected a string such as 'cpu' or 'cuda:0', got {type!r}")
        name, _, number = type.partition(":")
        if number:
            if index is not None or not number.isdigit():
                raise ArgumentError(f"device: expected TYPE or TYPE:INDEX, got {type!r}, index {index!r}")
            index = int(number)
        if name not in backend.BACKENDS:
            raise DeviceError(unknown_name("device", "device type", name, backend.BACKENDS))
        if name in stand_ins:
            name, index = stand_ins[name], None
        self = object.__new__(cls)
        object.__setattr__(self, "type", name)
        object.__setattr__(self, "index", index)
        return self

    def __enter__(self) -> device:
        """Inside of `with device(…)` new tensors that are not told otherwise go there."""
        from core import creation

        _outside.append(creation._default_device)
        creation.set_default_device(self)
        return self

    def __exit__(self, *exc: object) -> None:
        from core import creation

        creation.set_default_device(_outside.pop())

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a device cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return device, (self.type, self.index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, device) and (self.type, self.index) == (other.type, other.index)

    def __hash__(self) -> int:
        return hash((self.type, self.index))

    def __repr__(self) -> str:
        return (
            f"device(type='{self.type}')" if self.index is None else f"device(type='{self.type}', index={self.index})"
        )

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"
