"""torchvision.utils: many pictures as one, and into a file."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.vision.transforms import functional as F

__all__ = ["make_grid", "save_image"]


def make_grid(
    tensor: Any,
    nrow: int = 8,
    padding: int = 2,
    normalize: bool = False,
    value_range: Any = None,
    scale_each: bool = False,
    pad_value: float = 0.0,
) -> Tensor:
    """(N, C, H, W), or a list of (C, H, W), as one picture (3, …): rows of `nrow`, `padding` pixels between."""
    x = core.stack(list(tensor)) if isinstance(tensor, (list, tuple)) else tensor
    x = x.unsqueeze(0) if x.dim() == 2 else x
    x = x.unsqueeze(0) if x.dim() == 3 else x
    x = x.repeat(1, 3, 1, 1) if x.size(1) == 1 else x
    if normalize:
        x = core.stack([_normalized(one, value_range) for one in x]) if scale_each else _normalized(x, value_range)
    if x.size(0) == 1:
        return x.squeeze(0)
    n, c, h, w = x.shape
    columns = min(nrow, n)
    rows = math.ceil(n / columns)
    h, w = h + padding, w + padding
    grid = x.new_full((c, h * rows + padding, w * columns + padding), pad_value)
    for k in range(n):
        i, j = divmod(k, columns)
        grid[:, i * h + padding : (i + 1) * h, j * w + padding : (j + 1) * w] = x[k]
    return grid


def _normalized(x: Tensor, value_range: Any) -> Tensor:
    low, high = (float(x.min()), float(x.max())) if value_range is None else value_range
    return x.clamp(low, high).sub(low).div(max(high - low, 1e-5))


def save_image(tensor: Any, fp: Any, format: str | None = None, **options: Any) -> None:
    """The grid of the pictures, from 0 to 1, into a file."""
    with core.no_grad():
        grid = make_grid(tensor, **options).mul(255).add_(0.5).clamp_(0, 255).to("cpu", core.uint8)
    F.to_pil_image(grid).save(fp, format=format)
