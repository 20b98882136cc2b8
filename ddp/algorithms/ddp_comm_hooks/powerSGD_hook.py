"""PowerSGD: gradients as products of thin matrices, what is lost being added to the next gradient.

A gradient M (n, m) becomes P Qᵀ, P (n, r) and Q (m, r), by one step of the power iteration shared by all ranks:
P ← Σ M Q, P ← orthonormal basis of P, Q ← average of Mᵀ P. Each rank keeps its error M − P Qᵀ. Parameters for which this
saves too little (vectors among them) are averaged as they are. Two all-reduces a bucket: P and the rest, then Q.
Source: Vogels, Karimireddy, Jaggi, PowerSGD, NeurIPS 2019, algorithms 1 and 2; names and defaults are torch's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from ddp import distributed
from ddp.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from ddp.comm_hooks import GradBucket
from ddp.futures import Future


class PowerSGDState:
    """Options, and what is kept of each bucket between steps.

    The first `start_powerSGD_iter` backwards average as usual: gradients are of high rank at first, and buckets settle
    after the first. A matrix is compressed if that divides its elements by more than `min_compression_rate`.
    `warm_start` begins with the last Q instead of random numbers. `batch_tensors_with_same_shape` changes nothing here.
    """

    def __init__(
        self,
        process_group: Any,
        matrix_approximation_rank: int = 1,
        start_powerSGD_iter: int = 1_000,
        min_compression_rate: float = 2,
        use_error_feedback: bool = True,
        warm_start: bool = True,
        orthogonalization_epsilon: float = 0,
        random_seed: int = 0,
        compression_stats_logging_frequency: int = 10_000,
        batch_tensors_with_same_shape: bool = False,
    ):
        if (use_error_feedback or warm_start) and start_powerSGD_iter <= 1:
            raise ArgumentError(
                "PowerSGDState: Expect `start_powerSGD_iter` > 1 if `use_error_feedback` or `warm_start` is enabled, got "
                f"{start_powerSGD_iter}; buckets change after the first backward"
            )
        self.process_group = process_group
        self.matrix_approximation_rank = matrix_approximation_rank
        self.start_powerSGD_iter = start_powerSGD_iter
        self.min_compression_rate = min_compression_rate
        self.use_error_feedback, self.warm_start = use_error_feedback, warm_start
        self.orthogonalization_epsilon = orthogonalization_epsilon
        self.random_seed = random_seed
        self.iter = 0
        self.error_dict: dict[int, list[Any]] = {}  # bucket -> what compression has lost of each matrix on this rank
        self.q_memory_dict: dict[int, list[Any]] = {}  # bucket -> Q of each compressed matrix
        self.total_numel_before_compression = self.total_numel_after_compression = 0

    def maybe_increase_iter(self, bucket: GradBucket) -> None:
        """Count backwards: a bucket that is the last is the end of one."""
        self.iter += bucket.is_last()

    def compression_stats(self) -> tuple[float, int, int]:
        """(rate, elements before, elements after), of all that was compressed so far."""
        before, after = self.total_numel_before_compression, self.total_numel_after_compression
        return before / after if after else 0.0, before, after


class _Matrix(NamedTuple):
    """A gradient that is compressed: a view (n, m) of the bucket."""

    m: Any
    rank: int


def powerSGD_hook(state: PowerSGDState, bucket: GradBucket) -> Future[Tensor]:
    """The average over the group, as products of thin matrices."""
    if state.iter < state.start_powerSGD_iter:
        state.maybe_increase_iter(bucket)
        return allreduce_hook(state.process_group, bucket)
    group = distributed._group(state.process_group)
    flat = bucket.buffer()
    xp = backend.of(flat._a).xp
    number = bucket.index()
    matrices, rest = _sorted(state, bucket)
    for x, error in zip(matrices, state.error_dict.get(number, ())):
        x.m[...] += error
    wanted = [x.m.copy() for x in matrices] if state.use_error_feedback else []
    qs = state.q_memory_dict.get(number) if state.warm_start else None
    qs = [
        _orthonormal(q, xp, state.orthogonalization_epsilon)
        for q in _started(qs, matrices, np.random.default_rng((state.random_seed, state.iter, number)))
    ]
    first = _concatenated([*rest, *(x.m @ q for x, q in zip(matrices, qs))], xp, flat)

    def with_p(f: Future[Any]) -> Tensor:
        parts = _split(f.value()[0]._a, [*(r.shape for r in rest), *((x.m.shape[0], x.rank) for x in matrices)])
        for r, average in zip(rest, parts):
            r[...] = average
        ps = [_orthonormal(p, xp, state.orthogonalization_epsilon) for p in parts[len(rest) :]]
        second = _concatenated([x.m.T @ p for x, p in zip(matrices, ps)], xp, flat)
        if second._a.size:
            group.all_reduce(second, "avg")
        new = _split(second._a, [(x.m.shape[1], x.rank) for x in matrices])
        for x, p, q in zip(matrices, ps, new):
            x.m[...] = p @ q.T
        if state.use_error_feedback:
            state.error_dict[number] = [w - x.m for w, x in zip(wanted, matrices)]
        if state.warm_start:
            state.q_memory_dict[number] = new
        state.maybe_increase_iter(bucket)
        return flat

    return group.all_reduce(first, "avg", async_op=True).get_future().then(with_p)


def _sorted(state: PowerSGDState, bucket: GradBucket) -> tuple[list[_Matrix], list[Any]]:
    """The gradients to compress, as matrices, and the others."""
    matrices, rest = [], []
    for t in bucket.gradients():
        g = t._a
        rows, columns = (g.shape[0], g.size // max(g.shape[0], 1)) if g.ndim else (1, 1)
        rank = min(rows, columns, state.matrix_approximation_rank)
        after = (rows + columns) * rank
        state.total_numel_before_compression += g.size
        if after * state.min_compression_rate < g.size:
            matrices.append(_Matrix(g.reshape(rows, columns), rank))
            state.total_numel_after_compression += after
        else:
            rest.append(g)
            state.total_numel_after_compression += g.size
    return matrices, rest


def _started(qs: list[Any] | None, matrices: list[_Matrix], rng: np.random.Generator) -> list[Any]:
    """Q of each matrix to begin with; `rng`, the same on all ranks, gives what there is not, and columns that have died out."""
    started = []
    for i, x in enumerate(matrices):
        be = backend.of(x.m)
        q = None if qs is None else qs[i]
        if q is None or not bool(q.any(axis=0).all()):
            fresh = rng.standard_normal((x.m.shape[1], x.rank)).astype(x.m.dtype)
            fresh = be.from_numpy(fresh, be.index_of(x.m))
            q = fresh if q is None else be.xp.where(q.any(axis=0), q, fresh)
        started.append(q)
    return started


def _orthonormal(a: Any, xp: Any, epsilon: float) -> Any:
    """An orthonormal basis (n, r) of the columns of (n, r), zero for a column that depends on those before it.

    Gram-Schmidt, each column twice: what once leaves of a dependent column is rounding noise, which must not be scaled up.
    """
    b = a.astype(np.float32) if a.dtype.itemsize < 4 else a.copy()
    tolerance = 16 * np.finfo(b.dtype).eps
    for i in range(b.shape[1]):
        column, before = b[:, i], b[:, :i]
        length = xp.sqrt((column * column).sum())
        for _ in range(2):
            column -= before @ (before.T @ column)
        left = xp.sqrt((column * column).sum())
        column *= xp.where(left > tolerance * length, 1 / (left + max(epsilon, np.finfo(b.dtype).tiny)), 0).astype(
            b.dtype
        )
    return b.astype(a.dtype, copy=False)


def _concatenated(arrays: list[Any], xp: Any, like: Tensor) -> Tensor:
    return wrap(xp.concatenate([like._a[:0], *(a.reshape(-1) for a in arrays)]))


def _split(flat: Any, shapes: list[tuple[int, ...]]) -> list[Any]:
    parts, start = [], 0
    for shape in shapes:
        n = int(np.prod(shape))
        parts.append(flat[start : start + n].reshape(shape))
        start += n
    return parts
