"""The CPU's normalisation: oneDNN over rows and over channels that lie last, BLAS over the channels of (N, C, *) in C order, where
oneDNN is a third as fast.

Contract: that of `core.backend.cpu`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.base import Ints
from core.backend.cpu.elements import ElementKernels
from core.backend.cpu.sums import channel_dots, channel_sums
from core.backend.onednn import images, kernels, normalisation

_NORM_SIZE = 1 << 13  # elements from which oneDNN is the faster: of rows;
_BATCH_SIZE, _CHANNELS_SIZE = 1 << 8, 1 << 11  # of batch normalisation by its own moments and back; by others
_CHANNEL_LENGTH = 16  # elements of a channel of a sample, from which BLAS sums them faster than NumPy


class NormKernels(ElementKernels):
    """Mixed into `CPUBackend`."""

    def normalize(self, x: Any, w: Any, b: Any, axes: Ints, eps: float) -> tuple[Any, Any, Any]:
        if w is not None and b is not None and w.shape == b.shape == x.shape[-1:] and _are_rows(x, axes):
            found = kernels.standardized_rows(x, w, b, eps)
            if found is not None:
                y, mean, variance = found
                return y, mean[..., None], variance[..., None]
        found = self._by_batch(x, w, b, axes, eps, False)
        return super().normalize(x, w, b, axes, eps) if found is None else found[:3]

    def normalize_relu(self, x: Any, w: Any, b: Any, axes: Ints, eps: float) -> tuple[Any, Any, Any, Any]:
        found = self._by_batch(x, w, b, axes, eps, True)
        return super().normalize_relu(x, w, b, axes, eps) if found is None else found

    def _by_batch(self, x: Any, w: Any, b: Any, axes: Ints, eps: float, rectified: bool) -> tuple[Any, ...] | None:
        """`normalisation.normalize_by_batch` where it is the case."""
        if w is None or b is None or not _are_last(x, axes, _BATCH_SIZE) or not w.size == b.size == x.shape[1]:
            return None
        found = normalisation.normalize_by_batch(x, _vector(w), _vector(b), eps, rectified)
        if found is None:
            return None
        y, mean, variance, kept = found
        like = _like(x)
        return y, mean.reshape(like), variance.reshape(like), kept

    def moments(self, x: Any, axes: Ints) -> tuple[Any, Any]:
        if _are_rows(x, axes):
            found = kernels.row_moments(x)
            if found is not None:
                return found[0][..., None], found[1][..., None]
        elif _are_last(x, axes):
            found = normalisation.channel_moments(x)
            if found is not None:
                like = _like(x)
                return found[0].reshape(like), found[1].reshape(like)
        elif _are_channels(x, axes):
            n, like = x.size // x.shape[1], _like(x)
            mean = (channel_sums(x) / n).reshape(like)
            centred = x - mean
            return mean, (channel_dots(centred, centred) / n).reshape(like)
        return super().moments(x, axes)

    def standardize(self, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints) -> Any:
        if w is None or b is None:
            return super().standardize(x, w, b, mean, rstd, axes)
        if _are_rows(x, axes) and w.shape == b.shape == x.shape[-1:] and mean.shape == (*x.shape[:-1], 1):
            y = kernels.normalize_rows(x, w, b, mean[..., 0], rstd[..., 0])
            if y is not None:
                return y
        elif _are_last(x, axes) and w.size == b.size == mean.size == x.shape[1]:
            y = normalisation.normalize_channels(x, *(_vector(a) for a in (w, b, mean, rstd)))
            if y is not None:
                return y
        elif _are_channels(x, axes) and w.size == b.size == mean.size == x.shape[1] and w.dtype == x.dtype:
            scale = rstd * w.reshape(rstd.shape)
            y = x * scale
            y += b.reshape(rstd.shape) - mean * scale
            return y
        return super().standardize(x, w, b, mean, rstd, axes)

    def standardize_grad(
        self, g: Any, x: Any, w: Any, b: Any, mean: Any, rstd: Any, axes: Ints
    ) -> tuple[Any, Any, Any]:
        if w is None or b is None:
            return super().standardize_grad(g, x, w, b, mean, rstd, axes)
        if _are_rows(x, axes) and w.shape == b.shape == x.shape[-1:] and mean.shape == (*x.shape[:-1], 1):
            found = kernels.normalize_rows_grad(g, x, w, mean[..., 0], rstd[..., 0])
            if found is not None:
                return _like_weights(found, w, b)
        elif _are_last(x, axes, _BATCH_SIZE) and w.size == b.size == mean.size == x.shape[1]:
            found = normalisation.normalize_channels_grad(g, x, *(_vector(a) for a in (w, mean, rstd)))
            if found is not None:
                return _like_weights(found, w, b)
        elif (
            _are_channels(x, axes)
            and _are_channels(g, axes)
            and w.size == b.size == mean.size == x.shape[1]
            and w.dtype == x.dtype
        ):
            n = x.size // x.shape[1]
            h = x - mean
            sum_g, sum_gh = channel_sums(g).reshape(rstd.shape), channel_dots(g, h).reshape(rstd.shape)
            # dx = rstd·w·(g − Σg/n − h·rstd²·Σgh/n)
            h *= rstd * rstd * sum_gh / -n
            h -= sum_g / n
            h += g
            h *= rstd * w.reshape(rstd.shape)
            return h, (sum_gh * rstd).reshape(w.shape), sum_g.reshape(b.shape)
        return super().standardize_grad(g, x, w, b, mean, rstd, axes)

    def normalize_relu_grad(
        self, g: Any, x: Any, w: Any, b: Any, y: Any, mean: Any, rstd: Any, kept: Any, axes: Ints
    ) -> tuple[Any, Any, Any]:
        if kept.size:
            weight, centre, scale = (_vector(a) for a in (w, mean, rstd))
            found = normalisation.normalize_channels_grad(g, x, weight, centre, scale, kept)
            if found is not None:
                return _like_weights(found, w, b)
        return super().normalize_relu_grad(g, x, w, b, y, mean, rstd, kept, axes)


def _are_rows(x: Any, axes: Ints) -> bool:
    """Whether each row is normalised by itself, and there is enough to do."""
    return axes == (x.ndim - 1,) and x.ndim > 1 and x.size >= _NORM_SIZE


def _are_last(x: Any, axes: Ints, least: int = _CHANNELS_SIZE) -> bool:
    """Whether each channel of (N, C, *) is, there is enough to do, and channels lie side by side in memory."""
    if x.ndim < 2 or axes != (0, *range(2, x.ndim)) or x.size < least:
        return False
    return x.ndim == 2 or images.lies_channels_last(x)


def _like(x: Any) -> Ints:
    """(1, C, 1, …), the shape of what each channel has one of."""
    return (1, x.shape[1], *(1,) * (x.ndim - 2))


def _like_weights(found: tuple[Any, Any, Any], w: Any, b: Any) -> tuple[Any, Any, Any]:
    """Gradients for x, w and b, the last two in the dtypes and shapes of w and b."""
    dx, *rest = found
    dw, db = (d.astype(p.dtype, copy=False).reshape(p.shape) for d, p in zip(rest, (w, b)))
    return dx, dw, db


def _vector(x: Any) -> np.ndarray:
    return np.ascontiguousarray(x, dtype=np.float32).reshape(-1)


def _are_channels(x: Any, axes: Ints) -> bool:
    """Whether each channel of (N, C, *) is, and lies in memory so that BLAS can sum it."""
    return (
        x.ndim > 2
        and axes == (0, *range(2, x.ndim))
        and x.dtype == np.float32
        and x.flags.c_contiguous
        and x.size >= _CHANNEL_LENGTH * x.shape[0] * x.shape[1] > 0
    )
