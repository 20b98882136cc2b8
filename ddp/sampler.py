"""Which samples a rank sees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from core.errors import ArgumentError
from core.rng import Generator
from core.utils.data import Sampler


class DistributedSampler(Sampler):
    """Every size-th sample of a common order, beginning with this rank's: torch's order for the same seed and epoch.

    All ranks get equally many: the order is filled up with samples from its beginning (or, with `drop_last`, cut).
    Call `set_epoch` before each epoch, or all have the same order.
    """

    def __init__(
        self, dataset: Any, num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True, seed: int = 0,
        drop_last: bool = False,
    ):  # fmt: skip
        if num_replicas is None or rank is None:
            from ddp import distributed

            num_replicas = distributed.get_world_size() if num_replicas is None else num_replicas
            rank = distributed.get_rank() if rank is None else rank
        if not 0 <= rank < num_replicas:
            raise ArgumentError(f"DistributedSampler: Invalid rank: expected 0 <= rank < {num_replicas}, got {rank}")
        self.dataset, self.num_replicas, self.rank = dataset, num_replicas, rank
        self.shuffle, self.seed, self.drop_last, self.epoch = shuffle, seed, drop_last, 0
        n = len(dataset)
        self.num_samples = n // num_replicas if drop_last else math.ceil(n / num_replicas)
        self.total_size = self.num_samples * num_replicas

    def __iter__(self) -> Iterator[int]:
        n = len(self.dataset)
        order = (
            Generator().manual_seed(self.seed + self.epoch).permutation(n).tolist() if self.shuffle else list(range(n))
        )
        missing = self.total_size - n
        if missing > 0:
            order += (order * math.ceil(missing / n))[:missing] if n else []
        return iter(order[self.rank : self.total_size : self.num_replicas])

    def __len__(self) -> int:
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next order is for."""
        self.epoch = epoch
