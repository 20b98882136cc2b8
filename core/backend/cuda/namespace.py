"""CuPy's module as `be.xp`, with bfloat16 where CuPy has none.

Most of CuPy 14.2's functions take bfloat16. Of these a few have no loop for it and would answer in float32, or refuse: so here they
select bits, compute in float32, or are composed of others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ml_dtypes import bfloat16

_LOW = np.dtype(bfloat16)


def _is_low(x: Any) -> bool:
    return getattr(x, "dtype", None) == _LOW


class Namespace:
    """Whatever CuPy has, looked up once."""

    def __init__(self, cupy: Any):
        self._cupy = cupy

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cupy, name)
        setattr(self, name, value)
        return value

    def where(self, condition: Any, x: Any = None, y: Any = None) -> Any:
        if not (_is_low(x) or _is_low(y)) or not all(self._becomes_low(v) for v in (x, y)):
            return self._cupy.where(condition, x, y)
        return self._cupy.where(condition, self._bits(x), self._bits(y)).view(_LOW)

    def _becomes_low(self, v: Any) -> bool:
        """Whether v and a bfloat16 array make bfloat16, as in torch."""
        return not hasattr(v, "dtype") or v.dtype == _LOW or v.dtype.kind in "biu"

    def _bits(self, v: Any) -> Any:
        if isinstance(v, self._cupy.ndarray):
            return v.astype(_LOW, copy=False).view(np.int16)
        return np.asarray(v, _LOW).view(np.int16)[()]

    def clip(self, x: Any, lo: Any = None, hi: Any = None, out: Any = None) -> Any:
        if not _is_low(x):
            return self._cupy.clip(x, lo, hi, out=out)
        lo, hi = (v if v is None or hasattr(v, "dtype") else bfloat16(v) for v in (lo, hi))
        y = x if lo is None else self._cupy.maximum(x, lo, out=out)
        return y if hi is None else self._cupy.minimum(y, hi, out=out)

    def copyto(self, y_: Any, x: Any, casting: str = "same_kind", where: Any = None) -> None:
        options = {} if where is None else {"where": where}
        if options and _is_low(y_):
            y_, x = y_.view(np.int16), self._bits(x)
        self._cupy.copyto(y_, x, casting, **options)

    def tril(self, x: Any, k: int = 0) -> Any:
        return (
            self._triangle(x, self._cupy.tri(*x.shape[-2:], k=k, dtype=bool)) if _is_low(x) else self._cupy.tril(x, k)
        )

    def triu(self, x: Any, k: int = 0) -> Any:
        if not _is_low(x):
            return self._cupy.triu(x, k)
        return self._triangle(x, ~self._cupy.tri(*x.shape[-2:], k=k - 1, dtype=bool))

    def _triangle(self, x: Any, inside: Any) -> Any:
        return self.where(inside, x, 0)

    def cumsum(self, x: Any, axis: Any = None, dtype: Any = None) -> Any:
        return self._widened("cumsum", x, axis, dtype)

    def cumprod(self, x: Any, axis: Any = None, dtype: Any = None) -> Any:
        return self._widened("cumprod", x, axis, dtype)

    def _widened(self, name: str, x: Any, axis: Any, dtype: Any) -> Any:
        function = getattr(self._cupy, name)
        if _LOW not in (x.dtype, dtype):
            return function(x, axis=axis, dtype=dtype)
        wide = np.float32 if dtype in (None, _LOW) else dtype
        return function(x.astype(np.float32), axis=axis, dtype=wide).astype(dtype or _LOW, copy=False)

    def round(self, x: Any, decimals: int = 0) -> Any:
        if not _is_low(x):
            return self._cupy.round(x, decimals)
        return self._cupy.round(x.astype(np.float32), decimals).astype(_LOW)

    def argsort(self, x: Any, axis: int = -1, kind: Any = None) -> Any:
        return self._cupy.argsort(_sortable(x), axis=axis, kind=kind)

    def searchsorted(self, x: Any, v: Any, side: str = "left") -> Any:
        return self._cupy.searchsorted(_sortable(x), _sortable(v), side=side)

    def unique(self, x: Any, **options: Any) -> Any:
        if not _is_low(x):
            return self._cupy.unique(x, **options)
        found = self._cupy.unique(_sortable(x), **options)
        values, *others = found if isinstance(found, tuple) else (found,)
        return (values.astype(_LOW), *others) if others else values.astype(_LOW)


def _sortable(x: Any) -> Any:
    """In the same order, of a dtype that CuPy sorts."""
    return x.astype(np.float32) if _is_low(x) else x
