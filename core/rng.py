"""Random numbers: for the same seed the same stream as PyTorch's CPU generator.

PyTorch draws 32-bit words from MT19937 and turns them into numbers by the rules below, element by element in memory order; so do we, in
whole arrays. Source: aten/src/ATen/core/DistributionsHelper.h and native/cpu/DistributionTemplates.h (the rules, not the code).
    float32 uniform   24 low bits of a word / 2²⁴; smaller types are rounded from it, and what becomes 1 is 0
    float64 uniform   53 low bits of two words (the first is the high one) / 2⁵³
    integer in a range of n   word mod n (two words if n ≥ 2²⁸)
    normal            Box–Muller: blocks of 16 for 16 elements and more (float32: `normals`); pair by pair, in float64, below
    permutation       Fisher–Yates from the front, word mod (n − i)
Numbers for a GPU are drawn here and copied there.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from core import backend, dtypes, normals
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, DTypeError


class Generator:
    """A stream of random numbers with its own state."""

    def __init__(self, device: Any = "cpu"):
        self.device = device
        self.manual_seed(67280421310721)

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream over from a seed."""
        self._seed = int(seed)
        self._words = np.random.MT19937()
        self._words._legacy_seeding(self._seed & 0xFFFFFFFF)
        self._next_normal: float | None = None
        return self

    def initial_seed(self) -> int:
        """The seed that the stream was last started from."""
        return self._seed

    def seed(self) -> int:
        """Start the stream over from a seed of the operating system's, and return it."""
        self.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)
        return self._seed

    def get_state(self) -> Tensor:
        """The state as a byte tensor for `set_state`."""
        state = self._words.state["state"]
        has, value = self._next_normal is not None, self._next_normal or 0.0
        head = (
            np.array([self._seed & (2**63 - 1), state["pos"], has], dtype=np.int64).tobytes()
            + np.float64(value).tobytes()
        )
        return wrap(np.frombuffer(head + state["key"].astype(np.uint32).tobytes(), dtype=np.uint8).copy())

    def set_state(self, state: Tensor) -> Generator:
        """Go back to a state that `get_state` returned."""
        raw = state._host().tobytes()
        if len(raw) != 32 + 624 * 4:
            raise ArgumentError(
                f"set_state: expected a state of {32 + 624 * 4} bytes, got {len(raw)}; use what get_state returned"
            )
        seed, pos, has = np.frombuffer(raw[:24], dtype=np.int64).tolist()
        self.manual_seed(seed)
        key = np.frombuffer(raw[32:], dtype=np.uint32)
        self._words.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": pos}}
        self._next_normal = float(np.frombuffer(raw[24:32])[0]) if has else None
        return self

    # -- draws, as NumPy arrays

    def words(self, n: int) -> np.ndarray:
        """(n,) uint64, each a 32-bit word."""
        return self._words.random_raw(n)

    def words64(self, n: int) -> np.ndarray:
        """(n,) uint64, each two words."""
        w = self.words(2 * n).reshape(n, 2)
        return (w[:, 0] << np.uint64(32)) | w[:, 1]

    def uniform(self, n: int, dtype: np.dtype) -> np.ndarray:
        """(n,) in [0, 1)"""
        if dtype == np.float64:
            return (self.words64(n) & np.uint64(2**53 - 1)) * 2.0**-53
        u = (self.words(n) & np.uint64(2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)
        return u.astype(dtype, copy=False)

    def below(self, n: int, p: float) -> np.ndarray:
        """(n,) bool: whether float64 numbers of `uniform` are below p. Their high words nearly always tell."""
        w, limit = self.words(2 * n), math.ceil(p * 2.0**53)
        high, bound = w[::2] & np.uint64(2**21 - 1), np.uint64(limit >> 32)
        y = high < bound
        tied = np.flatnonzero(high == bound)
        if tied.size:
            y[tied] = w[1::2][tied] < np.uint64(limit & (2**32 - 1))
        return y

    def normal(self, n: int, dtype: np.dtype) -> np.ndarray:
        """(n,) of mean 0 and standard deviation 1, in the precision they are computed in: float64 for few of them"""
        if n < 16:
            return np.array([self._one_normal() for _ in range(n)])
        real = np.float64 if dtype == np.float64 else np.float32
        z = np.empty(n, dtype=real)
        whole = n - n % 16
        u = self.uniform(n if dtype == real else whole, np.dtype(real))  # smaller types are drawn block by block
        z[:whole] = _box_muller(u[:whole])
        if n % 16:  # the last 16 are drawn again, as one block
            z[-16:] = _box_muller(self.uniform(16, np.dtype(real)))
        return z

    def _one_normal(self) -> float:
        if self._next_normal is not None:
            value, self._next_normal = self._next_normal, None
            return value
        u1, u2 = self.uniform(2, np.dtype(np.float64)).tolist()
        radius, angle = np.sqrt(-2.0 * np.log1p(-u2)), 2.0 * np.pi * u1
        self._next_normal = float(radius * np.sin(angle))
        return float(radius * np.cos(angle))

    def integers(self, n: int, low: int, high: int) -> np.ndarray:
        """(n,) int64 in [low, high)"""
        span = high - low
        w = self.words64(n) if span >= 2**28 else self.words(n)
        return (w % np.uint64(span)).astype(np.int64) + low

    def exponential(self, n: int) -> np.ndarray:
        """(n,) float64 of rate 1"""
        return -np.log1p(-self.uniform(n, np.dtype(np.float64)))

    def permutation(self, n: int) -> np.ndarray:
        """(n,) int64: 0 … n−1 in random order"""
        order = list(range(n))
        steps = self.words(max(n - 1, 0)) % np.arange(n, 1, -1, dtype=np.uint64)
        for i, z in enumerate(steps.tolist()):
            order[i], order[i + z] = order[i + z], order[i]
        return np.array(order, dtype=np.int64)


def _box_muller(u: np.ndarray) -> np.ndarray:
    """Normals from uniforms: in each block of 16 the first eight are radii, the last eight angles."""
    if u.dtype == np.float32:
        return normals.box_muller(u)
    u = u.reshape(-1, 2, 8)
    radius = np.sqrt(-2 * np.log(1 - u[:, 0]))
    angle = u[:, 1] * u.dtype.type(2 * np.pi)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


class _StandIn(threading.local):
    generator: Generator | None = None


stand_in = _StandIn()  # of this thread: who answers in place of the default generator (`core.philox.drawing_from`)


class DefaultGenerator(Generator):
    """The stream of all who name none. A thread may have another generator answer in its place."""

    def words(self, n: int) -> np.ndarray:
        return stand_in.generator.words(n) if stand_in.generator else super().words(n)

    def normal(self, n: int, dtype: np.dtype) -> np.ndarray:
        return stand_in.generator.normal(n, dtype) if stand_in.generator else super().normal(n, dtype)

    def words64(self, n: int) -> np.ndarray:
        return stand_in.generator.words64(n) if stand_in.generator else super().words64(n)

    def uniform(self, n: int, dtype: np.dtype) -> np.ndarray:
        return stand_in.generator.uniform(n, dtype) if stand_in.generator else super().uniform(n, dtype)

    def below(self, n: int, p: float) -> np.ndarray:
        return stand_in.generator.below(n, p) if stand_in.generator else super().below(n, p)

    def integers(self, n: int, low: int, high: int) -> np.ndarray:
        return stand_in.generator.integers(n, low, high) if stand_in.generator else super().integers(n, low, high)

    def exponential(self, n: int) -> np.ndarray:
        """(n,) float64 of rate 1"""
        return -np.log1p(-self.uniform(n, np.dtype(np.float64)))

    def permutation(self, n: int) -> np.ndarray:
        return stand_in.generator.permutation(n) if stand_in.generator else super().permutation(n)

    def manual_seed(self, seed: int) -> Generator:
        return stand_in.generator.manual_seed(seed) if stand_in.generator else super().manual_seed(seed)

    def get_state(self) -> Tensor:
        return stand_in.generator.get_state() if stand_in.generator else super().get_state()

    def set_state(self, state: Tensor) -> Generator:
        return stand_in.generator.set_state(state) if stand_in.generator else super().set_state(state)


default_generator = DefaultGenerator()
seeded: list[Callable[[int], None]] = []  # who else starts over when the default stream does: generators of other devices


def manual_seed(seed: int) -> Generator:
    """Start the default stream, and those of GPUs, over from a seed."""
    for start_over in seeded:
        start_over(seed)
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Start the default stream over from a random seed, and return it."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed that the default stream was last started from."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The state of the default stream."""
    return default_generator.get_state()


def set_rng_state(state: Tensor) -> None:
    """Go back to a state of the default stream."""
    default_generator.set_state(state)


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True) -> Iterator[None]:
    """What is drawn inside leaves the default stream as it was."""
    state = get_rng_state() if enabled else None
    try:
        yield
    finally:
        if state is not None:
            set_rng_state(state)


# -- new tensors -----------------------------------------------------------------------------------------------------------


def _new(values: np.ndarray, shape: Any, device: Any, requires_grad: bool) -> Tensor:
    from core.creation import placed

    values = np.asarray(values)  # NumPy's operators make scalars of 0-d arrays
    return placed(values.reshape(shape), device, requires_grad)


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n


def _shape(size: Any, kwargs: dict[str, Any] | None = None) -> tuple[int, ...]:
    from core.ops.shape import shape_of

    return shape_of(size)


def rand(
    *size: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """Uniform on [0, 1)."""
    shape, d = _shape(size), _float(dtype, "rand")
    u = uniform_between(_count(shape), d, 0, 1, generator)
    return _new(u.astype(d, copy=False), shape, device, requires_grad)


def randn(
    *size: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """Normal, mean 0, standard deviation 1."""
    shape, d = _shape(size), _float(dtype, "randn")
    z = (generator or default_generator).normal(_count(shape), d).astype(d, copy=False)
    return _new(z, shape, device, requires_grad)


def randint(
    *args: Any, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False, **named: Any
) -> Tensor:
    """randint(high, size) or randint(low, high, size): integers in [low, high)."""
    size = named.get("size", args[-1])
    bounds = args if "size" in named else args[:-1]
    low = named.get("low", bounds[0] if len(bounds) == 2 else 0)
    high = named.get("high", bounds[-1] if bounds else None)
    if high is None or high <= low:
        raise ArgumentError(f"randint: expected low < high, got low {low}, high {high}")
    d = np.dtype(np.int64) if dtype is None else dtypes.as_numpy(dtype)
    shape = _shape((size,))
    return _new(
        (generator or default_generator).integers(_count(shape), int(low), int(high)).astype(d),
        shape,
        device,
        requires_grad,
    )


def randperm(
    n: int, *, generator: Any = None, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any
) -> Tensor:
    """0 … n−1 in random order."""
    d = np.dtype(np.int64) if dtype is None else dtypes.as_numpy(dtype)
    return _new((generator or default_generator).permutation(n).astype(d), (n,), device, requires_grad)


def rand_like(x: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """`rand` of x's shape, dtype and device."""
    return rand(x._a.shape, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def randn_like(x: Tensor, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, **_: Any) -> Tensor:
    """`randn` of x's shape, dtype and device."""
    return randn(x._a.shape, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None
) -> Tensor:
    """Normal numbers of given mean and standard deviation, each a number or a tensor."""
    if not isinstance(mean, Tensor) and not isinstance(std, Tensor):
        shape, d = _shape((size,)), _float(dtype, "normal")
        z = normals.scaled((generator or default_generator).normal(_count(shape), d), std, mean)
        return _new(z.astype(d, copy=False), shape, device, False)
    if size is None:
        size = np.broadcast_shapes(*(x._a.shape for x in (mean, std) if isinstance(x, Tensor)))
        dtype = dtype or next(x.dtype for x in (mean, std) if isinstance(x, Tensor))
    return randn(*size, generator=generator, dtype=dtype, device=device) * std + mean


def bernoulli(input: Tensor, p: Any = None, *, generator: Any = None) -> Tensor:
    """1 with probability `input`, else 0, elementwise, in its dtype. With a number p: with that probability, of its shape."""
    x = input
    if p is not None:
        return bernoulli_(x.detach().clone(), p, generator=generator)
    p = x._host()
    if p.size and not (0 <= p.min() and p.max() <= 1):
        raise ArgumentError(f"bernoulli: expected probabilities from 0 to 1, got {p.min()} to {p.max()}")
    u = (generator or default_generator).uniform(p.size, np.dtype(np.float64 if p.dtype == np.float64 else np.float32))
    return _new((u.reshape(p.shape) < p).astype(p.dtype), p.shape, x.device, False)


def draw_weighted(g: Generator, rows: np.ndarray, n: int, replacement: bool) -> np.ndarray:
    """(N, K) of checked weights -> (N, n) int64, drawn by torch's rules on the CPU.

    With replacement the cumulative distribution is searched for a uniform number; without, and for a single draw, it is the
    n largest of weight / exponential. NumPy's log1p may differ from torch's in the last bit, so ratios that agree to 15 digits
    may change places. Source: aten/src/ATen/native/Distributions.cpp.
    """
    if replacement and n > 1:
        cumulative = np.cumsum(rows, axis=1)
        cumulative /= cumulative[:, -1:]
        u = g.uniform(len(rows) * n, np.dtype(np.float64)).reshape(len(rows), n)
        return np.stack([np.searchsorted(c, row) for c, row in zip(cumulative, u)]).astype(np.int64)
    ratio = rows / g.exponential(rows.size).reshape(rows.shape).astype(rows.dtype)
    if n == 1:
        return ratio.argmax(1)[:, None].astype(np.int64)
    return np.argsort(-ratio, axis=1, kind="stable")[:, :n].astype(np.int64)


def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """(N, K) or (K) of weights >= 0 -> (N, num_samples) or (num_samples) indices drawn in proportion to them, int64."""
    g = generator or default_generator
    weights = input._host()
    if weights.ndim not in (1, 2):
        raise ArgumentError(f"multinomial: expected weights (N, K) or (K), got shape {tuple(input.shape)}")
    rows = weights.reshape(-1, weights.shape[-1])
    if not np.isfinite(rows).all() or (rows < 0).any() or not (rows.sum(1) > 0).all():
        raise ArgumentError("multinomial: probability tensor contains inf, nan or negative numbers, or a row that sums to 0")
    if not replacement and num_samples > rows.shape[1]:
        raise ArgumentError(
            f"multinomial: cannot sample {num_samples} of {rows.shape[1]} without replacement; pass replacement=True"
        )
    index = draw_weighted(g, rows, num_samples, replacement)
    return _new(index, (*weights.shape[:-1], num_samples), input.device, False)


def _float(dtype: Any, where: str) -> np.dtype:
    d = dtypes.default_numpy() if dtype is None else dtypes.as_numpy(dtype)
    if dtypes.category(d) != dtypes.FLOATING:
        raise DTypeError(f"{where}: expected a floating dtype, got {dtypes.of(d)}")
    return d


def uniform_between(n: int, d: np.dtype, a: float, b: float, generator: Any = None) -> np.ndarray:
    """(n,) uniform on [a, b), to be rounded to d: in float64 for it, in float32 for all others.

    One rounding after product and sum, as the fused instruction that PyTorch's kernel is compiled to.
    """
    if not a <= b:
        raise ArgumentError(f"uniform_ expects to return a [from, to) range, but found from={a} > to={b}")
    real = np.dtype(np.float64 if d == np.float64 else np.float32)
    u = (generator or default_generator).uniform(n, real)
    if a == 0 and b == 1 and d == real:
        return u
    low = real.type(a)
    if real == np.float64:
        return _fused(u, real.type(b) - low, low)
    x = (u.astype(np.float64) * np.float64(real.type(b) - low) + np.float64(low)).astype(real)
    return x if d == real else np.where(x.astype(d) == d.type(b), low, x)  # what is rounded up to b is a


def _fused(u: np.ndarray, scale: Any, shift: Any) -> np.ndarray:
    """u·scale + shift, rounded once: the product's error is found by Dekker's splitting, the sum's by Knuth's. Source: Dekker 1971."""

    def halves(v: Any) -> tuple[Any, Any]:
        c = v * 134217729.0  # 2²⁷ + 1
        high = c - (c - v)
        return high, v - high

    p, (uh, ul), (sh, sl) = u * scale, halves(u), halves(scale)
    product_error = ((uh * sh - p) + uh * sl + ul * sh) + ul * sl
    y = p + shift
    t = y - p
    return y + (((p - (y - t)) + (shift - t)) + product_error)


# -- in place, as methods ----------------------------------------------------------------------------------------------------


def _fill(x: Tensor, values: np.ndarray, where: str) -> Tensor:
    x._check_inplace(where)
    x._a[...] = backend.of(x._a).from_numpy(values.reshape(x._a.shape).astype(x._a.dtype, copy=False))
    x._bump()
    return x


def uniform_(x: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with uniform numbers on [a, b)."""
    return _fill(x, uniform_between(x._a.size, x._a.dtype, a, b, generator), "uniform")


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with normal numbers."""
    d = x._a.dtype
    z = (generator or default_generator).normal(x._a.size, d)
    return _fill(x, normals.scaled(z, std, mean), "normal")


def random_(x: Tensor, low: int | None = None, high: int | None = None, *, generator: Any = None) -> Tensor:
    """Fill with integers in [low, high); random_(n) is [0, n); random_() is from 0 to the greatest that the dtype holds exactly."""
    g = generator or default_generator
    if high is None:
        low, high = 0, low
    if high is not None:
        return _fill(x, g.integers(x._a.size, low or 0, high), "random")
    d = x.dtype
    bits = {"bool": 1, "float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}.get(
        d.name, 8 * d.itemsize - d.is_signed
    )
    w = g.words64(x._a.size) if d.itemsize == 8 else g.words(x._a.size)
    return _fill(x, (w % np.uint64(2**bits + d.is_floating_point)).astype(d.numpy), "random")


def bernoulli_(x: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fill with 1 with probability p (a number or a tensor), else 0."""
    g = generator or default_generator
    if not isinstance(p, Tensor):
        return _fill(x, g.below(x._a.size, p).reshape(x._a.shape), "bernoulli")
    u = g.uniform(x._a.size, np.dtype(np.float64)).reshape(x._a.shape)
    return _fill(x, (u < p._host()), "bernoulli")


def exponential_(x: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with exponential numbers of rate `lambd`."""
    return _fill(x, (generator or default_generator).exponential(x._a.size) / lambd, "exponential")
