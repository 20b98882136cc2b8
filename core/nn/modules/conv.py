"""Convolutions."""

from __future__ import annotations

import math
from typing import Any

from core._tensor import Tensor
from core.creation import empty
from core.errors import ArgumentError
from core.nn.functional.conv import _conv as conv
from core.nn import init
from core.nn.functional._arguments import tuple_of
from core.nn.modules.module import Module
from core.nn.parameter import Parameter


class _ConvNd(Module):
    """What the convolutions share. `weight` is (K, C/groups, *kernel); both start uniform on ±1/√(C/groups · kernel)."""

    dims: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        name, n = type(self).__name__, self.dims
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{name}: expected channels divisible by groups, got {in_channels}, {out_channels}, groups {groups}"
            )
        if padding_mode != "zeros":
            raise ArgumentError(f"{name}: expected padding_mode 'zeros', got {padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = tuple_of(kernel_size, n, name)
        self.stride = tuple_of(stride, n, name)
        self.padding = padding if isinstance(padding, str) else tuple_of(padding, n, name)
        self.dilation = tuple_of(dilation, n, name)
        self.padding_mode = padding_mode
        self.weight = Parameter(
            empty(out_channels, in_channels // groups, *self.kernel_size, device=device, dtype=dtype)
        )
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def extra_repr(self) -> str:
        s = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self.dims:
            s += f", padding={self.padding}"
        if self.dilation != (1,) * self.dims:
            s += f", dilation={self.dilation}"
        if self.groups != 1:
            s += f", groups={self.groups}"
        return s if self.bias is not None else s + ", bias=False"

    def forward(self, input: Tensor) -> Tensor:
        return conv(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups, self.dims)


class Conv1d(_ConvNd):
    """Cross-correlation (N, C, L) -> (N, K, L')"""

    dims = 1


class Conv2d(_ConvNd):
    """Cross-correlation (N, C, H, W) -> (N, K, H', W'), H' = ⌊(H + 2·padding − dilation·(kernel−1) − 1) / stride⌋ + 1"""

    dims = 2


class Conv3d(_ConvNd):
    """Cross-correlation (N, C, D, H, W) -> (N, K, D', H', W')"""

    dims = 3
