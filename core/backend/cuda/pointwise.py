"""Runs the generated kernels of `kernels.pointwise`, and tells the ops which of them are whole ops or gradient rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from core.backend.cuda.kernels.pointwise import MAX_ARRAYS, MAX_DIMS, ROWS
from core.backend.cuda.launch import accumulator, blocks, instance

_STRIDED = np.dtype(
    [("dims", np.int32), ("size", np.int32, MAX_DIMS), ("stride", np.int64, (MAX_ARRAYS, MAX_DIMS))], align=True
)


def run(be: Any, name: str, arrays: Sequence[Any], numbers: Sequence[float] = ()) -> Any:
    """The row's expression over arrays of one dtype, which are broadcast; None if that is no case of the kernels."""
    first = arrays[0]
    of = instance(be, f"pointwise.{name}", first)
    if of is None or any(a.dtype is not first.dtype and a.dtype != first.dtype for a in arrays):
        return None
    scalars = [accumulator(first)(v) for v in numbers]
    if all(a.shape == first.shape for a in arrays):
        if all(a.flags.c_contiguous for a in arrays):
            return _flat(be, of, arrays, scalars)
        order = sorted(range(first.ndim), key=lambda d: -abs(first.strides[d]))  # channels-last, or a transposed matrix
        turned = [a.transpose(order) for a in arrays]
        if all(a.flags.c_contiguous for a in turned):
            return _flat(be, of, turned, scalars).transpose(np.argsort(order).tolist())
    return _strided(be, of, arrays, scalars)


def _flat(be: Any, of: Any, arrays: Sequence[Any], scalars: Sequence[Any]) -> Any:
    y = be.xp.empty(arrays[0].shape, arrays[0].dtype)
    if y.size:
        packed = all(a.data.ptr % 16 == 0 for a in (y, *arrays))
        per = 256 * (16 // y.itemsize if packed else 1)
        be.launch(
            of, "flat", blocks(y.size, per, 1 << 15), (256,), y, *arrays, *scalars, np.int64(y.size), np.int32(packed)
        )
    return y


def _strided(be: Any, of: Any, arrays: Sequence[Any], scalars: Sequence[Any]) -> Any:
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    size, strides = merged(shape, [_strides(a, shape) for a in arrays])
    if len(size) > MAX_DIMS:
        return None
    y = be.xp.empty(shape, arrays[0].dtype)
    if y.size:
        geometry = np.zeros((), _STRIDED)
        geometry["dims"], geometry["size"][: len(size)] = len(size), size
        for k, s in enumerate(strides):
            geometry["stride"][k, : len(s)] = s
        be.launch(of, "strided", blocks(y.size, most=1 << 30), (256,), y, *arrays, *scalars, np.int64(y.size), geometry)
    return y


def _strides(a: Any, shape: Sequence[int]) -> list[int]:
    """Strides in elements of an array that is broadcast to a shape."""
    own = [0 if n == 1 else s // a.itemsize for n, s in zip(a.shape, a.strides)]
    return [0] * (len(shape) - a.ndim) + own


def merged(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """The same walk with as few dimensions as can be: neighbours that every array steps through alike become one."""
    size: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for n, *each in zip(shape, *strides):
        if n == 1:
            continue
        if size and all(s[-1] == e * n for s, e in zip(steps, each)):
            size[-1] *= n
            for s, e in zip(steps, each):
                s[-1] = e
        else:
            size.append(n)
            for s, e in zip(steps, each):
                s.append(e)
    return size, steps


# -- what ops may use ----------------------------------------------------------------------------------------------------


def fused(be: Any) -> dict[Any, Callable[..., Any]]:
    """Functions that stand in for ops of `core.ops`: by an op's name for its forward pass, by (name, number of an input) for a gradient
    rule.

    Each has the signature of what it stands in for and returns None where it declines.
    """
    found: dict[Any, Callable[..., Any]] = {}
    for name, row in ROWS.items():
        op, _, of = name.partition(".")
        if op in _PLAIN or op in _NUMBERS:
            forward = partial(_forward, be, name, _NUMBERS.get(op, ()))
            found[(op, 0) if of else op] = partial(_rule, be, name, len(row.arrays.split())) if of else forward
    return found


_PLAIN = {"normal_cdf", "sigmoid", "tanh", "silu", "mish", "logsigmoid", "hardswish"}
_NUMBERS = {
    "softplus": ("beta", "threshold"),
    "elu": ("alpha", "scale", "input_scale"),
    "leaky_relu": ("negative_slope",),
}


def _forward(be: Any, name: str, numbers: Sequence[str], _: Any, x: Any, out: Any = None, **params: Any) -> Any:
    return run(be, name, (x,), [params[n] for n in numbers]) if out is None else None


def _rule(be: Any, name: str, arrays: int, _: Any, *values: Any) -> Any:
    return run(be, name, values[:arrays], values[arrays:])
