"""Which samples are in which shard, and fetching them.

Contract: `Cut` is a pure function of its fields. Every epoch has an order of its own, keyed by (seed, epoch), and uses each sample
once. A batch is cut into V neighbouring shards whose lengths differ by at most one; the last batch of an epoch may be short, and then
some of its shards may be empty. Nothing depends on the number of workers, and the step alone says where in the data a run is.
Random augmentation is keyed by (seed, epoch, sample): it may draw from `core`'s default generator and no other.
Not here: workers, losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from core.errors import ArgumentError
from core.philox import PhiloxGenerator, derived_seed, drawing_from
from core.utils.data import Subset, TensorDataset, default_collate
from core.utils.data._utils.fetch import fetcher
from ddp.transport.base import chunks


@dataclass(frozen=True)
class Cut:
    """`samples` samples in batches of `batch_size`, each batch in `shards` shards."""

    samples: int
    batch_size: int
    shards: int
    seed: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= self.batch_size:
            raise ArgumentError(
                f"Lockstep: expected 1 <= shards <= batch_size, got {self.shards} shards of a batch of {self.batch_size}"
            )
        if not self.steps_per_epoch:
            raise ArgumentError(f"Lockstep: expected a dataset with a whole batch, got {self.samples} samples")

    @property
    def steps_per_epoch(self) -> int:
        return self.samples // self.batch_size if self.drop_last else -(-self.samples // self.batch_size)

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def batch(self, step: int) -> list[np.ndarray]:
        """The indices of the samples of each shard of a step; steps count from 0."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self._cut(_order(self.samples, self.seed, epoch), number)

    def sequential(self, number: int) -> list[np.ndarray]:
        """Batch `number` of the samples as they come: for evaluation."""
        return self._cut(np.arange(self.samples), number)

    def _cut(self, order: np.ndarray, number: int) -> list[np.ndarray]:
        batch = order[number * self.batch_size : (number + 1) * self.batch_size]
        return [batch[span] for span in chunks(len(batch), self.shards)]


@lru_cache(maxsize=4)
def _order(samples: int, seed: int, epoch: int) -> np.ndarray:
    return PhiloxGenerator(derived_seed(seed, "order"), epoch).permutation(samples)


@dataclass(frozen=True)
class Shard:
    """A part of a batch: what a training function gets."""

    number: int  # 0 … V−1
    step: int  # from 0
    epoch: int
    indices: np.ndarray  # of its samples in the dataset
    batch: Any  # the samples, collated

    @property
    def count(self) -> int:
        return len(self.indices)

    @property
    def x(self) -> Any:
        """The first member of a sample, collated: the inputs, where a sample is (input, target)."""
        return self.batch[0] if isinstance(self.batch, (list, tuple)) else self.batch

    @property
    def y(self) -> Any:
        """The second member of a sample, collated."""
        return self.batch[1]


class Source:
    """A dataset that hands out batches whose random numbers depend on (seed, epoch, sample) only."""

    def __init__(self, dataset: Any, seed: int, collate_fn: Callable[[Any], Any] | None = None):
        self.dataset = dataset
        self._seed = derived_seed(seed, "data")
        self._collate = collate_fn or default_collate
        plain = type(dataset) is TensorDataset or (type(dataset) is Subset and type(dataset.dataset) is TensorDataset)
        self._gather = fetcher(dataset, True, self._collate, False) if plain else None  # rows draw nothing

    def fetch(self, indices: np.ndarray, epoch: int) -> Any:
        """The samples at these indices, collated."""
        if self._gather is not None:
            return self._gather(indices.tolist())
        return self._collate([self._sample(index, epoch) for index in indices.tolist()])

    def _sample(self, index: int, epoch: int) -> Any:
        with drawing_from(PhiloxGenerator(self._seed, epoch, index)):
            return self.dataset[index]
