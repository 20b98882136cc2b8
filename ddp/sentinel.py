"""The sentinel: are the models of all ranks still the same?

Every `every` steps each rank hashes its parameters (and, if asked, the optimizer's state) and compares 16 bytes with the
others. When they differ, every rank raises the same error, which names the tensors and the ranks that are alone with
their values. What makes ranks differ: a flipped bit, an update outside of backward, a seed, an optimizer that differs.

Contract: the comparison costs one small all-gather; the hashing, about a second for a gigabyte. Buffers are not compared:
between forwards those of BatchNorm are each rank's own.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from core.nn.modules.module import Module
from core.optim import Optimizer
from ddp import distributed, objects
from ddp.errors import MismatchError

_DIGEST_BYTES = 16


class Sentinel:
    """Call `step()` after each step of the optimizer, or hand it to `optimizer.register_step_post_hook`.

    `optimizer`: compare its state, too. `check()` compares now. Errors: MismatchError on every rank.
    """

    def __init__(self, model: Module, every: int = 100, optimizer: Optimizer | None = None, process_group: Any = None):
        if every < 1:
            raise ArgumentError(f"Sentinel: expected every >= 1, got {every}")
        self.model, self.optimizer, self.every = model, optimizer, every
        self.group = distributed._group(process_group)
        self.steps = 0

    def step(self) -> None:
        """Another step was made."""
        self.steps += 1
        if self.steps % self.every == 0:
            self.check()

    def __call__(self, *_: Any) -> None:
        self.step()

    def check(self) -> None:
        """Compare. Every rank of the group calls it."""
        if self.group.size == 1:
            return
        tensors = self._tensors()
        digests = np.stack([_digest(t) for _, t in tensors])
        whole = np.frombuffer(hashlib.blake2b(digests.tobytes(), digest_size=_DIGEST_BYTES).digest(), np.uint8)
        if len({row.tobytes() for row in self._gathered(whole)}) > 1:
            raise self._difference(tensors, digests)

    def _tensors(self) -> list[tuple[str, Tensor]]:
        named = list(self.model.named_parameters())
        names = {id(p): name for name, p in named}
        found: list[tuple[str, Tensor]] = list(named)
        for p, state in self.optimizer.state.items() if self.optimizer is not None else ():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    found.append((f"{key} of {names.get(id(p), 'a parameter outside of the model')}", value))
        return found

    def _gathered(self, array: np.ndarray) -> list[np.ndarray]:
        rows = [wrap(np.empty_like(array)) for _ in range(self.group.size)]
        self.group.all_gather(rows, wrap(np.ascontiguousarray(array)))
        return [t._a for t in rows]

    def _difference(self, tensors: list[tuple[str, Tensor]], digests: np.ndarray) -> MismatchError:
        """The error, after a closer look together."""
        where = f"rank {self.group.world.rank}: sentinel: step {self.steps}"
        counts: list[Any] = []
        objects.all_gather_object(counts, [name for name, _ in tensors], self.group)
        if any(names != counts[0] for names in counts):
            return MismatchError(
                f"{where}: expected the same tensors on every rank, got {[len(n) for n in counts]} of them by rank; build the model and "
                "the optimizer alike everywhere"
            )
        everyone = self._gathered(digests)
        lines: list[str] = []
        odd_ranks: set[int] = set()
        different = [i for i in range(len(tensors)) if len({rows[i].tobytes() for rows in everyone}) > 1]
        for i in different:
            votes = Counter(rows[i].tobytes() for rows in everyone)
            common, support = votes.most_common(1)[0]
            first = next(r for r, rows in enumerate(everyone) if rows[i].tobytes() == common)
            odd = [r for r, rows in enumerate(everyone) if rows[i].tobytes() != common]
            if support > len(everyone) / 2:
                odd_ranks.update(odd)
            if len(lines) < 3:
                lines.append(self._described(*tensors[i], first, odd))
        blame = (
            f"rank {', '.join(str(self.group.ranks[r]) for r in sorted(odd_ranks))} diverged from the majority"
            if odd_ranks
            else "no majority says which rank is right"
        )
        more = f" and {len(different) - len(lines)} more" if len(different) > len(lines) else ""
        return MismatchError(
            f"{where}: expected the same values on every rank, got others in {len(different)} of {len(tensors)} tensors; {blame}: "
            f"{'; '.join(lines)}{more}; begin anew from the last checkpoint"
        )

    def _described(self, name: str, t: Tensor, first: int, odd: list[int]) -> str:
        """Where a tensor differs from that of rank `first` of the group, on each odd rank. A collective."""
        mine = backend.of(t._a).to_numpy(t._a).reshape(-1)
        theirs = wrap(np.ascontiguousarray(mine).copy())
        self.group.broadcast(theirs, first)
        bits = f"u{mine.itemsize}" if mine.itemsize <= 8 else np.uint8
        places = np.flatnonzero(np.ascontiguousarray(mine).view(bits) != theirs._a.view(bits))
        place = int(places[0]) if places.size else 0
        texts: list[Any] = []
        told = (
            f"{len(places)} of {mine.size} elements, the first at {place}: {mine[place]}, not {theirs._a[place]}"
            if places.size
            else ""
        )
        objects.all_gather_object(texts, told, self.group)
        return f"{name}: " + ", ".join(f"rank {self.group.ranks[r]} ({texts[r]})" for r in odd)


def _digest(t: Tensor) -> np.ndarray:
    host = np.ascontiguousarray(backend.of(t._a).to_numpy(t._a))
    data = host.reshape(-1).view(np.uint8)
    return np.frombuffer(hashlib.blake2b(data.data, digest_size=_DIGEST_BYTES).digest(), np.uint8)
