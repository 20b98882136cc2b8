"""Sequences of different lengths in one batch: padded, or packed step by step.

A packed batch holds step 0 of all sequences, then step 1 of those that have one, and so on; sequences are sorted by
length, longest first.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, ShapeError
from core.ops import index as _index
from core.ops import shape as _shape

_Packed = namedtuple("_Packed", ["data", "batch_sizes", "sorted_indices", "unsorted_indices"])


class PackedSequence(_Packed):
    """data (ΣN, *), batch_sizes (T) on the CPU, and the orders to and from sorted; made by `pack_padded_sequence` and
    `pack_sequence`.
    """

    __slots__ = ()

    def __new__(cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None,
            unsorted_indices: Any = None) -> Any:
        if batch_sizes is None:
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """The data with another dtype or on another device; itself if nothing changes."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        orders = [None if i is None else i.to(data.device) for i in (self.sorted_indices, self.unsorted_indices)]
        return type(self)(data, self.batch_sizes, *orders)

    def cpu(self) -> PackedSequence:
        """On the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> PackedSequence:
        """On a GPU."""
        return self.to("cuda" if device is None else device)

    def double(self) -> PackedSequence:
        """The data as float64."""
        return self._cast("double")

    def float(self) -> PackedSequence:
        """The data as float32."""
        return self._cast("float")

    def half(self) -> PackedSequence:
        """The data as float16."""
        return self._cast("half")

    def _cast(self, name: str) -> PackedSequence:
        return self.to(getattr(self.data, name)().dtype)

    @property
    def is_cuda(self) -> bool:
        return self.data.is_cuda


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The order that undoes one; None is none."""
    if permutation is None:
        return None
    a = permutation._a
    inverse = backend.of(a).xp.empty_like(a)
    inverse[a] = backend.of(a).xp.arange(a.size)
    return wrap(inverse)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """(T, N, *), or (N, T, *) with `batch_first`, and lengths (N) -> a packed batch; unless `enforce_sorted` sequences
    are sorted first.
    """
    n = np.asarray(lengths._host() if isinstance(lengths, Tensor) else lengths, dtype=np.int64)
    order = None
    if not enforce_sorted:
        sorted_places = np.argsort(-n, kind="stable")
        n = n[sorted_places]
        order = wrap(backend.of(input._a).from_numpy(sorted_places))
        input = _index.index_select(input, order, dim=0 if batch_first else 1)
    x = input.transpose(0, 1) if batch_first else input
    if n.shape != (x._a.shape[1],):
        raise ShapeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {n.size} (batch_size={x._a.shape[1]})")
    if not n.size or n.min() <= 0:
        raise ArgumentError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0")
    if (np.diff(n) > 0).any():
        raise ArgumentError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to "
            "pack_padded_sequence and/or pack_sequence to sidestep this requirement if you do not need ONNX "
            "exportability."
        )
    if n[0] > x._a.shape[0]:
        raise ShapeError(f"pack_padded_sequence: expected lengths up to {x._a.shape[0]}, got {int(n[0])}")
    sizes = (n > np.arange(n[0])[:, None]).sum(axis=1)
    rows = [_shape.slice_view(x, index=(t, slice(int(k)))) for t, k in enumerate(sizes)]
    return PackedSequence(_shape.cat(rows, dim=0), wrap(sizes), order)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """A packed batch -> (T, N, *), or (N, T, *) with `batch_first`, and lengths (N), in the original order"""
    sizes = sequence.batch_sizes._host()
    steps, n = len(sizes), int(sizes[0])
    if total_length is not None:
        if total_length < steps:
            raise ArgumentError(
                f"Expected total_length to be at least the length of the longest sequence in input, but got "
                f"total_length={total_length} "
                f"and max sequence length being {steps}"
            )
        steps = total_length
    data, rest = sequence.data, sequence.data._a.shape[1:]
    # row (t, k) of the result is row start[t] + k of the data, or the row of padding behind it
    starts = np.concatenate([[0], np.cumsum(sizes)])
    place = np.full((steps, n), int(starts[-1]))
    for t, k in enumerate(sizes.tolist()):
        place[t, :k] = starts[t] + np.arange(k)
    lengths = (np.arange(n) < sizes[:, None]).sum(axis=0)
    be = backend.of(data._a)
    filler = wrap(be.xp.full((1, *rest), padding_value, dtype=data._a.dtype))
    y = _index.index_select(_shape.cat([data, filler], dim=0), wrap(be.from_numpy(place.reshape(-1))), dim=0)
    y, counts = y.reshape(steps, n, *rest), wrap(lengths)
    if sequence.unsorted_indices is not None:
        y = _index.index_select(y, sequence.unsorted_indices, dim=1)
        counts = wrap(lengths[sequence.unsorted_indices._host()])
    return (y.transpose(0, 1) if batch_first else y), counts


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Tensors (L, *) of different lengths -> (T, N, *), or (N, T, *) with `batch_first`"""
    if padding_side not in ("right", "left"):
        raise ArgumentError(f"pad_sequence: expected padding_side to be 'left' or 'right', got {padding_side!r}")
    if not isinstance(sequences, (list, tuple, Tensor)) or not len(sequences):
        raise ArgumentError(
            f"pad_sequence: Expected iterable for input sequences, not empty, but got {type(sequences).__name__}")
    longest = max(s._a.shape[0] for s in sequences)
    rows = []
    for s in sequences:
        more = longest - s._a.shape[0]
        sides = (0, more) if padding_side == "right" else (more, 0)
        rows.append(_shape.constant_pad(s, pad=(*(0,) * (2 * (s.dim() - 1)), *sides), value=padding_value))
    return _shape.stack(rows, dim=0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """(T, N, *) and lengths (N) -> tensors (L, *)"""
    x = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [x[k, : int(n)] for k, n in enumerate(lengths.tolist())]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Tensors (L, *) of different lengths -> a packed batch"""
    lengths = [s._a.shape[0] for s in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """A packed batch -> tensors (L, *)"""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
