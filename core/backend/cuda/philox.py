"""Random numbers drawn on the GPU, with the bits of `core.philox`: the host side of `philox.cuh`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from core.backend.cuda.launch import accumulator, blocks, instance

_DRAW = np.dtype([("key", np.uint32, 2), ("call", np.uint32), ("shard", np.uint32), ("step", np.uint32)], align=True)


class Draw(NamedTuple):
    """The name of a draw, as `core.philox` has it."""

    seed: int
    step: int
    shard: int
    call: int


def dropout_mask(be: Any, shape: tuple[int, ...], dtype: Any, p: float, draw: Draw, advance: Any = None) -> Any:
    """1/(1 − p) where the draw's float64 uniform is below 1 − p, else 0; None for a dtype that the kernels have not.

    `advance`: a uint32 on the device that is added to the step when the kernel runs, so that replays of a graph differ.
    """
    y = be.xp.empty(shape, dtype)
    of = instance(be, "philox", y)
    if of is None:
        return None
    if y.size:
        key = (draw.seed & 0xFFFFFFFF, draw.seed >> 32 & 0xFFFFFFFF)
        name = np.array((key, draw.call, draw.shard, draw.step), _DRAW)
        threshold = np.uint64(math.ceil((1 - p) * 2**53))
        kept = accumulator(y)(0 if p == 1 else 1 / (1 - p))
        grid = blocks(y.size, 512, 1 << 30)
        be.launch(of, "dropout_mask", grid, (256,), y, np.int64(y.size), name, advance, threshold, kept)
    return y
