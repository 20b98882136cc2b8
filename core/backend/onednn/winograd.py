"""3×3 convolution of float32 images by Winograd's minimal filtering: a quarter of the multiplications.

A tile of 4×4 outputs is Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A, where x is the 6×6 inputs under it; summed over channels, ⊙ becomes 36 matrix products
over all tiles at once (Lavin and Gray 2016, arXiv:1509.09308). The gradient for the input is the same with the weight turned round, that
for the weight is Gᵀ[(A g Aᵀ) ⊙ (Bᵀ x B)]G, summed over tiles. oneDNN computes the products, and as convolutions of each channel by
itself with a column of constants also Aᵀ, A and Bᵀ: one pass for each row of the matrix, over what lies channels-last.

The points at which the polynomials are evaluated are 0, ±5/8, ±3/2 and ∞: all constants of Aᵀ and Bᵀ are then exact, and the error is
half of that with the usual 0, ±1, ±2: measured 5 times that of the direct sum (1e-6 of the result's standard deviation, at most 1.2e-5).
A number that is not finite makes all outputs of its tiles so.
`pays` says when that is worth it; `core.backends.mkldnn.winograd` is the switch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.kernels import Ints, matmul
from core.backend.onednn.library import Handle
from core.backend.onednn.primitives import Builder, Call, cached, dims

_OUT, _TAPS = 4, 3  # outputs of a tile and taps of the filter, along each dimension
_IN = _OUT + _TAPS - 1
_POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)  # and ∞
_PIECE_BYTES, _WEIGHT_BYTES = 8 << 20, 5 << 20  # transformed tiles and weights that stay in the cache
_BLOCK = 16  # channels that oneDNN's kernels take at a time


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ (4, 6), G (6, 3) and Bᵀ (6, 6), by Toom and Cook: filtering is the transpose of multiplying polynomials by their values."""
    a, g, b = np.zeros((_OUT, _IN)), np.zeros((_IN, _TAPS)), np.zeros((_IN, _IN))
    for i, at in enumerate(_POINTS):
        others = [p for p in _POINTS if p != at]
        a[:, i] = at ** np.arange(_OUT)
        g[i] = at ** np.arange(_TAPS) / math.prod(at - p for p in others)
        b[i, : _IN - 1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = np.poly(_POINTS)[::-1]
    return a, g, b


_A, _G, _B = _matrices()


# -- when --------------------------------------------------------------------------------------------------------------

# What an element of the transforms costs, and one of a transformed weight, in floating-point operations of a product (measured).
_TRANSFORM_COST, _WEIGHT_COST = 100, 90


def pays(x_shape: Ints, w_shape: Ints, padding: Ints) -> bool:
    """Whether (N, C, H, W) with a weight (K, C, 3, 3), strides and dilations of 1, is faster so than directly."""
    n, channels, *size = x_shape
    k = w_shape[0]
    if w_shape[2:] != (_TAPS, _TAPS) or max(padding) >= _TAPS or channels % _BLOCK or k % _BLOCK:
        return False
    out = [i + 2 * p - _TAPS + 1 for i, p in zip(size, padding)]
    tiles = n * math.prod(-(-o // _OUT) for o in out)
    direct = 2 * _TAPS**2 * n * math.prod(out) * channels * k
    products = 2 * _IN**2 * tiles * channels * k
    around = _IN**2 * (_TRANSFORM_COST * tiles * (channels + k) + _WEIGHT_COST * channels * k)
    return products + around < 0.8 * direct


# -- transforms --------------------------------------------------------------------------------------------------------


class _Row(Call):
    """One row of constants for every channel by itself, as a convolution with one filter, (N, H, W, C) -> (N, out, W, C), for axis 2
    (N, H, out, C): its sum with the places that lie from every `step`-th one on, first `before` places before the image. Zeros, which lie
    around the image, and those of the row are not multiplied."""

    def __init__(self, b: Builder, shape: Ints, row: np.ndarray, axis: int, step: int, before: int, out: int):
        n, *size, channels = shape
        used = _used(row, before) if step > 1 else slice(0, None, 1)  # oneDNN has no filter that skips places otherwise
        row, apart, before = row[used], used.step, before - used.start
        after = (out - 1) * step + (len(row) - 1) * apart + 1 - before - shape[axis]

        def along(value: int, else_: int) -> list[int]:
            return [value, else_] if axis == 1 else [else_, value]

        def images(height: int, width: int) -> Handle:
            strides = (height * width * channels, 1, width * channels, channels)
            return b.strided((n, channels, height, width), c.F32, strides)

        x, y, w_shape = images(*size), images(*along(out, size[2 - axis])), (channels, 1, 1, *along(len(row), 1))
        places = [dims(v) for v in (along(step, 1), along(apart - 1, 0), along(before, 0), along(after, 0))]
        d = b.descriptor("convolution_forward", c.TRAINING, c.DIRECT, x, b.any(w_shape, c.F32), None, y, *places)
        inside = b.wanted(d, c.WEIGHTS)
        super().__init__(b, d, {c.SRC: x, c.WEIGHTS: inside}, {c.DST: y})
        plain = b.packed(w_shape, c.F32)
        self.constants = np.empty(b.bytes(inside), np.uint8)
        pack = Call(b, b.reorder(plain.value, inside.value), {c.SRC: plain}, {c.DST: inside})
        pack(np.tile(row.astype(np.float32), channels), self.constants)


def _used(row: np.ndarray, before: int) -> slice:
    """What of a row is multiplied: neither zeros at its ends, as far as the image's edge allows, nor zeros at every second place"""
    places = np.flatnonzero(row)
    first = min(before, int(places[0]))
    return slice(first, int(places[-1]) + 1, int(np.gcd.reduce(places - first)) or 1)


def _combine(
    x: np.ndarray, matrix: np.ndarray, axis: int = 1, step: int = 1, before: int = 0, out: int = 1
) -> np.ndarray | None:
    """(N, H, W, C) -> (rows, N, out, W, C), for axis 2 (rows, N, H, out, C): each row of the matrix as a `_Row`"""
    size = list(x.shape)
    size[axis] = out
    y = np.empty((len(matrix), *size), np.float32)
    for i, row in enumerate(matrix):
        key = ("winograd", x.shape, matrix.shape, i, axis, step, before, out)
        make = partial(_Row, shape=x.shape, row=row, axis=axis, step=step, before=before, out=out)
        call = cached(key, make)
        if call is None:
            return None
        call(x, cast(_Row, call).constants, y[i])
    return y


def _tiles(x: np.ndarray, matrix: np.ndarray, step: int, padding: Ints, tiles: Ints) -> np.ndarray | None:
    """(N, H, W, C) -> (36, N·tiles, C): the matrix, from both sides, on every tile"""
    rows, channels = len(matrix), x.shape[3]
    t = _combine(x, matrix, 1, step, padding[0], tiles[0])
    if t is not None:
        t = _combine(t.reshape(-1, *t.shape[2:]), matrix, 2, step, padding[1], tiles[1])
    return None if t is None else t.reshape(rows * rows, -1, channels)


def _outputs(m: np.ndarray, y: np.ndarray, tiles: Ints) -> bool:
    """Aᵀ, from both sides, on (36, N·tiles, K), written to (N, H, W, K); whether there is a primitive for it."""
    k = m.shape[2]
    s = _combine(m.reshape(1, _IN, -1, k), _A)
    if s is not None:
        s = _combine(s.reshape(_OUT, _IN, -1, k), _A)
    if s is None:
        return False
    s = s.reshape(_OUT, _OUT, len(y), *tiles, k)
    for i in range(_OUT):
        for j in range(_OUT):
            place = y[:, i::_OUT, j::_OUT]  # tiles may reach beyond the image
            place[...] = s[i, j, :, : place.shape[1], : place.shape[2]]
    return True


def _two_sided(g: np.ndarray) -> np.ndarray:
    """(36, 9): what takes a filter, its taps in C order, to G w Gᵀ, in the order of `_tiles`"""
    return np.einsum("ia,jb->jiab", g, g).reshape(_IN * _IN, -1).astype(np.float32)


_FILTER, _TURNED = _two_sided(_G), _two_sided(_G[:, ::-1])


# -- the three products ------------------------------------------------------------------------------------------------


def conv(x: np.ndarray, w: np.ndarray, padding: Ints, y: np.ndarray) -> bool:
    """(N, H, W, C), (K, C, 3, 3) -> y, (N, *out, K); whether it could be computed"""
    return _filter(x, w, _FILTER, padding, y)


def conv_input_grad(g: np.ndarray, w: np.ndarray, padding: Ints, dx: np.ndarray) -> bool:
    """(N, *out, K), (K, C, 3, 3) -> dx, (N, H, W, C); whether it could be computed"""
    return _filter(g, w, _TURNED, tuple(_TAPS - 1 - p for p in padding), dx)


def conv_weight_grad(g: np.ndarray, x: np.ndarray, padding: Ints) -> np.ndarray | None:
    """(N, *out, K), (N, H, W, C) -> (K, C, 3, 3)"""
    (n, *size, k), channels = g.shape, x.shape[3]
    tiles, dw = _count(size), np.zeros((k, channels * _TAPS**2), np.float32)
    for part in _pieces(n, tiles, channels, k):
        v, z = _tiles(x[part], _B, _OUT, padding, tiles), _tiles(g[part], _A.T, _OUT, (0, 0), tiles)
        if v is None or z is None:
            return None
        for filters in _blocks(k, channels):
            m = matmul(z[..., filters].swapaxes(1, 2), v)
            turned = None if m is None else matmul(m.reshape(_IN * _IN, -1).T, _FILTER)
            if turned is None:
                return None
            dw[filters] += turned.reshape(-1, channels * _TAPS**2)
    return dw.reshape(k, channels, _TAPS, _TAPS)


def _filter(x: np.ndarray, w: np.ndarray, way: np.ndarray, padding: Ints, y: np.ndarray) -> bool:
    """x (N, H, W, C), w (K, C, 3, 3) -> y (N, *out, K); for `_TURNED` C and K change roles"""
    tiles, channels, filters = _count(y.shape[1:3]), x.shape[3], y.shape[3]
    for part in _pieces(len(x), tiles, channels, filters):
        v = _tiles(x[part], _B, _OUT, padding, tiles)
        if v is None:
            return False
        for block in _blocks(filters, channels):
            some = w[block] if way is _FILTER else w[:, block]
            u = matmul(way, some.reshape(-1, _TAPS**2).T)
            if u is None:
                return False
            u = u.reshape(_IN * _IN, *some.shape[:2])
            m = matmul(v, u.swapaxes(1, 2) if way is _FILTER else u)
            if m is None or not _outputs(m, y[part, ..., block], tiles):
                return False
    return True


def _count(size: Sequence[int]) -> Ints:
    """How many tiles cover so many outputs"""
    return tuple(-(-n // _OUT) for n in size)


def _pieces(n: int, tiles: Ints, channels: int, filters: int) -> Iterator[slice]:
    """Samples that are transformed together: so few that they stay in the cache, but no fewer than make up for a large weight"""
    row = _IN * _IN * np.dtype(np.float32).itemsize * (channels + filters)
    room = max(_PIECE_BYTES, row * min(channels, filters))
    parts = min(n, -(-n * math.prod(tiles) * row // room))
    ends = [n * i // parts for i in range(parts + 1)]
    return (slice(*ends[i : i + 2]) for i in range(parts))


def _blocks(filters: int, channels: int) -> Iterator[slice]:
    """Filters whose weights are transformed together"""
    width = max(_BLOCK, _WEIGHT_BYTES // (_IN * _IN * 4 * channels) // _BLOCK * _BLOCK)
    return (slice(i, i + width) for i in range(0, filters, width))
