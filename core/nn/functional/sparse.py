"""Embeddings as functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.autograd.function import Function
from core.errors import ArgumentError, DTypeError, RangeError, ShapeError
from core.ops import index as _index
from core.ops import pointwise as _pw
from core.ops import reduce as _reduce

__all__ = ["embedding", "embedding_bag", "one_hot"]


def _padding(padding_idx: int | None, rows: int, where: str) -> int | None:
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise RangeError(
            f"{where}: Padding_idx must be within num_embeddings: expected {-rows} to {rows - 1}, got {padding_idx}")
    return padding_idx % rows


def _renormed(weight: Tensor, index: Tensor, max_norm: float, norm_type: float) -> None:
    """Scale the rows that the index names down to `max_norm`, in place, outside of the graph."""
    xp = backend.of(weight._a).xp
    rows = xp.unique(index._a)
    w = weight._a[rows]
    norms = (xp.abs(w) ** norm_type).sum(axis=1, keepdims=True) ** (1.0 / norm_type)
    weight._a[rows] = xp.where(norms > max_norm, w * (max_norm / (norms + 1e-7)), w).astype(w.dtype, copy=False)
    weight._bump()


class _ByFrequency(Function):
    """The identity; the gradient is divided by how often its row was asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: Tensor) -> Tensor:
        ctx.save_for_backward(count)
        return wrap(x._a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (count,) = ctx.saved_tensors
        return g / count, None


def _shared(rows: Tensor, index: Tensor) -> Tensor:
    xp = backend.of(index._a).xp
    count = xp.bincount(index._a.reshape(-1))[index._a][..., None].astype(rows._a.dtype)
    return _ByFrequency.apply(rows, wrap(count))


def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: Any = None, norm_type: float = 2.0,
    scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    """Rows of weight (V, D) by an index of any shape (*): (*, D)

    The row `padding_idx` gets no gradient. `max_norm`: rows that are used are scaled down to it first, in place.
    `scale_grad_by_freq`: the gradient of a row is divided by how often it is used. Gradients are dense; `sparse`
    changes nothing.
    """
    padding_idx = _padding(padding_idx, weight._a.shape[0], "embedding")
    if max_norm is not None:
        _renormed(weight, input, float(max_norm), norm_type)
    y = _index.embedding(input, weight, padding_idx=padding_idx)
    return _shared(y, input) if scale_grad_by_freq else y


def embedding_bag(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: Any = None, norm_type: float = 2,
    scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor:  # fmt: skip
    """The sum, mean or max of the rows of each bag: input (B, L), or (ΣL) with the bags' `offsets` (B) -> (B, D)

    Empty bags, and bags of `padding_idx` only, are zeros. `per_sample_weights` weigh the rows of a sum.
    """
    where = "embedding_bag"
    if mode not in ("sum", "mean", "max"):
        raise ArgumentError(f"{where}: mode has to be one of sum, mean or max, got {mode!r}")
    if per_sample_weights is not None:
        if mode != "sum":
            raise ArgumentError(
                f"{where}: per_sample_weights was not None; it is only supported for mode='sum', got {mode!r}")
        if per_sample_weights._a.shape != input._a.shape:
            raise ShapeError(
                f"{where}: expected per_sample_weights of the input's shape {tuple(input.shape)}, got "
                f"{tuple(per_sample_weights.shape)}"
            )
    padding_idx = _padding(padding_idx, weight._a.shape[0], where)
    place, present = _bags(input, offsets, include_last_offset)
    # every bag as a row: a ragged one is filled up with its own first index, and what is filled does not count
    index = wrap(input._a.reshape(-1)[place] if input._a.size else place)
    keep = present if padding_idx is None else present & (index._a != padding_idx)
    if max_norm is not None:
        _renormed(weight, input, float(max_norm), norm_type)
    if not index._a.size:
        return weight.new_zeros((place.shape[0], weight._a.shape[1]))
    rows = _index.embedding(index, weight, padding_idx=padding_idx)  # (B, L, D)
    if scale_grad_by_freq:
        rows = _shared(rows, index)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape(-1)[wrap(place)].unsqueeze(-1)
    mask = wrap(keep[..., None])
    if mode == "max":
        some = wrap(keep.any(axis=1, keepdims=True))
        top = _reduce.max_dim(_pw.masked_fill(rows, _pw.logical_not(mask), -np.inf), dim=1)[0]
        return _pw.where(some, top, 0.0)
    y = _reduce.sum(_pw.where(mask, rows, 0.0), dim=1)
    if mode == "mean":
        xp = backend.of(weight._a).xp
        y = y / wrap(xp.maximum(keep.sum(axis=1, keepdims=True), 1).astype(weight._a.dtype))
    return y


def _bags(input: Tensor, offsets: Tensor | None, include_last_offset: bool) -> tuple[Any, Any]:
    """(B, longest): the places in the flat input that each bag holds, and which of them are real."""
    xp, a = backend.of(input._a).xp, input._a
    if a.ndim == 2:
        if offsets is not None:
            raise ArgumentError(
                "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed length "
                "sequences")
        return xp.arange(a.size).reshape(a.shape), xp.ones(a.shape, dtype=bool)
    if a.ndim != 1:
        raise ShapeError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {a.ndim}")
    if offsets is None:
        raise ArgumentError("offsets has to be a 1D Tensor but got None")
    if offsets.dim() != 1:
        raise ShapeError(f"offsets has to be a 1D Tensor, got shape {tuple(offsets.shape)}")
    starts = offsets._a
    if starts.size and int(starts[0]) != 0:
        raise ArgumentError(
            f"offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position 0, got "
            f"{int(starts[0])}")
    if include_last_offset:
        starts, ends = starts[:-1], starts[1:]
    else:
        ends = xp.concatenate([starts[1:], xp.full(min(1, starts.size), a.size, dtype=starts.dtype)])
    longest = int((ends - starts).max()) if starts.size else 0
    place = starts[:, None] + xp.arange(longest)
    present = place < ends[:, None]
    return xp.where(present, place, xp.minimum(starts[:, None], max(a.size - 1, 0))), present


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """(*) of classes -> (*, num_classes) of zeros and ones, int64; by default there are as many as the greatest says"""
    a = tensor._a
    if a.dtype != np.int64:
        raise DTypeError(
            f"one_hot is only applicable to index tensor of type LongTensor, got {tensor.dtype}; use tensor.long()")
    if not a.size:
        if num_classes <= 0:
            raise ArgumentError("Can not infer total number of classes from empty tensor.")
    elif backend.of(a).device_type == "cpu" or num_classes == -1:
        low, high = int(a.min()), int(a.max())
        if low < 0:
            raise ArgumentError(f"Class values must be non-negative, got {low}")
        if num_classes != -1 and high >= num_classes:
            raise ArgumentError(
                f"Class values must be smaller than num_classes: expected 0 to {num_classes - 1}, got {high}")
        num_classes = high + 1 if num_classes == -1 else num_classes
    return wrap((a[..., None] == backend.of(a).xp.arange(num_classes)).astype(np.int64))
