"""3×3 convolution of float32 images by Winograd's minimal filtering: a quarter of the multiplications.

A tile of 4×4 outputs is Aᵀ[(G w Gᵀ) ⊙ (Bᵀ x B)]A, where x is the 6×6 inputs under it; summed over channels, ⊙ becomes 36 matrix products
over all tiles at once (Lavin and Gray 2016, arXiv:1509.09308). The gradient for the input is the same with the weight turned round, that
for the weight is Gᵀ[(A g Aᵀ) ⊙ (Bᵀ x B)]G, summed over tiles. oneDNN computes the products, and as convolutions of each channel by
itself with a column of constants also Aᵀ, A and Bᵀ: one pass for each row of the matrix, over what lies channels-last.

All of it is one program, whose parts are so small that what passes between them stays in the cache: some samples at a time, of their
tiles one row of six at a time, and of the filters a block.

The points at which the polynomials are evaluated are 0, ±5/8, ±3/2 and ∞: all constants of Aᵀ and Bᵀ are then exact, and the error is
half of that with the usual 0, ±1, ±2: measured 5 times that of the direct sum (1e-6 of the result's standard deviation, at most 1.2e-5).
A number that is not finite makes all outputs of its tiles so.
`pays` says when that is worth it; `core.backends.mkldnn.winograd` is the switch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.kernels import Ints
from core.backend.onednn.library import Handle
from core.backend.onednn.primitives import Builder, cached, dims
from core.backend.onednn.program import Operand, Place, Program, packed

_OUT, _TAPS = 4, 3  # outputs of a tile and taps of the filter, along each dimension
_IN = _OUT + _TAPS - 1
_POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)  # and ∞
_BYTES = np.dtype(np.float32).itemsize
# of a row of transformed tiles and of a block of weights, which stay in the cache; tiles that make up for transforming the weight
_PIECE_BYTES, _WEIGHT_BYTES, _TILES = 3 << 19, 4 << 20, 256
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


def _two_sided(g: np.ndarray) -> np.ndarray:
    """(6, 6, 9): by row, what takes a filter, its taps in C order, to G w Gᵀ"""
    return np.einsum("ia,jb->ijab", g, g).reshape(_IN, _IN, -1).astype(np.float32)


_FILTER, _TURNED = _two_sided(_G), _two_sided(_G[:, ::-1])


# -- when --------------------------------------------------------------------------------------------------------------

# What an element of the transforms costs, and one of a transformed weight, in floating-point operations of a product (measured).
_TRANSFORM_COST, _WEIGHT_COST = 75, 55


def pays(x_shape: Ints, w_shape: Ints, padding: Ints) -> bool:
    """Whether (N, C, H, W) with a weight (K, C, 3, 3), strides and dilations of 1, is faster so than directly."""
    if not _fits(w_shape, padding):
        return False
    # the direct way skips what would be multiplied by zeros around the image
    within = [1 - 2 * p / (_TAPS * o) for p, o in zip(padding, _outputs(x_shape, padding))]
    return _is_less(x_shape, w_shape, padding, math.prod(within))


def pays_for_weight_grad(x_shape: Ints, w_shape: Ints, padding: Ints) -> bool:
    """The same of the gradient for the weight."""
    return _fits(w_shape, padding) and _is_less(x_shape, w_shape, padding, 1)


def _fits(w_shape: Ints, padding: Ints) -> bool:
    k, channels, *size = w_shape
    return size == [_TAPS, _TAPS] and max(padding) < _TAPS and channels % _BLOCK == k % _BLOCK == 0


def _is_less(x_shape: Ints, w_shape: Ints, padding: Ints, within: float) -> bool:
    """Whether it is less work, where of the direct products so many are computed."""
    n, k, channels, out = x_shape[0], *w_shape[:2], _outputs(x_shape, padding)
    tiles = n * math.prod(_count(out))
    direct = 2 * _TAPS**2 * n * math.prod(out) * channels * k * within
    products = 2 * _IN**2 * tiles * channels * k
    around = _IN**2 * (_TRANSFORM_COST * tiles * (channels + k) + _WEIGHT_COST * channels * k)
    return products + around < 0.8 * direct


def _outputs(x_shape: Ints, padding: Ints) -> list[int]:
    return [i + 2 * p - _TAPS + 1 for i, p in zip(x_shape[2:], padding)]


# -- the three products ------------------------------------------------------------------------------------------------


def conv(x: np.ndarray, w: np.ndarray, padding: Ints, y: np.ndarray) -> bool:
    """(N, H, W, C), (K, C, 3, 3) -> y, (N, *out, K); whether it could be computed"""
    return _filter(x, w, False, padding, y)


def conv_input_grad(g: np.ndarray, w: np.ndarray, padding: Ints, dx: np.ndarray) -> bool:
    """(N, *out, K), (K, C, 3, 3) -> dx, (N, H, W, C); whether it could be computed"""
    return _filter(g, w, True, tuple(_TAPS - 1 - p for p in padding), dx)


def conv_weight_grad(g: np.ndarray, x: np.ndarray, padding: Ints) -> np.ndarray | None:
    """(N, *out, K), (N, H, W, C) -> (K, C, 3, 3)"""
    k, channels, parts = g.shape[3], x.shape[3], list(_pieces(g.shape, x.shape[3]))
    sums = np.empty((_TAPS**2, k, channels) if len(parts) > 1 else 0, np.float32)
    dw = np.empty((k, channels, _TAPS, _TAPS), np.float32)
    for part in parts:
        own = (g[part].shape, x[part].shape, padding, part.start > 0, part.stop == len(g))
        call = cached(("winograd_weight_grad", *own), partial(_weight_grad, *own))
        if call is None:
            return None
        call(g[part], x[part], sums, dw)
    return dw


def _filter(x: np.ndarray, w: np.ndarray, turned: bool, padding: Ints, y: np.ndarray) -> bool:
    """x (N, H, W, C), w (K, C, 3, 3) -> y (N, *out, K); `turned`: C and K change roles, and the filters are turned round"""
    for part in _pieces(y.shape, x.shape[3]):
        own = (x[part].shape, y[part].shape, turned, padding)
        call = cached(("winograd", *own), partial(_filtered, *own))
        if call is None:
            return False
        call(x[part], w, y[part])
    return True


def _count(size: Sequence[int]) -> Ints:
    """How many tiles cover so many outputs"""
    return tuple(-(-n // _OUT) for n in size)


def _pieces(y: Ints, channels: int) -> Iterator[slice]:
    """Samples of (N, *out, K) that are computed together"""
    n, *size, k = y
    tiles = math.prod(_count(size))
    most = max(_PIECE_BYTES // (_IN * tiles * (channels + k) * _BYTES), -(-_TILES // tiles))
    parts = -(-n // most)
    ends = [n * i // parts for i in range(parts + 1)]
    return (slice(*ends[i : i + 2]) for i in range(parts))


def _blocks(filters: int, channels: int) -> list[slice]:
    """Filters whose weights are transformed together"""
    width = max(_BLOCK, _WEIGHT_BYTES // ((_IN + _TAPS**2) * _BYTES * channels) // _BLOCK * _BLOCK)
    return [slice(i, min(i + width, filters)) for i in range(0, filters, width)]


# -- programs ------------------------------------------------------------------------------------------------------------


def _filtered(x: Ints, y: Ints, turned: bool, padding: Ints, b: Builder) -> Program:
    """The program of `_filter`, of x, w and y"""
    p, (n, *size, k), channels = Program(b), y, x[3]
    tiles, blocks = _count(size), _blocks(k, channels)
    count, widest = n * math.prod(tiles), blocks[0].stop
    v = _slots(p, len(blocks), _IN, count, channels)
    t = p.buffer(n, tiles[0], x[2], channels)
    taps, u = p.buffer(_TAPS**2, channels, widest), p.buffer(_IN, channels, widest)
    m, s, rows = p.buffer(_IN, count, widest), p.buffer(_OUT, _IN, count, widest), p.buffer(_OUT, count, widest)
    # (K, C, 9), or turned (C, K, 9), seen as (9, C, K)
    steps = (1, _TAPS**2 * k, _TAPS**2) if turned else (1, _TAPS**2, _TAPS**2 * channels)
    for block in blocks:
        width = block.stop - block.start
        w = Operand(Place(1).at(block.start, steps[2]), (_TAPS**2, channels, width), steps)
        p.reorder(w, packed(taps, *w.shape))
        for i in range(_IN):
            if block.start == 0:
                _tile(p, Place(0), x, _B, i, padding, tiles, t, v[i])
            way, seen = _some((_TURNED if turned else _FILTER)[i])
            own = packed(taps.at(seen.start, channels * width), len(seen), channels * width)
            p.product(p.constant(way), own, packed(u, _IN, channels * width))
            p.product(packed(v[i], _IN, count, channels), packed(u, _IN, channels, width), packed(m, _IN, count, width))
            _combine(p, m, (1, _IN, count, width), _A, [s.at(j * _IN + i, count * width) for j in range(_OUT)])
        for i in range(_OUT):
            _combine(p, s, (_OUT, _IN, count, width), _A[i : i + 1], [rows])
            _put(p, rows, y, i, block)
    return p.done()


def _weight_grad(g: Ints, x: Ints, padding: Ints, more: bool, last: bool, b: Builder) -> Program:
    """The program of `conv_weight_grad`, of g, x, the sums (9, K, C), to which `more` are added, and dw, which the last one writes. One
    that is the first and the last has sums of its own."""
    p, (n, *size, k), channels = Program(b), g, x[3]
    tiles, blocks = _count(size), _blocks(k, channels)
    count, widest = n * math.prod(tiles), blocks[0].stop
    v, z = (_slots(p, len(blocks), _IN, count, both) for both in (channels, k))
    t = p.buffer(n, tiles[0], max(x[2] * channels, g[2] * k))
    m = p.buffer(_IN, widest, channels)
    own = None if more or not last else p.buffer(_TAPS**2, widest, channels)
    for block in blocks:
        width = block.stop - block.start
        many = width * channels
        at, apart = (Place(2).at(block.start, channels), k * channels) if own is None else (own, many)
        for i in _ORDER:
            if block.start == 0:
                _tile(p, Place(1), x, _B, i, padding, tiles, t, v[i])
                _tile(p, Place(0), g, _A.T, i, (0, 0), tiles, t, z[i])
            rows = Operand(z[i].at(block.start), (_IN, width, count), (count * k, 1, k))
            p.product(rows, packed(v[i], _IN, count, channels), packed(m, _IN, width, channels))
            way, seen = _some(_FILTER[i])
            sums = Operand(at.at(seen.start, apart), (len(seen), many), (apart, 1))
            p.product(p.constant(way.T), packed(m, _IN, many), sums, adds=more or i != _ORDER[0])
        if last:
            dw = Place(3).at(block.start, channels, _TAPS**2)
            p.reorder(Operand(at, (_TAPS**2, many), (apart, 1)), Operand(dw, (_TAPS**2, many), (1, _TAPS**2)))
    return p.done()


_ORDER = (*range(1, _IN), 0)  # of rows whose sums are added: the first one takes but some of the taps


def _some(way: np.ndarray) -> tuple[np.ndarray, range]:
    """Those columns of (6, 9) that are not zero, and which they are"""
    seen = np.flatnonzero(way.any(axis=0))
    used = range(int(seen[0]), int(seen[-1]) + 1)
    return way[:, used.start : used.stop], used


def _slots(p: Program, blocks: int, *shape: int) -> list[Place]:
    """Where each row of transformed tiles lies: in one place, one after the other, if there is but one block that wants them"""
    return [p.buffer(*shape) for _ in range(_IN)] if blocks > 1 else [p.buffer(*shape)] * _IN


def _tile(
    p: Program, x: Place, shape: Ints, matrix: np.ndarray, i: int, padding: Ints, tiles: Ints, t: Place, v: Place
) -> None:
    """(N, H, W, C) -> (rows, N, *tiles, C): row i of the matrix along H, by t, and the whole matrix along W"""
    n, _, width, channels = shape
    _combine(p, x, shape, matrix[i : i + 1], [t], 1, _OUT, padding[0], tiles[0])
    size = n * math.prod(tiles) * channels
    inner = (n, tiles[0], width, channels)
    _combine(p, t, inner, matrix, [v.at(j, size) for j in range(len(matrix))], 2, _OUT, padding[1], tiles[1])


def _combine(
    p: Program, x: Place, shape: Ints, matrix: np.ndarray, ys: list[Place], axis: int = 1, step: int = 1, before: int = 0, out: int = 1
) -> None:  # fmt: skip
    """Each row of the matrix for every channel by itself, as a convolution with one filter, (N, H, W, C) -> (N, out, W, C), for axis 2
    (N, H, out, C): its sum with the places that lie from every `step`-th one on, first `before` places before the image. Zeros, which lie
    around the image, and those of the row are not multiplied."""
    n, *size, channels = shape
    for y, row in zip(ys, matrix):
        used = _used(row, before) if step > 1 else slice(0, None, 1)  # oneDNN has no filter that skips places otherwise
        row, apart, first = row[used], used.step, before - used.start
        after = (out - 1) * step + (len(row) - 1) * apart + 1 - first - shape[axis]

        def along(value: int, else_: int, axis: int = axis) -> list[int]:
            return [value, else_] if axis == 1 else [else_, value]

        source, target = _images(x, n, channels, *size), _images(y, n, channels, *along(out, size[2 - axis]))
        w_shape = (channels, 1, 1, *along(len(row), 1))
        places = [dims(a) for a in (along(step, 1), along(apart - 1, 0), along(first, 0), along(after, 0))]

        def make(places: list[Any] = places, w_shape: Ints = w_shape, ends: Any = (source, target)) -> Handle:
            xd, yd = map(p.described, ends)
            w = p.builder.any(w_shape, c.F32)
            return p.builder.descriptor("convolution_forward", c.TRAINING, c.DIRECT, xd, w, None, yd, *places)

        key = ("combine", shape, row.tobytes(), axis, step, apart, first, after)
        filters = np.tile(row.astype(np.float32), channels)
        p.add(key, make, {c.SRC: source, c.DST: target}, (filters, w_shape))


def _images(place: Place, n: int, channels: int, height: int, width: int) -> Operand:
    """(N, H, W, C) as oneDNN names it"""
    strides = (height * width * channels, 1, width * channels, channels)
    return Operand(place, (n, channels, height, width), strides)


def _used(row: np.ndarray, before: int) -> slice:
    """What of a row is multiplied: neither zeros at its ends, as far as the image's edge allows, nor zeros at every second place"""
    places = np.flatnonzero(row)
    first = min(before, int(places[0]))
    return slice(first, int(places[-1]) + 1, int(np.gcd.reduce(places - first)) or 1)


def _put(p: Program, rows: Place, y: Ints, i: int, block: slice) -> None:
    """Rows of outputs, (4, N, *tiles, width) -> every fourth row of y, (N, *out, K), from i on: those that are within the image"""
    n, height, width, k = y
    down, across = _count(y[1:3])
    filters = block.stop - block.start
    tall, wide = height - _OUT * (down - 1), width - _OUT * (across - 1)  # what of the last tiles is within the image
    # by themselves those of the last tiles that are not whole: oneDNN takes what reaches beyond the image for overlapping samples
    sides = [range(down)] if tall == _OUT else [range(down - 1), range(down - 1, down if i < tall else down - 1)]
    for rows_seen, (columns, seen) in product(sides, [(range(wide), across), (range(wide, _OUT), across - 1)]):
        shape = (len(columns), n, len(rows_seen), seen, filters)
        if not math.prod(shape):
            continue
        tile = across * filters
        source = (n * down * tile, down * tile, tile, filters, 1)
        target = (k, height * width * k, _OUT * width * k, _OUT * k, 1)
        x = Operand(rows.at(columns.start, source[0]).at(rows_seen.start, tile), shape, source)
        place = Place(2).at((_OUT * rows_seen.start + i) * width + columns.start, k).at(block.start)
        p.reorder(x, Operand(place, shape, target))
