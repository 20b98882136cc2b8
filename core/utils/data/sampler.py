"""The order in which samples are read: iterables of indices, or of lists of indices.

Every draw is PyTorch's for the same seed: a sampler without a generator of its own seeds a new one from the default
stream (two words) each time that it is iterated. Nothing is drawn before the first index is asked for.
Not here: `DistributedSampler`, which knows of ranks (`ddp.sampler`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from core import rng
from core._tensor import wrap
from core.errors import ArgumentError, DTypeError, ShapeError

T_co = TypeVar("T_co", covariant=True)


class Sampler(Generic[T_co]):
    """Base of samplers. Subclasses define `__iter__`, and `__len__` where there is one."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(
            f"{type(self).__name__}: expected a sampler that defines __iter__, got one without; define it"
        )


class SequentialSampler(Sampler[int]):
    """0, 1, …, len(data_source) − 1"""

    def __init__(self, data_source: Sized):
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """Random indices of `data_source`: permutations of all of it, one after the other, or independent draws if
    `replacement`.

    Independent draws are made as they are asked for, 32 at a time, so the source may be of any length.
    """

    def __init__(
        self,
        data_source: Sized,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: rng.Generator | None = None,
    ):
        if not isinstance(replacement, bool):
            raise DTypeError(f"RandomSampler: expected replacement True or False, got {replacement!r}")
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        _check_positive("RandomSampler", "num_samples", self.num_samples)

    @property
    def num_samples(self) -> int:
        """How many indices one iteration gives: by default the length of the source, which may change."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n, left = len(self.data_source), self.num_samples
        generator = rng.Generator().manual_seed(draw_seed()) if self.generator is None else self.generator
        while left > 0:
            if self.replacement:
                drawn = generator.integers(min(left, 32), 0, n).tolist()
            else:
                drawn = generator.permutation(n).tolist()[:left]
            yield from drawn
            left -= len(drawn)
        if self.generator is not None and not self.replacement and not self.num_samples % n:
            generator.permutation(
                n
            )  # torch draws a permutation for the rest even if nothing is left; others see the stream move on

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """Given indices in random order."""

    def __init__(self, indices: Sequence[int], generator: rng.Generator | None = None):
        self.indices = indices
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        for i in (self.generator or rng.default_generator).permutation(len(self.indices)).tolist():
            yield self.indices[i]

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """Indices of `weights`, each as probable as its weight; without `replacement` an index comes at most once."""

    def __init__(
        self,
        weights: Sequence[float],
        num_samples: int,
        replacement: bool = True,
        generator: rng.Generator | None = None,
    ):
        _check_positive("WeightedRandomSampler", "num_samples", num_samples)
        if not isinstance(replacement, bool):
            raise ArgumentError(f"WeightedRandomSampler: expected replacement True or False, got {replacement!r}")
        self.weights = wrap(np.array(weights, dtype=np.float64))
        if self.weights.ndim != 1:
            raise ShapeError(
                f"WeightedRandomSampler: expected weights in one dimension, got shape {tuple(self.weights.shape)}"
            )
        self.num_samples = num_samples
        self.replacement = replacement
        self.generator = generator

    def __iter__(self) -> Iterator[int]:
        weights = self.weights._host()
        yield from _multinomial(
            weights, self.num_samples, self.replacement, self.generator or rng.default_generator
        ).tolist()

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Another sampler's indices in lists of `batch_size`; the last may be shorter, or is left out if `drop_last`."""

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool):
        _check_positive("BatchSampler", "batch_size", batch_size)
        if not isinstance(drop_last, bool):
            raise ArgumentError(f"BatchSampler: expected drop_last True or False, got {drop_last!r}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        indices = iter(self.sampler)
        while batch := list(itertools.islice(indices, self.batch_size)):
            if self.drop_last and len(batch) < self.batch_size:
                return
            yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]  # an iterable without a length has no number of batches
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


def draw_seed(generator: rng.Generator | None = None) -> int:
    """A seed in [0, 2⁶³), from two words: torch's `empty((), dtype=int64).random_()`."""
    return int((generator or rng.default_generator).words64(1)[0]) & (2**63 - 1)


def _multinomial(weights: np.ndarray, n: int, replacement: bool, generator: rng.Generator) -> np.ndarray:
    """(n,) int64 indices in proportion to float64 weights (K,), which are checked."""
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise ArgumentError(
            f"WeightedRandomSampler: expected finite weights >= 0 of sum > 0, got {weights.min()} to {weights.max()}, "
            f"sum {weights.sum()}"
        )
    if not replacement and n > len(weights):
        raise ArgumentError(
            f"WeightedRandomSampler: expected num_samples <= {len(weights)} without replacement, got {n}"
        )
    return rng.draw_weighted(generator, weights[None], n, replacement)[0]


def _check_positive(where: str, name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ArgumentError(f"{where}: expected {name} to be a positive integer value, got {value!r}")
