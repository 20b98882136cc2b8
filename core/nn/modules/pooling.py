"""Pooling."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError
from core.nn.functional import pooling as F
from core.nn.functional._arguments import tuple_of
from core.nn.modules.module import Module


class _MaxPoolNd(Module):
    dims: int

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, return_indices: bool = False,
        ceil_mode: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        return F._max_pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
            self.dims,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPoolNd):
    """The greatest of each window: (N, C, L) -> (N, C, L')"""

    dims = 1


class MaxPool2d(_MaxPoolNd):
    """The greatest of each window: (N, C, H, W) -> (N, C, H', W')"""

    dims = 2


class MaxPool3d(_MaxPoolNd):
    """The greatest of each window: (N, C, D, H, W) -> (N, C, D', H', W')"""

    dims = 3


class _AvgPoolNd(Module):
    dims: int

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
            count_include_pad: bool = True,
        divisor_override: Any = None,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return F._avg_pool(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
            self.dims,
        )  # fmt: skip

    def extra_repr(self) -> str:
        # torch shows AvgPool1d's numbers as the tuples that it makes of them
        k, s, p = self.kernel_size, self.stride, self.padding
        if self.dims == 1:
            k, s, p = ((v,) if isinstance(v, int) else v for v in (k, s, p))
        return f"kernel_size={k}, stride={s}, padding={p}"


class AvgPool1d(_AvgPoolNd):
    """The mean of each window: (N, C, L) -> (N, C, L')"""

    dims = 1


class AvgPool2d(_AvgPoolNd):
    """The mean of each window: (N, C, H, W) -> (N, C, H', W')"""

    dims = 2


class AvgPool3d(_AvgPoolNd):
    """The mean of each window: (N, C, D, H, W) -> (N, C, D', H', W')"""

    dims = 3


class _AdaptiveAvgPoolNd(Module):
    dims: int

    def __init__(self, output_size: Any):
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return F._adaptive_avg_pool(input, self.output_size, self.dims)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    """The mean of windows chosen so that the output has the size asked for: (N, C, L) -> (N, C, output_size)"""

    dims = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    """The mean of windows chosen so that the output has the size asked for: (N, C, H, W) -> (N, C, *output_size)"""

    dims = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    """The mean of windows chosen so that the output has the size asked for: (N, C, D, H, W) -> (N, C, *output_size)"""

    dims = 3


class _AdaptiveMaxPoolNd(Module):
    dims: int

    def __init__(self, output_size: Any, return_indices: bool = False):
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def forward(self, input: Tensor) -> Any:
        return F._adaptive_max_pool(input, self.output_size, self.return_indices, self.dims)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    """The greatest of windows chosen so that the output has the size asked for: (N, C, L) -> (N, C, output_size)"""

    dims = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    """The greatest of windows chosen so that the output has the size asked for: (N, C, H, W) -> (N, C, *output_size)"""

    dims = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    """The greatest of windows chosen so that the output has the size asked for: (N, C, D, H, W) -> (N, C, *output_size)
    """

    dims = 3


class _LPPoolNd(Module):
    dims: int

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False):
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return F._lp_pool(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode, self.dims)

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPoolNd):
    """(Σ xᵖ)^(1/p) of each window: (N, C, L) -> (N, C, L')"""

    dims = 1


class LPPool2d(_LPPoolNd):
    """(Σ xᵖ)^(1/p) of each window: (N, C, H, W) -> (N, C, H', W')"""

    dims = 2


class LPPool3d(_LPPoolNd):
    """(Σ xᵖ)^(1/p) of each window: (N, C, D, H, W) -> (N, C, D', H', W')"""

    dims = 3


class _MaxUnpoolNd(Module):
    dims: int

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        super().__init__()
        name = type(self).__name__
        self.kernel_size = tuple_of(kernel_size, self.dims, name)
        self.stride = self.kernel_size if stride is None else tuple_of(stride, self.dims, name)
        self.padding = tuple_of(padding, self.dims, name)

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        return F._max_unpool(input, indices, self.kernel_size, self.stride, self.padding, output_size, self.dims)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpoolNd):
    """(N, C, L) and the indices of `MaxPool1d` -> (N, C, L'), zeros where no maximum was"""

    dims = 1


class MaxUnpool2d(_MaxUnpoolNd):
    """(N, C, H, W) and the indices of `MaxPool2d` -> (N, C, H', W'), zeros where no maximum was"""

    dims = 2


class MaxUnpool3d(_MaxUnpoolNd):
    """(N, C, D, H, W) and the indices of `MaxPool3d` -> (N, C, D', H', W'), zeros where no maximum was"""

    dims = 3


class _FractionalMaxPoolNd(Module):
    dims: int

    def __init__(
        self, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
        _random_samples: Any = None,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        if (output_size is None) == (output_ratio is None):
            raise ArgumentError(f"{name} requires specifying either an output size, or a pooling ratio")
        self.kernel_size = tuple_of(kernel_size, self.dims, name)
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else tuple_of(output_size, self.dims, name)
        self.output_ratio = output_ratio
        ratios = output_ratio if isinstance(output_ratio, (tuple, list)) else (output_ratio,)
        if output_ratio is not None and not all(0 < r < 1 for r in ratios):
            raise ArgumentError(f"output_ratio must be between 0 and 1 (got {output_ratio})")

    def forward(self, input: Tensor) -> Any:
        return F._fractional_max_pool(
            input, self.kernel_size, self.output_size, self.output_ratio, self.return_indices, self._random_samples,
            self.dims
        )


class FractionalMaxPool2d(_FractionalMaxPoolNd):
    """The greatest of windows whose starts are random: (N, C, H, W) -> (N, C, *output_size). Graham 2014."""

    dims = 2


class FractionalMaxPool3d(_FractionalMaxPoolNd):
    """The greatest of windows whose starts are random: (N, C, D, H, W) -> (N, C, *output_size). Graham 2014."""

    dims = 3
