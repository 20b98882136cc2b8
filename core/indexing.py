"""x[…] and x[…] = v: from what users write to views and gathers.

As in torch, ints, slices, None and … act first and give a view; integer and boolean tensors (arrays, lists) then act on what is
left. Where only the first kind occurs the result is a view.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, DTypeError, RangeError
from core.ops.index import index as gather_index
from core.ops.index import index_put
from core.ops.shape import slice_view

_WHOLE = slice(None)
_PLAIN = {int, slice}


def getitem(x: Tensor, i: Any) -> Tensor:
    """x[i]"""
    basic, arrays = _parsed(x, i)
    if basic is not None:
        x = slice_view(x, index=basic)
    return gather_index(x, index=arrays) if arrays is not None else x


def setitem(x: Tensor, i: Any, value: Any) -> None:
    """x[i] = value, in x's memory."""
    basic, arrays = _parsed(x, i)
    if not isinstance(value, Tensor):
        value = wrap(backend.of(x._a).from_numpy(np.asarray(value).astype(x._a.dtype)))
    target = slice_view(x, index=basic) if basic is not None else x
    if value.device != x.device:
        value = value.to(x.device)
    if arrays is None:
        drop = value._a.ndim - target._a.ndim  # torch lets leading ones of the value go
        if drop > 0 and value._a.shape[:drop] == (1,) * drop:
            value = value.reshape(value._a.shape[drop:])
        target.copy_(value)
    else:
        index_put.inplace(target, value, index=arrays)


def _parsed(x: Tensor, i: Any) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """(index of ints, slices, None and … or None if it would do nothing, index of slices and integer arrays or None if there is none)"""
    if type(i) is int or type(i) is slice:
        _check(i)
        return (i,), None
    if type(i) is tuple and len(i) <= x._a.ndim and _PLAIN.issuperset(map(type, i)):
        for e in i:
            _check(e)
        return i, None
    entries = list(i) if isinstance(i, tuple) else [i]
    if isinstance(i, list) and any(isinstance(e, (slice, type(None), type(...), Tensor, list, tuple)) for e in i):
        entries = i if any(isinstance(e, (slice, type(None), type(...))) for e in i) else entries
    entries = [_entry(e, x) for e in entries]

    used = sum(
        e.ndim if _is_mask(e) else 1 for e in entries if e is not None and e is not ... and not isinstance(e, bool)
    )
    if used > x._a.ndim:
        raise RangeError(
            f"index: too many indices: expected at most {x._a.ndim} for shape {tuple(x.shape)}, got {used}"
        )
    if ... in [e for e in entries if e is ...]:
        at = next(k for k, e in enumerate(entries) if e is ...)
        if sum(e is ... for e in entries) > 1:
            raise RangeError("index: expected at most one ellipsis, got several")
        entries[at : at + 1] = [_WHOLE] * (x._a.ndim - used)

    basic: list[Any] = []
    rest: list[Any] = []
    gathers = any(hasattr(e, "dtype") for e in entries)
    for e in entries:
        if e is None or (e is True and not gathers):
            basic.append(None)
            rest.append(_WHOLE)
        elif isinstance(e, bool):  # a mask of no dimensions
            basic.append(None)
            rest.append(backend.of(x._a).from_numpy(np.zeros(int(e), dtype=np.int64)))
        elif isinstance(e, int):
            basic.append(e)
        elif isinstance(e, slice):
            basic.append(e)
            rest.append(_WHOLE)
        elif _is_mask(e):
            if not e.ndim:  # a 0-d mask adds a dimension of length 1 or 0
                basic.append(None)
            at = sum(b is not None for b in basic)
            if e.shape != x._a.shape[at : at + e.ndim]:
                raise RangeError(
                    f"index: The shape of the mask {tuple(e.shape)} at index {at} does not match the shape of the indexed tensor "
                    f"{tuple(x.shape)}; expected {tuple(x._a.shape[at : at + e.ndim])}"
                )
            basic.extend([_WHOLE] * e.ndim)
            rest.extend(_positions(e))
        else:
            basic.append(_WHOLE)
            rest.append(e)
    if not any(hasattr(e, "dtype") for e in rest):
        return tuple(basic), None
    while rest and isinstance(rest[-1], slice):
        rest.pop()
    return (tuple(basic) if any(e is not _WHOLE for e in basic) else None), tuple(rest)


def _entry(e: Any, x: Tensor) -> Any:
    """One entry of an index as an int, slice, None, …, bool, or raw array on x's device."""
    if e is None or e is ... or isinstance(e, bool):
        return e
    if isinstance(e, slice):
        _check(e)
        return slice(*(None if v is None else int(v) for v in (e.start, e.stop, e.step)))
    if isinstance(e, (int, np.integer)):
        return int(e)
    if isinstance(e, Tensor):
        if not e._a.ndim and e._a.dtype.kind in "iu" and e._a.dtype != np.uint8:
            return int(e._a)
        a = e._a
    elif isinstance(e, (list, tuple, range, np.ndarray)):
        a = np.asarray([int(v) if isinstance(v, Tensor) else v for v in e] if not isinstance(e, np.ndarray) else e)
        a = a.astype(np.int64) if not a.size and a.dtype.kind == "f" else a
    else:
        raise DTypeError(f"index: expected ints, slices, None, ..., tensors, arrays or lists, got {type(e).__name__}")
    if a.dtype == np.uint8:
        a = a.astype(np.bool_)  # torch's old masks
    if a.dtype.kind not in "iub":
        raise DTypeError(f"index: tensors used as indices must be long, int, byte or bool tensors, got {a.dtype}")
    be = backend.of(x._a)
    return a if type(a) is be.array_type else be.from_numpy(backend.of(a).to_numpy(a), be.index_of(x._a))


def _check(e: Any) -> None:
    if isinstance(e, slice) and e.step is not None and e.step <= 0:
        raise ArgumentError(f"index: expected a slice with a step > 0, got {e.step}; use flip()")


def _is_mask(e: Any) -> bool:
    return hasattr(e, "dtype") and e.dtype == np.bool_


def _positions(mask: Any) -> list[Any]:
    """A mask over some dimensions as integer arrays, one for each; of a 0-d mask one all the same."""
    return [p.astype(np.int64) for p in backend.of(mask).xp.nonzero(mask if mask.ndim else mask.reshape(1))]
