"""Instance normalisation."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.nn import functional as F
from core.nn.modules.batchnorm import _LazyNormBase, _NormBase
from core.ops import shape as _shape


class _InstanceNorm(_NormBase):
    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
            track_running_stats: bool = False,
        device: Any = None, dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        single = input.dim() == self.ranks[0]
        x = _shape.unsqueeze(input, dim=0) if single else input
        y = F.instance_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum, self.eps,
        )  # fmt: skip
        return _shape.squeeze(y, dim=0) if single else y


class InstanceNorm1d(_InstanceNorm):
    """(x − mean) / √(var + eps) for each channel of each sample of (N, C, L) or (C, L). Ulyanov et al. 2016."""

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """(x − mean) / √(var + eps) for each channel of each sample of (N, C, H, W) or (C, H, W). Ulyanov et al. 2016."""

    ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """(x − mean) / √(var + eps) for each channel of each sample of (N, C, D, H, W) or (C, D, H, W)."""

    ranks = (4, 5)


class _LazyInstanceNorm(_LazyNormBase, _InstanceNorm):
    def __init__(
        self, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True, track_running_stats: bool = True,
            device: Any = None,
        dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def initialize_parameters(self, input: Tensor) -> None:
        """Make the weights for the channels of this input, which may have no batch dimension."""
        super().initialize_parameters(_shape.unsqueeze(input, dim=0) if input.dim() == self.ranks[0] else input)


class LazyInstanceNorm1d(_LazyInstanceNorm):
    """`InstanceNorm1d` that takes num_features from its first input."""

    cls_to_become = InstanceNorm1d
    ranks = InstanceNorm1d.ranks


class LazyInstanceNorm2d(_LazyInstanceNorm):
    """`InstanceNorm2d` that takes num_features from its first input."""

    cls_to_become = InstanceNorm2d
    ranks = InstanceNorm2d.ranks


class LazyInstanceNorm3d(_LazyInstanceNorm):
    """`InstanceNorm3d` that takes num_features from its first input."""

    cls_to_become = InstanceNorm3d
    ranks = InstanceNorm3d.ranks
