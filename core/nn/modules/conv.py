"""Convolutions, and transposed ones."""

from __future__ import annotations

import math
from typing import Any

from core._tensor import Tensor
from core.creation import empty
from core.errors import ArgumentError, ShapeError
from core.nn import functional as F
from core.nn import init
from core.nn.functional._arguments import tuple_of
from core.nn.functional.conv import _conv, _conv_transpose
from core.nn.modules.lazy import LazyModuleMixin, UninitializedParameter
from core.nn.modules.module import Module
from core.nn.parameter import Parameter

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    """What the convolutions share. `weight` is (K, C/groups, *kernel), transposed (C, K/groups, *kernel); `bias` (K).

    Both start uniform on ±1/√fan_in, where the fan is the product of the weight's dimensions after the first.
    """

    dims: int
    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
            output_padding: Any,
        groups: int, bias: bool, padding_mode: str, device: Any, dtype: Any,
    ):  # fmt: skip
        super().__init__()
        name, n = type(self).__name__, self.dims
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{name}: in_channels and out_channels must be divisible by groups, got {in_channels}, {out_channels} "
                f"and {groups}"
            )
        if padding_mode not in _PADDING_MODES:
            raise ArgumentError(f"padding_mode must be one of {_PADDING_MODES}, but got padding_mode={padding_mode!r}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = tuple_of(kernel_size, n, name)
        self.stride = tuple_of(stride, n, name)
        self.dilation = tuple_of(dilation, n, name)
        self.output_padding = tuple_of(output_padding, n, name)
        if isinstance(padding, str):
            if padding not in ("valid", "same"):
                raise ArgumentError(f"Invalid padding string {padding!r}, should be one of 'valid', 'same'")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ArgumentError("padding='same' is not supported for strided convolutions")
            self.padding: Any = padding
        else:
            self.padding = tuple_of(padding, n, name)
        self.padding_mode = padding_mode
        self._make_weights(bias, device, dtype)
        self.reset_parameters()

    def _weight_shape(self) -> tuple[int, ...]:
        first, second = (self.in_channels, self.out_channels) if self.transposed else (self.out_channels,
            self.in_channels)
        return first, second // self.groups, *self.kernel_size

    def _make_weights(self, bias: bool, device: Any, dtype: Any) -> None:
        self.weight = Parameter(empty(*self._weight_shape(), device=device, dtype=dtype))
        made = Parameter(empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", made)

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
        if self.output_padding != (0,) * self.dims:
            s += f", output_padding={self.output_padding}"
        if self.groups != 1:
            s += f", groups={self.groups}"
        if self.bias is None:
            s += ", bias=False"
        return s if self.padding_mode == "zeros" else s + f", padding_mode={self.padding_mode}"

    def __setstate__(self, state: Any) -> None:
        super().__setstate__({"padding_mode": "zeros"} | state)


class _Conv(_ConvNd):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
            dilation: Any = 1,
        groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 0, groups, bias, padding_mode, device,
            dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._sides(), mode=self.padding_mode), 0
        return _conv(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, self.dims)

    def _sides(self) -> tuple[int, ...]:
        """The padding as `functional.pad` takes it."""
        sides: list[int] = []
        for i in reversed(range(self.dims)):
            if self.padding == "same":
                total = self.dilation[i] * (self.kernel_size[i] - 1)
                sides += (total // 2, total - total // 2)
            else:
                sides += (0, 0) if self.padding == "valid" else (self.padding[i], self.padding[i])
        return tuple(sides)


class Conv1d(_Conv):
    """Cross-correlation (N, C, L) -> (N, K, L')"""

    dims = 1


class Conv2d(_Conv):
    """Cross-correlation (N, C, H, W) -> (N, K, H', W'), H' = ⌊(H + 2·padding − dilation·(kernel−1) − 1) / stride⌋ + 1
    """

    dims = 2


class Conv3d(_Conv):
    """Cross-correlation (N, C, D, H, W) -> (N, K, D', H', W')"""

    dims = 3


class _ConvTransposeNd(_ConvNd):
    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
            output_padding: Any = 0,
        groups: int = 1, bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros", device: Any = None,
        dtype: Any = None,
    ):  # fmt: skip
        if padding_mode != "zeros":
            raise ArgumentError(
                f'Only "zeros" padding mode is supported for {type(self).__name__}, got {padding_mode!r}')
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups, bias,
            padding_mode, device,
            dtype,
        )  # fmt: skip

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        extra = self.output_padding if output_size is None else self._extra(input, output_size)
        return _conv_transpose(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation, self.dims
        )

    def _extra(self, input: Tensor, output_size: Any) -> tuple[int, ...]:
        """The output_padding that gives this size."""
        n = self.dims
        wanted = tuple(output_size)[-n:]
        least = [
            (i - 1) * s - 2 * p + d * (k - 1) + 1
            for i, s, p, d, k in zip(input._a.shape[-n:], self.stride, self.padding, self.dilation, self.kernel_size)
        ]
        if len(output_size) not in (n, n + 2) or any(not 0 <= w - m < s for w, m, s in zip(wanted, least, self.stride)):
            most = [m + s - 1 for m, s in zip(least, self.stride)]
            raise ShapeError(
                f"requested an output size of {wanted}, but valid sizes range from {least} to {most} (for an input of "
                f"{tuple(input.shape[-n:])})"
            )
        return tuple(w - m for w, m in zip(wanted, least))


class ConvTranspose1d(_ConvTransposeNd):
    """The gradient of `Conv1d` for its input: (N, C, L) -> (N, K, L')"""

    dims = 1


class ConvTranspose2d(_ConvTransposeNd):
    """The gradient of `Conv2d` for its input: (N, C, H, W) -> (N, K, H', W'),
    H' = (H − 1)·stride − 2·padding + dilation·(kernel − 1) + output_padding + 1
    """

    dims = 2


class ConvTranspose3d(_ConvTransposeNd):
    """The gradient of `Conv3d` for its input: (N, C, D, H, W) -> (N, K, D', H', W')"""

    dims = 3


class _LazyConv(LazyModuleMixin, _ConvNd):
    """Takes in_channels from the first input."""

    def __init__(self, out_channels: int, *args: Any, **kwargs: Any):
        super().__init__(0, out_channels, *args, **kwargs)

    def _make_weights(self, bias: bool, device: Any, dtype: Any) -> None:
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.register_parameter("bias", UninitializedParameter(device=device, dtype=dtype) if bias else None)

    def reset_parameters(self) -> None:
        if not self.has_uninitialized_params() and self.in_channels:
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor, *args: Any) -> None:
        """Make the weights for the channels of this input."""
        if self.has_uninitialized_params():
            self.in_channels = input._a.shape[-self.dims - 1]
            if self.in_channels % self.groups:
                raise ArgumentError(f"in_channels must be divisible by groups, got {self.in_channels} and {self.groups}")
            self.weight.materialize(self._weight_shape())
            if self.bias is not None:
                self.bias.materialize((self.out_channels,))
            self.reset_parameters()


class LazyConv1d(_LazyConv, Conv1d):
    """`Conv1d` that takes in_channels from its first input."""

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """`Conv2d` that takes in_channels from its first input."""

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """`Conv3d` that takes in_channels from its first input."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConv, ConvTranspose1d):
    """`ConvTranspose1d` that takes in_channels from its first input."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConv, ConvTranspose2d):
    """`ConvTranspose2d` that takes in_channels from its first input."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConv, ConvTranspose3d):
    """`ConvTranspose3d` that takes in_channels from its first input."""

    cls_to_become = ConvTranspose3d
