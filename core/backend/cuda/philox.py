"""Random numbers drawn on the GPU, with the bits of `core.philox`: the host side of `philox.cuh`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from core.backend.cuda.kernels import SOURCES
from core.backend.cuda.launch import NAMES, accumulator, blocks, instance

_DRAW = np.dtype([("key", np.uint32, 2), ("call", np.uint32), ("shard", np.uint32), ("step", np.uint32)], align=True)


class Draw(NamedTuple):
    """The name of a draw, as `core.philox` has it."""

    seed: int
    step: int
    shard: int
    call: int


def serves(dtype: np.dtype) -> bool:
    """Whether there are kernels for arrays of this dtype."""
    return (NAMES.get(dtype.num),) * 2 in SOURCES["philox"]


def _drawn(draw: Draw, p: float) -> tuple[np.ndarray, np.uint64]:
    """A draw's name, and below what its numbers keep."""
    key = (draw.seed & 0xFFFFFFFF, draw.seed >> 32 & 0xFFFFFFFF)
    return np.array((key, draw.call, draw.shard, draw.step), _DRAW), np.uint64(math.ceil((1 - p) * 2**53))


def dropout_mask(be: Any, shape: tuple[int, ...], dtype: Any, p: float, draw: Draw, advance: Any = None) -> Any:
    """1/(1 − p) where the draw's float64 uniform is below 1 − p, else 0; None for a dtype that the kernels have not.

    `advance`: a uint32 on the device that is added to the step when the kernel runs, so that replays of a graph differ.
    """
    y = be.xp.empty(shape, dtype)
    of = instance(be, "philox", y)
    if of is None:
        return None
    if y.size:
        name, threshold = _drawn(draw, p)
        kept = accumulator(y)(0 if p == 1 else 1 / (1 - p))
        grid = blocks(y.size, 512, 1 << 30)
        be.launch(of, "dropout_mask", grid, (256,), y, np.int64(y.size), name, advance, threshold, kept)
    return y


def dropout_add(
    be: Any, x: Any, residual: Any, scale: float, p: float, draw: Draw, advance: Any = None
) -> tuple[Any, Any]:
    """residual + x·mask and what was kept, with the mask of `dropout_mask`; two arrays of one shape, and a dtype that the kernels have."""
    of, xp = instance(be, "philox", x), be.xp
    assert of is not None, f"dropout_add: no kernel for {x.dtype}"
    x, residual = (a if a.flags.c_contiguous else xp.ascontiguousarray(a) for a in (x, residual))
    y, keep = xp.empty(x.shape, x.dtype), xp.empty(x.shape, bool)
    if x.size:
        name, threshold = _drawn(draw, p)
        sizes = np.int64(x.size), name, advance, threshold, accumulator(x)(scale)
        be.launch(of, "dropout_add", blocks(x.size, 512, 1 << 30), (256,), y, keep, x, residual, *sizes)
    return y, keep


def kept(be: Any, x: Any, keep: Any, scale: float) -> Any:
    """x·scale where it was kept, else 0; None where that is not the kernels' case."""
    of = instance(be, "philox", x)
    if of is None or keep.shape != x.shape or keep.dtype != np.bool_:
        return None
    x, keep = (a if a.flags.c_contiguous else be.xp.ascontiguousarray(a) for a in (x, keep))
    y = be.xp.empty(x.shape, x.dtype)
    if x.size:
        be.launch(of, "kept", blocks(x.size, 512), (256,), y, x, keep, np.int64(x.size), accumulator(x)(scale))
    return y
