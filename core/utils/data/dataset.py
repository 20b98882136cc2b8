"""Datasets: what can be asked for samples, by index or as a stream.

A map-style dataset has `__getitem__`, and `__len__` where the default samplers are used. It may have
`__getitems__(indices)`, a list of samples for a list of indices, which the loader then calls once a batch. An
`IterableDataset` has `__iter__` only.
Not here: batching (`_utils.fetch`), order (`sampler`).
"""

from __future__ import annotations

import bisect
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from core import rng
from core._tensor import Tensor
from core.errors import ArgumentError, CoreError, RangeError

T_co = TypeVar("T_co", covariant=True)


class DatasetError(CoreError, AssertionError, ValueError):
    """Datasets that do not fit together; torch asserts these."""


class Dataset(Generic[T_co]):
    """Samples by index. Subclasses define `__getitem__`; `len` of one without `__len__` is a TypeError."""

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError(
            f"{type(self).__name__}: expected a dataset that defines __getitem__, got one without; define it"
        )

    def __add__(self, other: Dataset[Any]) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T_co], Iterable[T_co]):
    """A stream of samples. In a worker every process reads its own copy: split it by `get_worker_info()`."""

    def __add__(self, other: Dataset[Any]) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Sample i is the tuple of row i of each tensor."""

    tensors: tuple[Tensor, ...]

    def __init__(self, *tensors: Tensor):
        lengths = [t.size(0) for t in tensors]
        if not lengths or len(set(lengths)) > 1:
            raise DatasetError(
                f"TensorDataset: expected tensors of one length along dimension 0, got lengths {lengths} "
                "(Size mismatch between tensors)"
            )
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].size(0)


class StackDataset(Dataset[Any]):
    """Sample i is sample i of every dataset: as a tuple for positional datasets, as a dict for named ones."""

    datasets: tuple[Any, ...] | dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any):
        if bool(args) == bool(kwargs):
            raise ArgumentError(
                "StackDataset: expected datasets either positional or named, "
                f"got {len(args)} positional and {len(kwargs)} named"
            )
        self.datasets = args or kwargs
        lengths = [len(d) for d in self._members()]
        if len(set(lengths)) > 1:
            raise ArgumentError(
                f"StackDataset: expected datasets of one length, got {lengths} (Size mismatch between datasets)"
            )
        self._length = lengths[0]

    def __getitem__(self, index: Any) -> Any:
        return self._sample(tuple(d[index] for d in self._members()))

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        columns = [samples_of(d, indices) for d in self._members()]
        for column in columns:
            if len(column) != len(indices):
                raise ArgumentError(
                    f"StackDataset: expected {len(indices)} samples of a dataset's __getitems__, got {len(column)} "
                    "(Nested dataset's output size mismatch)"
                )
        return [self._sample(row) for row in zip(*columns)]

    def __len__(self) -> int:
        return self._length

    def _members(self) -> Iterable[Any]:
        return self.datasets.values() if isinstance(self.datasets, dict) else self.datasets

    def _sample(self, row: tuple[Any, ...]) -> Any:
        return dict(zip(self.datasets, row)) if isinstance(self.datasets, dict) else row


class ConcatDataset(Dataset[T_co]):
    """One dataset after the other."""

    datasets: list[Any]
    cumulative_sizes: list[int]

    @staticmethod
    def cumsum(sequence: Iterable[Any]) -> list[int]:
        """Where each dataset ends."""
        return list(itertools.accumulate(len(d) for d in sequence))

    def __init__(self, datasets: Iterable[Any]):
        self.datasets = list(datasets)
        if not self.datasets:
            raise DatasetError(
                "ConcatDataset: expected at least one dataset, got none (datasets should not be an empty iterable)"
            )
        if any(isinstance(d, IterableDataset) for d in self.datasets):
            raise DatasetError("ConcatDataset: expected map-style datasets, got an IterableDataset; use ChainDataset")
        self.cumulative_sizes = self.cumsum(self.datasets)

    def __getitem__(self, index: int) -> T_co:
        n = len(self)
        if not -n <= index < n:
            raise RangeError(f"ConcatDataset: expected {-n} <= index < {n}, got {index}")
        index %= n
        which = bisect.bisect_right(self.cumulative_sizes, index)
        return self.datasets[which][index - (self.cumulative_sizes[which - 1] if which else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


class ChainDataset(IterableDataset[Any]):
    """One stream after the other."""

    def __init__(self, datasets: Iterable[Any]):
        self.datasets = datasets

    def __iter__(self) -> Iterator[Any]:
        for d in self._streams():
            yield from d

    def __len__(self) -> int:
        return sum(len(d) for d in self._streams())

    def _streams(self) -> Iterator[Any]:
        for d in self.datasets:
            if not isinstance(d, IterableDataset):
                raise DatasetError(
                    f"ChainDataset: expected IterableDatasets, got {type(d).__name__}; use ConcatDataset"
                )
            yield d


class Subset(Dataset[T_co]):
    """Sample i is sample indices[i] of another dataset. Override `__getitem__` and `__getitems__` together."""

    def __init__(self, dataset: Any, indices: Sequence[int]):
        cls = type(self)
        if cls.__getitem__ is not Subset.__getitem__ and cls.__getitems__ is Subset.__getitems__:
            raise NotImplementedError(
                f"Subset: expected {cls.__name__} to override __getitems__ with __getitem__, got __getitem__ only; "
                "add: def __getitems__(self, indices): return [self[i] for i in indices]"
            )
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: Any) -> T_co:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: list[Any]) -> list[T_co]:
        return samples_of(self.dataset, [self.indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)


def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: rng.Generator | None = None
) -> list[Subset[Any]]:
    """Disjoint random subsets of given lengths, or fractions (rounded down, the rest dealt out from the first on)."""
    n = len(dataset)
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1:
        if any(not 0 <= f <= 1 for f in lengths):
            raise ArgumentError(f"random_split: expected fractions from 0 to 1, got {list(lengths)}")
        counts = [math.floor(n * f) for f in lengths]
        for i in range(n - sum(counts)):
            counts[i % len(counts)] += 1
        for i, count in enumerate(counts):
            if not count:
                warnings.warn(
                    f"Length of split at index {i} is 0. This might result in an empty dataset.", stacklevel=2
                )
    else:
        counts = [int(length) for length in lengths]
        if sum(lengths) != n:
            raise ArgumentError(
                f"random_split: expected lengths that sum to {n}, the length of the dataset, got {list(lengths)} "
                "(Sum of input lengths does not equal the length of the input dataset!)"
            )
    order = (generator or rng.default_generator).permutation(n).tolist()
    return [Subset(dataset, order[end - count : end]) for end, count in zip(itertools.accumulate(counts), counts)]


def samples_of(dataset: Any, indices: list[Any]) -> list[Any]:
    """The samples at these indices: by the dataset's `__getitems__` if it has one."""
    if getattr(dataset, "__getitems__", None):
        return dataset.__getitems__(indices)
    return [dataset[i] for i in indices]
