"""Images: resampling, grids, and channels turned into space and back."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, ShapeError
from core.nn.functional._arguments import tuple_of
from core.nn.functional.pooling import _adaptive_avg_pool
from core.ops import index as _index
from core.ops import linalg as _linalg
from core.ops import pointwise as _pw
from core.ops import resample as _resample

__all__ = [
    "affine_grid", "channel_shuffle", "fold", "grid_sample", "interpolate", "pixel_shuffle", "pixel_unshuffle",
    "unfold", "upsample",
    "upsample_bilinear", "upsample_nearest",
]  # fmt: skip

# -- resampling
# ----------------------------------------------------------------------------------------------------------
# Along each dimension resampling is a linear map, so it is a product with a matrix (out, in) of few non-zeros, and so
# is its gradient.

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_CUBIC = -0.75  # Keys' a, as torch has it


def _cubic(d: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel at distance d. Keys 1981."""
    a, d = _CUBIC, np.abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _positions(out: int, size: int, scale: float, align_corners: bool, cubic: bool) -> np.ndarray:
    """(out): where each output lies in the input."""
    i = np.arange(out, dtype=np.float64)
    if align_corners:
        return i * ((size - 1) / (out - 1) if out > 1 else 0.0)
    at = (i + 0.5) * scale - 0.5
    return at if cubic else np.maximum(at, 0)


def _matrix(mode: str, out: int, size: int, scale: float, align_corners: bool, antialias: bool) -> np.ndarray:
    """(out, size): the weight of each input in each output."""
    m = np.zeros((out, size))
    rows = np.arange(out)
    if mode in ("nearest", "nearest-exact"):
        shift = 0.5 if mode == "nearest-exact" else 0.0
        # float32, as torch computes it: the index hangs on the rounding
        at = np.floor((rows + np.float32(shift)).astype(np.float32) * np.float32(scale)).astype(np.int64)
        m[rows, np.minimum(at, size - 1)] = 1
        return m
    cubic = mode == "bicubic"
    if antialias:
        stretch = max(scale, 1.0)
        centre = scale * (rows + 0.5)
        d = (np.arange(size) + 0.5 - centre[:, None]) / stretch
        m = _antialiased_cubic(d) if cubic else np.maximum(1 - np.abs(d), 0)
        return m / m.sum(axis=1, keepdims=True)
    at = _positions(out, size, scale, align_corners, cubic)
    first = np.floor(at).astype(np.int64)
    t = at - first
    taps = (
        [(k, _cubic(t - k)) for k in (-1, 0, 1, 2)] if cubic else [(0, 1 - t), (1, t)]
    )
    for k, weight in taps:
        np.add.at(m, (rows, np.clip(first + k, 0, size - 1)), weight)
    return m


def _antialiased_cubic(d: np.ndarray) -> np.ndarray:
    # with anti-aliasing torch follows Pillow, whose a is −0.5
    a, d = -0.5, np.abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return np.where(d < 1, near, np.where(d < 2, far, 0))


def _along(x: Tensor, m: np.ndarray, dim: int) -> Tensor:
    """The product of a matrix with one dimension of x."""
    w = wrap(backend.of(x._a).from_numpy(m.astype(x._a.dtype)))
    last = x.dim() - 1
    if dim == last:
        return _linalg.matmul(x, w.T)
    if dim == last - 1:
        return _linalg.matmul(w, x)
    return _linalg.matmul(x.transpose(dim, last), w.T).transpose(dim, last)


def interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Tensor:  # fmt: skip
    """(N, C, *in) -> (N, C, *out), to `size` or by `scale_factor`.

    Modes nearest, nearest-exact, linear (3-d), bilinear and bicubic (4-d), trilinear (5-d), area. `align_corners`: the
    centres of the corner pixels coincide, not the corners.
    """
    n = input.dim() - 2
    known = ["nearest", "nearest-exact", "area", _LINEAR.get(n, "linear"), *(["bicubic"] if n == 2 else [])]
    if n not in (1, 2, 3) or mode not in known:
        raise ArgumentError(
            f"interpolate: expected a 3-d, 4-d or 5-d input and a mode that fits it ({', '.join(known)}), got shape "
            f"{tuple(input.shape)} and mode {mode!r}"
        )
    if align_corners is not None and mode in ("nearest", "nearest-exact", "area"):
        raise ArgumentError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear | bicubic | trilinear"
        )
    if (size is None) == (scale_factor is None):
        raise ArgumentError("interpolate: expected one of size and scale_factor, got " + ("neither" if size is None else "both"))
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ArgumentError(
            "Anti-alias option is restricted to bilinear and bicubic modes and requires a 4-D tensor as input")
    sizes = input._a.shape[2:]
    factors: Sequence[float | None] = (None,) * n
    if size is None:
        factors = tuple(map(float, scale_factor)) if isinstance(scale_factor, (tuple, list)) else (float(scale_factor),
            ) * n
        if len(factors) != n:
            raise ArgumentError(f"interpolate: expected one scale_factor or {n}, got {scale_factor}")
        outs = tuple(math.floor(s * f) for s, f in zip(sizes, factors))
        if recompute_scale_factor:
            factors = (None,) * n
    else:
        if recompute_scale_factor:
            raise ArgumentError("recompute_scale_factor is not meaningful with an explicit size.")
        outs = tuple_of(size, n, "interpolate")
    if min(outs) < 1 or min(sizes) < 1:
        raise ShapeError(
            f"interpolate: Input and output sizes should be greater than 0, but got {tuple(sizes)} and {outs}")
    if mode == "area":
        return _adaptive_avg_pool(input, outs, n)
    for i, (s, out, f) in enumerate(zip(sizes, outs, factors)):
        if s == out and (f is None or f == 1):
            continue
        if mode == "nearest" and out % s == 0 and f in (None, out / s):
            input = _repeated(input, i + 2, out // s)
        else:
            scale = 1 / f if f else s / out
            input = _along(input, _matrix(mode, out, s, scale, bool(align_corners), antialias), i + 2)
    return input


def _repeated(x: Tensor, dim: int, times: int) -> Tensor:
    """Each element `times` times along one dimension: its gradient is a sum, not a product."""
    shape = x._a.shape
    y = x.unsqueeze(dim + 1).expand(*shape[: dim + 1], times, *shape[dim + 1 :])
    return y.reshape(*shape[:dim], shape[dim] * times, *shape[dim + 1 :])


def upsample(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None
) -> Tensor:
    """`interpolate` under its older name"""
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` with mode nearest"""
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    """`interpolate` with mode bilinear and align_corners"""
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


# -- grids
# ---------------------------------------------------------------------------------------------------------------


def affine_grid(theta: Tensor, size: Any, align_corners: bool | None = None) -> Tensor:
    """(N, 2, 3) and size (N, C, H, W) -> (N, H, W, 2), or (N, 3, 4) and (N, C, D, H, W) -> (N, D, H, W, 3): where
    `grid_sample` is to look.
    """
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. "
            "Please specify align_corners=True if the old behavior is desired.",
            stacklevel=2,
        )
    n, _, *space = tuple(size)
    dims = len(space)
    if dims not in (2, 3) or theta._a.shape != (n, dims, dims + 1):
        raise ShapeError(
            f"Expected a batch of 2D affine matrices of shape Nx2x3 for size NxCxHxW, or 3D of Nx3x4, got "
            f"{tuple(theta.shape)} for {tuple(size)}"
        )
    axes = []
    for length in space:
        at = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
        axes.append(at if align_corners else at * ((length - 1) / length))
    mesh = np.meshgrid(*axes, indexing="ij")[::-1]  # x first
    base = np.stack([*mesh, np.ones(space)], axis=-1).reshape(1, -1, dims + 1)
    points = wrap(backend.of(theta._a).from_numpy(base.astype(theta._a.dtype)))
    return _linalg.matmul(points, theta.transpose(1, 2)).reshape(n, *space, dims)


def grid_sample(
    input: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """(N, C, *in), (N, *out, dims) -> (N, C, *out): the input at the points of the grid, x first, −1 to 1 across.
    Jaderberg et al. 2015.

    Modes bilinear, nearest, bicubic (2-d); beyond the border zeros, its value ("border"), or the image reflected
    ("reflection").
    """
    dims = input.dim() - 2
    if mode not in ("bilinear", "nearest", "bicubic") or (mode == "bicubic" and dims != 2):
        raise ArgumentError(
            f"grid_sample: expected mode to be 'bilinear', 'nearest' or (4-d) 'bicubic', but got: {mode!r}"
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ArgumentError(
            f"grid_sample: expected padding_mode to be 'zeros', 'border', or 'reflection', but got: {padding_mode!r}"
        )
    if align_corners is None:
        warnings.warn(
            "Default grid_sample and affine_grid behavior has changed to align_corners=False since 1.3.0. "
            "Please specify align_corners=True if the old behavior is desired. See the documentation of grid_sample "
            "for details.",
            stacklevel=2,
        )
    n, c, *sizes = input._a.shape
    if dims not in (2, 3) or grid.dim() != input.dim() or grid._a.shape[0] != n or grid._a.shape[-1] != dims:
        raise ShapeError(
            f"grid_sample: expected input (N, C, *) of 4 or 5 dimensions and a grid (N, *, {dims}), got "
            f"{tuple(input.shape)} and "
            f"{tuple(grid.shape)}"
        )
    out = grid._a.shape[1:-1]
    flat, points = input.reshape(n, c, -1), grid.reshape(n, -1, dims)
    at = []  # where the points lie in each dimension, in pixels, the last dimension of the grid being the first of the input
    for i, size in enumerate(sizes):
        p = points[:, :, dims - 1 - i]
        p = (p + 1) * ((size - 1) / 2) if align_corners else ((p + 1) * size - 1) * 0.5
        at.append(p if mode == "bicubic" else _folded(p, size, padding_mode, bool(align_corners)))
    taps = [_taps(p, mode) for p in at]
    y: Any = 0.0
    for corner in itertools.product(*taps):
        weight: Any = 1.0
        index: Any = 0
        inside: Any = True
        xp = backend.of(input._a).xp
        for (place, w), size in zip(corner, sizes):
            if mode == "bicubic":
                place = xp.rint(_folded(wrap(place), size, padding_mode, bool(align_corners))._a)
            held = xp.clip(xp.nan_to_num(place), 0, size - 1).astype(np.int64)
            inside = inside & (place >= 0) & (place <= size - 1)
            index = index * size + held
            weight = weight if w is None else w * weight
        picked = _index.gather(flat, wrap(xp.broadcast_to(index[:, None], (n, c, index.shape[1]))), dim=2)
        keep = wrap(inside[:, None].astype(input._a.dtype))
        y = y + picked * (keep if isinstance(weight, float) else keep * weight.unsqueeze(1))
    return y.reshape(n, c, *out)


def _folded(p: Tensor, size: int, padding_mode: str, align_corners: bool) -> Tensor:
    """A position moved inside the image, as the padding mode says."""
    if padding_mode == "zeros":
        return p
    if padding_mode == "reflection":
        low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
        if span == 0:
            return p * 0
        d = _pw.remainder(_pw.abs(p - low), 2 * span)
        p = _pw.minimum(d, 2 * span - d) + low
    return _pw.clamp(p, 0.0, size - 1.0)


def _taps(p: Tensor, mode: str) -> list[tuple[Any, Any]]:
    """(position, weight) of the pixels that a point draws on along one dimension; the weight has a gradient, None is 1.
    """
    xp = backend.of(p._a).xp
    if mode == "nearest":
        return [(xp.rint(p._a), None)]
    first = xp.floor(p._a)
    t = p - wrap(first)
    if mode == "bilinear":
        return [(first, 1 - t), (first + 1, t)]
    a = _CUBIC
    far = lambda d: ((d * a - 5 * a) * d + 8 * a) * d - 4 * a
    near = lambda d: (d * (a + 2) - (a + 3)) * d * d + 1
    return [(first - 1, far(t + 1)), (first, near(t)), (first + 1, near(1 - t)), (first + 2, far(2 - t))]


# -- channels and space
# --------------------------------------------------------------------------------------------------


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C·r², H, W) -> (*, C, H·r, W·r). Shi et al. 2016."""
    r = upscale_factor
    *lead, c, h, w = input._a.shape
    if r < 1 or c % (r * r):
        raise ShapeError(
            f"pixel_shuffle expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but {c} is not by {r}²"
        )
    x = input.reshape(-1, c // (r * r), r, r, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(*lead, c // (r * r), h * r, w * r)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H·r, W·r) -> (*, C·r², H, W): undoes `pixel_shuffle`"""
    r = downscale_factor
    *lead, c, h, w = input._a.shape
    if r < 1 or h % r or w % r:
        raise ShapeError(
            f"pixel_unshuffle expects height and width to be divisible by downscale_factor, but {(h, w)} is not by {r}")
    x = input.reshape(-1, c, h // r, r, w // r, r).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(*lead, c * r * r, h // r, w // r)


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """(N, C, *): channel k of group g goes to place k·groups + g. Zhang et al. 2018."""
    n, c, *rest = input._a.shape
    if groups < 1 or c % groups:
        raise ShapeError(
            f"channel_shuffle: number of channels must be divisible by groups, got {c} channels and {groups} groups")
    return input.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)


def unfold(input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Tensor:
    """(N, C, H, W) -> (N, C·kh·kw, L): the patches that a convolution meets, as columns"""
    single, x = (input.dim() == 3), (input.unsqueeze(0) if input.dim() == 3 else input)
    if x.dim() != 4:
        raise ShapeError(f"unfold: expected 3D or 4D input, got shape {tuple(input.shape)}")
    k, d, p, s = (tuple_of(v, 2, "unfold") for v in (kernel_size, dilation, padding, stride))
    y = _resample.im2col(x, k=k, dilation=d, padding=p, stride=s)
    return y.squeeze(0) if single else y


def fold(input: Tensor, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0,
        stride: Any = 1) -> Tensor:
    """(N, C·kh·kw, L) -> (N, C, H, W): each column added where `unfold` took it from"""
    single, x = (input.dim() == 2), (input.unsqueeze(0) if input.dim() == 2 else input)
    if x.dim() != 3:
        raise ShapeError(f"fold: expected 2D or 3D input, got shape {tuple(input.shape)}")
    size = tuple_of(output_size, 2, "fold")
    k, d, p, s = (tuple_of(v, 2, "fold") for v in (kernel_size, dilation, padding, stride))
    y = _resample.col2im(x, size=size, k=k, dilation=d, padding=p, stride=s)
    return y.squeeze(0) if single else y
