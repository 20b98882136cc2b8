"""Random numbers without a state: Philox 4x32-10, a function from a counter and a key to four 32-bit words.

A draw is named by (seed, step, shard, call): which run, when, for which part of the batch, and the how-manieth draw there. So whoever
computes a shard, first or again, on whatever machine, draws the same numbers, and no draw depends on another. Lockstep lives on that.

Contract: `PhiloxGenerator` has the interface of `core.rng.Generator` and turns words into numbers by its rules, with two exceptions:
normals are always Box–Muller in float64 on pairs, and a permutation sorts 64-bit words. `step`, `shard` and `call` are below 2³².
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", and the known answers of Random123.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from core import rng
from core._tensor import Tensor, wrap
from core.errors import ArgumentError

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)  # what the key grows by in each round: the golden ratio and √3 − 1
_ROUNDS = 10
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """(4, n) counters, as uint64 holding 32-bit words, and a key of two words -> (4, n) random words, likewise."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # 64 bits each
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def derived_seed(seed: int, purpose: str) -> int:
    """A 64-bit seed for another purpose of the same run, so that its numbers have nothing to do with those of `seed`."""
    words = np.frombuffer(purpose.encode().ljust(16, b"\0")[:16], "<u4").astype(np.uint64).reshape(4, 1)
    w = philox(words, _key(seed))[:, 0].tolist()
    return w[0] << 32 | w[1]


class PhiloxGenerator(rng.Generator):
    """The numbers of one (seed, step, shard). Each draw takes the next call, whatever its length."""

    def __init__(self, seed: int, step: int = 0, shard: int = 0):
        for name, value in (("step", step), ("shard", shard)):
            if not 0 <= value < 2**32:
                raise ArgumentError(f"PhiloxGenerator: expected 0 <= {name} < 2³², got {value}")
        self.device = "cpu"
        self.step, self.shard = step, shard
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> PhiloxGenerator:
        """Another seed for the same step and shard, from the first call on."""
        self._seed = int(seed)
        self.call = 0
        return self

    def get_state(self) -> Tensor:
        """The state as a byte tensor for `set_state`."""
        words = [self._seed & (2**64 - 1), self.step, self.shard, self.call]
        return wrap(np.array(words, np.uint64).view(np.uint8))

    def set_state(self, state: Tensor) -> PhiloxGenerator:
        """Go back to a state that `get_state` returned."""
        raw = state._host().tobytes()
        if len(raw) != 32:
            raise ArgumentError(f"set_state: expected a state of 32 bytes, got {len(raw)}; use what get_state returned")
        self._seed, self.step, self.shard, self.call = np.frombuffer(raw, np.uint64).tolist()
        return self

    # -- draws, as NumPy arrays

    def words(self, n: int) -> np.ndarray:
        """(n,) uint64, each a 32-bit word."""
        blocks = -(-n // 4)
        counter = np.empty((4, blocks), np.uint64)
        counter[0] = np.arange(blocks)
        counter[1:] = np.array([[self.call], [self.shard], [self.step]])
        self.call += 1
        return philox(counter, _key(self._seed)).T.reshape(-1)[:n]

    def normal(self, n: int, dtype: np.dtype) -> np.ndarray:
        """(n,) of mean 0 and standard deviation 1, float64"""
        pairs = -(-n // 2)
        u = self.uniform(2 * pairs, np.dtype(np.float64)).reshape(2, pairs)
        radius, angle = np.sqrt(-2.0 * np.log1p(-u[0])), 2.0 * np.pi * u[1]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:n]

    def permutation(self, n: int) -> np.ndarray:
        """(n,) int64: 0 … n−1 in random order"""
        return np.argsort(self.words64(n), kind="stable")


@contextmanager
def drawing_from(generator: rng.Generator) -> Iterator[rng.Generator]:
    """Inside, this thread's default random numbers come from `generator`; other threads notice nothing."""
    before, rng.stand_in.generator = rng.stand_in.generator, generator
    try:
        yield generator
    finally:
        rng.stand_in.generator = before


def _key(seed: int) -> tuple[int, int]:
    return seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
