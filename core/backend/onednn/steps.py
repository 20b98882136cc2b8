"""Products that run many times with one weight, as in the steps of a recurrent layer.

oneDNN lays a weight out anew at each product; here that is done once, before the first. And the product is added to what the result's
memory holds, which saves a temporary and a pass.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ml_dtypes import bfloat16

from core.backend.onednn import library as c
from core.backend.onednn.primitives import Builder, Call, cached, strides_of

Add = Callable[[np.ndarray, np.ndarray], None]


class _Product(Call):
    """z += x w for a w in oneDNN's own layout, and the call that brings it there."""

    def __init__(self, b: Builder, rows: int, apart: tuple[int, int], w: np.ndarray):
        (k, m), (x_stride, z_stride) = w.shape, apart
        strides = strides_of(w)
        assert strides is not None
        dtype = c.BF16 if w.dtype == bfloat16 else c.F32
        x, plain = b.strided((rows, k), dtype, [x_stride, 1]), b.strided(w.shape, dtype, strides)
        z = b.strided((rows, m), c.F32, [z_stride, 1])
        b.append(("sum", 1.0, 0, c.UNDEF))
        d = b.descriptor("matmul", x, b.any(w.shape, dtype), None, z)
        inside = b.wanted(d, c.WEIGHTS)
        self.bytes = b.bytes(inside)
        super().__init__(b, d, {c.SRC: x, c.WEIGHTS: inside}, {c.DST: z})
        self.pack = Call(Builder(b.library), b.reorder(plain.value, inside.value), {c.SRC: plain}, {c.DST: inside})


def adder(w: np.ndarray, rows: int, apart: tuple[int, int]) -> Add | None:
    """f(x, z_) that adds x w to z_: x (rows, K), w (K, M), z_ (rows, M), the rows of x and z_ so many elements apart. What w holds is
    read now.

    z_ is float32, x and w are both that or both bfloat16.
    """
    if w.dtype not in (np.float32, bfloat16) or not w.size or not rows or strides_of(w) is None:
        return None
    call = cached(("steps", rows, apart, w.shape, w.strides, w.dtype), lambda b: _Product(b, rows, apart, w))
    if call is None:
        return None
    assert isinstance(call, _Product)
    packed = np.empty(call.bytes, np.uint8)
    call.pack(w, packed)

    def add(x: np.ndarray, z_: np.ndarray) -> None:
        call(x, packed, z_)

    return add
