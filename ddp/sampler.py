"""Which samples a rank sees: an equal share for training, an exact one for evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from core.rng import Generator
from core.utils.data import Sampler


class DistributedSampler(Sampler):
    """Every size-th sample of a common order, beginning with this rank's: torch's order for the same seed and epoch.

    All ranks get equally many: the order is filled up with samples from its beginning (or, with `drop_last`, cut).
    Call `set_epoch` before each epoch, or all have the same order. To resume in the middle of an epoch, at any number of
    ranks, tell `advance` what was used, and save the `state_dict`. For evaluation see `ExactDistributedSampler`.
    """

    def __init__(
        self, dataset: Any, num_replicas: int | None = None, rank: int | None = None, shuffle: bool = True, seed: int = 0,
        drop_last: bool = False,
    ):  # fmt: skip
        self.num_replicas, self.rank = _place("DistributedSampler", num_replicas, rank)
        self.dataset, self.shuffle, self.seed, self.drop_last, self.epoch = dataset, shuffle, seed, drop_last, 0
        self.consumed = 0  # samples of this epoch that all ranks together have used

    @property
    def total_size(self) -> int:
        """Samples of the next iteration, on all ranks together."""
        return self.num_samples * self.num_replicas

    @property
    def num_samples(self) -> int:
        """Samples of the next iteration."""
        left = len(self.dataset) - self._start()
        return left // self.num_replicas if self.drop_last else math.ceil(left / self.num_replicas)

    def __iter__(self) -> Iterator[int]:
        n, start, total = len(self.dataset), self._start(), self.total_size
        order = _order(n, self.seed + self.epoch) if self.shuffle else list(range(n))
        rest = order[start:]
        missing = total - len(rest)
        if missing > 0:
            rest += (order * math.ceil(missing / n))[:missing]
        return iter(rest[self.rank : total : self.num_replicas])

    def __len__(self) -> int:
        return self.num_samples

    def _start(self) -> int:
        """Where in the order the next iteration begins."""
        n = len(self.dataset)
        used_up = n - self.consumed < (self.num_replicas if self.drop_last else 1)
        return 0 if used_up else self.consumed

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next order is for; a new one begins at its beginning."""
        if epoch != self.epoch:
            self.epoch, self.consumed = epoch, 0

    def advance(self, samples: int) -> None:
        """All ranks together have used so many samples more of this epoch. (The sampler itself runs ahead of the training.)"""
        self.consumed += samples

    def state_dict(self) -> dict[str, int]:
        """Epoch, seed and progress; the same on all ranks."""
        return {"epoch": self.epoch, "seed": self.seed, "consumed": self.consumed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on from there."""
        self.epoch, self.seed, self.consumed = (state_dict[k] for k in ("epoch", "seed", "consumed"))


class ExactDistributedSampler(Sampler):
    """Each sample on exactly one rank: for evaluation, whose result must not depend on the number of ranks.

    Shares are neighbours in the data set, the first ranks having one more where it does not divide. So ranks may have
    different numbers of batches, some none: sum up what you measure by `sum_over_ranks` after the loop, and evaluate the
    module inside of DistributedDataParallel, whose forward is a collective.
    """

    def __init__(self, dataset: Any, num_replicas: int | None = None, rank: int | None = None):
        self.num_replicas, self.rank = _place("ExactDistributedSampler", num_replicas, rank)
        n = len(dataset)
        short, longer = divmod(n, self.num_replicas)
        first = self.rank * short + min(self.rank, longer)
        self.span = range(first, first + short + (self.rank < longer))

    def __iter__(self) -> Iterator[int]:
        return iter(self.span)

    def __len__(self) -> int:
        return len(self.span)


def sum_over_ranks(sums: Mapping[str, Any], group: Any = None) -> dict[str, float]:
    """Each sum, added up over the ranks in float64, in the order of the ranks: the same number everywhere, exact for counts.

    Give sums, not means: {"loss": Σ loss of each sample, "right": …, "seen": …}; names must be the same on all ranks.
    """
    from ddp import distributed

    pg = distributed._group(group)
    mine = np.array([float(v.item() if isinstance(v, Tensor) else v) for v in sums.values()])
    rows = [wrap(np.empty_like(mine)) for _ in range(pg.size)]
    pg.all_gather(rows, wrap(mine))
    return dict(zip(sums, (math.fsum(column) for column in zip(*(t.tolist() for t in rows)))))


def _order(n: int, seed: int) -> list[int]:
    return Generator().manual_seed(seed).permutation(n).tolist()


def _place(where: str, num_replicas: int | None, rank: int | None) -> tuple[int, int]:
    if num_replicas is None or rank is None:
        from ddp import distributed

        num_replicas = distributed.get_world_size() if num_replicas is None else num_replicas
        rank = distributed.get_rank() if rank is None else rank
    if not 0 <= rank < num_replicas:
        raise ArgumentError(f"{where}: Invalid rank: expected 0 <= rank < {num_replicas}, got {rank}")
    return num_replicas, rank
