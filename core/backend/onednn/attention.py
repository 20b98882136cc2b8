"""Scaled dot-product attention on strided arrays, by oneDNN's products and softmax; the scores are written once and then changed in place.

Contract as in `kernels`: the numbers of the plain kernel up to rounding, None where it is not our case. Causal scores are computed in
blocks of rows, each over the keys that its last row sees, so that little of what the mask hides is computed. The probabilities that the
gradient needs are (*, L, S), or flat, block after block, where there are several. What comes out lies in memory as the query does:
heads that were cut from rows of channels join again without a copy.

Shape letters: L queries, S keys, E and V their widths.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

from core.backend import threads
from core.backend.onednn import library as c
from core.backend.onednn.kernels import SPILLED
from core.backend.onednn.primitives import Builder, Call, cached, strides_of

_LEAST = 1 << 12  # scores; below, NumPy is as fast
_SMALL_MACS = 1 << 19  # of the product of two matrices
_BLOCK = 64  # rows of causal scores that are computed together


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None,
    drop: np.ndarray | None,
    causal: bool,
    scale: float,
) -> tuple[np.ndarray, np.ndarray] | None:
    """softmax(q kᵀ·scale + mask) v, and the probabilities"""
    if not _fits(q, k, v) or not (mask is None or (mask.dtype in (np.bool_, np.float32) and not causal)):
        return None
    lead, length, keys = q.shape[:-2], q.shape[-2], k.shape[-2]
    blocks = _blocks(length, keys, causal)
    several = len(blocks) > 1
    p = np.empty(_size(blocks, lead) if several else (*lead, length, keys), q.dtype)
    y = np.empty_like(q) if v.shape == q.shape else np.empty((*lead, length, v.shape[-1]), q.dtype)
    q = q * q.dtype.type(scale)
    k = k if several else k.copy(order="K")  # without gaps the product is faster
    for (start, end, seen), s in zip(blocks, _cut(p, blocks, lead) if several else [p]):
        if not _product(q[..., start:end, :], k[..., :seen, :].swapaxes(-1, -2), s):
            return None
        alone = None if mask is None else _masked(s, mask)
        if causal and seen > start:
            s[..., start:seen] += _hidden(end - start, seen - start)
        # NaN and ∞ NumPy carries through the row; −∞ is what a mask leaves
        if not s.max() < np.inf or not _softmax(s):
            return None
        if alone is not None and alone.any():
            np.copyto(s, 0, where=alone)
        used = s if drop is None else s * drop[..., start:end, :seen]
        if not _product(used, v[..., :seen, :], y[..., start:end, :]):
            return None
    return y, p


def attention_grad(
    g: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, drop: np.ndarray | None, p: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(dq, dk, dv); None where the probabilities are not flat, and the plain kernel may compute."""
    lead, length, keys = q.shape[:-2], q.shape[-2], k.shape[-2]
    several = p.ndim == 1
    if not several and not _fits(q, k, v):
        return None
    blocks = _blocks(length, keys, several)
    dq, dk, dv = _room(q, k, v)
    v = v.swapaxes(-1, -2).copy().swapaxes(-1, -2)  # side by side, as its product reads it
    g = g if strides_of(g) is not None else np.ascontiguousarray(g)
    # the last block sees every key and writes the gradients of all of them, the others add to it
    for last, ((start, end, seen), s) in enumerate(
        reversed(list(zip(blocks, _cut(p, blocks, lead) if several else [p])))
    ):
        rows, cols = (..., slice(start, end), slice(None)), (..., slice(seen), slice(None))
        cut = None if drop is None else drop[..., start:end, :seen]
        used, ds = s if cut is None else s * cut, np.empty(s.shape, s.dtype)
        done = _product(used.swapaxes(-1, -2), g[rows], dv[cols], last > 0)
        done = done and _product(g[rows], v[cols].swapaxes(-1, -2), ds, scale=scale)
        if cut is not None:
            ds *= cut
        done = done and _softmax_grad(ds, s) and _product(ds, k[cols], dq[rows])
        if not (done and _product(ds.swapaxes(-1, -2), q[rows], dk[cols], last > 0)):
            assert not several, "oneDNN has computed the probabilities, but not their gradient"
            return None
    return dq, dk, dv


def _room(*xs: np.ndarray) -> list[np.ndarray]:
    """New arrays that lie as these do: pieces of one array if these are, so that the whole needs no copy to have its gradient."""
    base, x = xs[0].base, xs[0]
    places = [a.__array_interface__["data"][0] for a in xs]
    step = places[1] - places[0]
    if (
        base is not None and base.flags.c_contiguous and base.dtype == x.dtype and base.size == len(xs) * x.size
        and all(a.base is base and a.shape == x.shape and a.strides == x.strides for a in xs)
        and all(b - a == step for a, b in pairwise(places)) and _are_apart((len(xs), *x.shape), (step, *x.strides))
    ):  # fmt: skip
        whole, start = np.empty(base.shape, base.dtype), base.__array_interface__["data"][0]
        return [np.ndarray(x.shape, x.dtype, whole, place - start, x.strides) for place in places]
    return [np.empty_like(a) for a in xs]


@lru_cache(maxsize=256)
def _are_apart(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether no two elements lie in one place: each stride passes all that lies within it."""
    sides = sorted((s, n) for s, n in zip(strides, shape) if n > 1)
    return all(s > 0 for s, _ in sides) and all(within * n <= s for (within, n), (s, _) in pairwise(sides))


def _fits(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> bool:
    return (
        q.dtype == np.float32 and 2 < q.ndim < 12 and q.shape[:-2] == k.shape[:-2] == v.shape[:-2]
        and all(x.size > 0 and strides_of(x) is not None for x in (q, k, v))
        and q.size // q.shape[-1] * k.shape[-2] >= _LEAST
    )  # fmt: skip


# -- blocks ------------------------------------------------------------------------------------------------------------


def _blocks(length: int, keys: int, causal: bool) -> list[tuple[int, int, int]]:
    """(first row, end, how many keys the rows see); one block unless causal."""
    if not causal or length < 2 * _BLOCK or length != keys:
        return [(0, length, keys)]
    return [(start, end, end) for start in range(0, length, _BLOCK) for end in [min(start + _BLOCK, length)]]


def _size(blocks: list[tuple[int, int, int]], lead: tuple[int, ...]) -> int:
    return int(np.prod(lead)) * sum((end - start) * seen for start, end, seen in blocks)


def _cut(p: np.ndarray, blocks: list[tuple[int, int, int]], lead: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The scores of each block, which lie one after the other."""
    n = int(np.prod(lead))
    at = 0
    for start, end, seen in blocks:
        size = n * (end - start) * seen
        yield p[at : at + size].reshape(*lead, end - start, seen)
        at += size


# -- masks -------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _hidden(rows: int, keys: int) -> np.ndarray:
    """−∞ above the diagonal, to be added."""
    return np.triu(np.full((rows, keys), -np.inf, np.float32), 1)


def _masked(s_: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Add the mask to the scores; returns which rows see nobody."""
    if mask.dtype == np.bool_:
        mask = np.where(mask, np.float32(0), np.float32(-np.inf))
    s_ += mask
    return mask.max(axis=-1, keepdims=True) == -np.inf


# -- oneDNN, in place ----------------------------------------------------------------------------------------------------


def _product(x: np.ndarray, y: np.ndarray, z_: np.ndarray, add: bool = False, scale: float = 1) -> bool:
    """z ← scale·x y, or z ← z + scale·x y, as the arrays lie; whether oneDNN can."""
    # NumPy's BLAS is the better at small ones that it need not transpose on the right, as long as there is one thread to use
    if not add and scale == 1 and x.shape[-2] * y.shape[-2] * y.shape[-1] < _SMALL_MACS and y.strides[-1] == y.itemsize:
        if threads.get_num_threads() == 1:
            np.matmul(x, y, out=z_)
            return True

    def build(b: Builder) -> Call:
        xd, yd, zd = (b.strided(a.shape, c.F32, strides_of(a) or ()) for a in (x, y, z_))
        scaled, added = ("eltwise", c.LINEAR, scale, 0.0), ("sum", 1.0, 0, c.UNDEF)
        b.append(*[scaled] * (scale != 1), *[added] * add)
        return b.call(b.descriptor("matmul", xd, yd, None, zd), {c.SRC: xd, c.WEIGHTS: yd}, {c.DST: zd})

    call = cached(("product", x.shape, x.strides, y.shape, y.strides, z_.strides, add, scale), build)
    if call is None:
        return False
    call(x, y, z_)
    return True


def _softmax(s_: np.ndarray) -> bool:
    """The softmax of each row, in place; whether oneDNN can."""

    def build(b: Builder) -> Call:
        d = b.packed(s_.shape, c.F32)
        p = b.descriptor("softmax_forward", c.TRAINING, c.SOFTMAX, d, d, s_.ndim - 1)
        return b.call(p, {c.SRC: d}, {c.DST: d}, spills=s_.size >= SPILLED)

    call = cached(("softmax", s_.shape, c.F32), build)
    if call is None:
        return False
    call(s_, s_)
    return True


def _softmax_grad(g_: np.ndarray, p: np.ndarray) -> bool:
    """g ← p (g − Σ g p) for each row; whether oneDNN can."""

    def build(b: Builder) -> Call:
        d = b.packed(p.shape, c.F32)
        forward = b.descriptor("softmax_forward", c.TRAINING, c.SOFTMAX, d, d, p.ndim - 1)
        back = b.descriptor("softmax_backward", c.SOFTMAX, d, d, d, p.ndim - 1, forward)
        return b.call(back, {c.DIFF + c.DST: d, c.DST: d}, {c.DIFF + c.SRC: d})

    call = cached(("softmax_grad", p.shape, c.F32), build)
    if call is None:
        return False
    call(g_, p, g_)
    return True
