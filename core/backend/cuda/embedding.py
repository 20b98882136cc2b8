"""The gradient of picked rows, without atomics: the host side of `embedding.cuh`. False where it is not its case."""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.cuda.launch import instance

_WORK = 1 << 34  # rows times indices: every row's warp looks at every index
_WARPS, _COLUMNS = 8, 256  # of a block: rows, and columns of each


def add_rows_(be: Any, x_: Any, index: Any, g: Any) -> bool:
    """x_[index] += g for one array of row numbers, every occurrence counted, in their order."""
    if isinstance(index, tuple):
        if len(index) != 1:
            return False
        index = index[0]
    if (
        not isinstance(index, be.array_type)
        or index.dtype.kind != "i"
        or not x_.flags.c_contiguous
        or x_.dtype != g.dtype
    ):
        return False
    of = instance(be, "embedding", x_, index)
    if of is None or g.shape != (*index.shape, *x_.shape[1:]) or not g.size or x_.shape[0] * index.size > _WORK:
        return False
    rows, n = x_.shape[0], index.size
    d, xp = x_.size // rows, be.xp
    grid = (-(-rows // _WARPS), -(-d // _COLUMNS))
    args = x_, xp.ascontiguousarray(index), xp.ascontiguousarray(g), np.int32(n), np.int32(rows), np.int32(d)
    be.launch(of, "embedding_grad", grid, (32 * _WARPS,), *args)
    return True
