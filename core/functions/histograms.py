"""Counts of elements by where they lie, by torch's signatures: `histc` and `bincount` are ops of their own. No gradients."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, DTypeError, ShapeError

Histogram = namedtuple("Histogram", "hist bin_edges")


def _edges(x: np.ndarray, bins: Any, range: Any) -> np.ndarray:
    """The bins' edges along one dimension, of which x are the coordinates."""
    if isinstance(bins, Tensor):
        return bins._host().astype(x.dtype)
    lo, hi = range if range is not None else (x.min(), x.max()) if x.size else (0.0, 0.0)
    if not (np.isfinite(lo) and np.isfinite(hi) and lo <= hi):
        raise ArgumentError(f"histogram: expected a finite range with min <= max, got {lo} to {hi}")
    if range is None and lo == hi:  # of equal elements
        lo, hi = lo - 0.5, hi + 0.5
    return np.linspace(lo, hi, bins + 1, dtype=x.dtype)


def histogramdd(
    x: Tensor, bins: Any, *, range: Any = None, weight: Tensor | None = None, density: bool = False
) -> Histogram:
    """(*, D) points -> (counts (n₁, …, n_D), edges (nᵢ + 1) along each dimension).

    `bins`: how many along each dimension, one number for all, or a tensor of edges for each; `range`: min and max of each, one after
    the other. The last bins hold their upper edge; points outside are left out. `weight` (*) counts a point so often; `density`
    divides by volume and total.
    """
    if not x.is_floating_point():
        raise DTypeError(f"histogramdd: expected floating numbers, got {x.dtype}; use x.float()")
    if x._a.ndim < 1:
        raise ShapeError(f"histogramdd: expected points (*, D), got shape {tuple(x.shape)}")
    points = x._host().reshape(-1, x._a.shape[-1])
    d = points.shape[1]
    bins = list(bins) if isinstance(bins, (list, tuple)) else [bins] * d
    if len(bins) != d or (range is not None and len(range) != 2 * d):
        raise ShapeError(f"histogramdd: expected bins and ranges for {d} dimensions, got {bins} and {range}")
    ranges = [None] * d if range is None else list(zip(range[::2], range[1::2]))
    edges = [_edges(points[:, i], b, r) for i, (b, r) in enumerate(zip(bins, ranges))]
    if weight is not None and weight._a.shape != x._a.shape[:-1]:
        raise ShapeError(
            f"histogramdd: expected a weight for each point {tuple(x.shape[:-1])}, got {tuple(weight.shape)}"
        )
    weights = np.ones(len(points), points.dtype) if weight is None else weight._host().reshape(-1)
    counts = _counted(points, edges, weights)
    if density:
        total = counts.sum()
        for i, e in enumerate(edges):
            counts = counts / np.diff(e).reshape([-1 if i == k else 1 for k in np.arange(d)])
        counts = counts / total
    be, at = backend.of(x._a), backend.of(x._a).index_of(x._a)
    return Histogram(
        wrap(be.from_numpy(counts.astype(points.dtype), at)), tuple(wrap(be.from_numpy(e, at)) for e in edges)
    )


def _counted(points: np.ndarray, edges: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    places = []
    inside = np.ones(len(points), bool)
    for v, e in zip(points.T, edges):
        inside &= (v >= e[0]) & (v <= e[-1])
        places.append(np.minimum(np.searchsorted(e, v, side="right") - 1, len(e) - 2))
    shape = tuple(len(e) - 1 for e in edges)
    flat = np.ravel_multi_index([p[inside] for p in places], shape)
    return np.bincount(flat, weights[inside], int(np.prod(shape))).reshape(shape)


def histogram(
    x: Tensor, bins: Any, *, range: Any = None, weight: Tensor | None = None, density: bool = False
) -> Histogram:
    """(counts, edges) of all elements: `bins` is how many, within `range` (min, max) or the elements' own, or a tensor of edges."""
    flat = None if weight is None else weight.reshape(-1)
    hist, edges = histogramdd(x.reshape(-1, 1), [bins], range=range, weight=flat, density=density)
    return Histogram(hist, edges[0])
