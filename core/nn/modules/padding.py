"""Padding. `padding` is one number for every side, or (before, after) for the last dimension, then the one before it,
and so on.
"""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError
from core.nn import functional as F
from core.nn.modules.module import Module


class _Pad(Module):
    dims: int
    mode: str

    def __init__(self, padding: Any):
        super().__init__()
        n = 2 * self.dims
        self.padding = (padding,) * n if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != n:
            raise ArgumentError(f"{type(self).__name__}: expected one number or {n}, got {padding}")

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: Any, value: float):
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """`value` around (*, L)"""

    dims = 1


class ConstantPad2d(_ConstantPad):
    """`value` around (*, H, W)"""

    dims = 2


class ConstantPad3d(_ConstantPad):
    """`value` around (*, D, H, W)"""

    dims = 3


class ZeroPad1d(ConstantPad1d):
    """Zeros around (*, L)"""

    def __init__(self, padding: Any):
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad2d(ConstantPad2d):
    """Zeros around (*, H, W)"""

    def __init__(self, padding: Any):
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad3d(ConstantPad3d):
    """Zeros around (*, D, H, W)"""

    def __init__(self, padding: Any):
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ReflectionPad1d(_Pad):
    """(N, C, L) mirrored at its borders"""

    dims, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """(N, C, H, W) mirrored at its borders"""

    dims, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """(N, C, D, H, W) mirrored at its borders"""

    dims, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """(N, C, L) with its borders repeated"""

    dims, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """(N, C, H, W) with its borders repeated"""

    dims, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """(N, C, D, H, W) with its borders repeated"""

    dims, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """(N, C, L) continued with its other end"""

    dims, mode = 1, "circular"


class CircularPad2d(_Pad):
    """(N, C, H, W) continued with its other ends"""

    dims, mode = 2, "circular"


class CircularPad3d(_Pad):
    """(N, C, D, H, W) continued with its other ends"""

    dims, mode = 3, "circular"
