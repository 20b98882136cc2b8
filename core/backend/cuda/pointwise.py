"""Runs the generated kernels of `kernels.pointwise`, and tells the ops which of them are whole ops or gradient rules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from core.backend.cuda.kernels.pointwise import MAX_ARRAYS, MAX_DIMS, ROWS
from core.backend.cuda.launch import accumulator, blocks, instance

_STRIDED = np.dtype(
    [("dims", np.int32), ("size", np.int32, MAX_DIMS), ("stride", np.int64, (MAX_ARRAYS, MAX_DIMS))], align=True
)


def run(be: Any, name: str, arrays: Sequence[Any], numbers: Sequence[float] = (), out: Any = None) -> Any:
    """The row's expression over arrays of one dtype, which are broadcast; None if that is no case of the kernels.

    `out`: where the result goes, of its shape and dtype; it may be one of the arrays.
    """
    first = arrays[0]
    of = instance(be, f"pointwise.{name}", first)
    if of is None or any(a.dtype is not first.dtype and a.dtype != first.dtype for a in arrays):
        return None
    if out is not None and (out.dtype != first.dtype or not out.flags.c_contiguous):
        return None
    scalars = [accumulator(first)(v) for v in numbers]
    if all(a.shape == first.shape for a in arrays) and (out is None or out.shape == first.shape):
        if all(a.flags.c_contiguous for a in arrays):
            return _flat(be, of, arrays, scalars, out)
        order = sorted(range(first.ndim), key=lambda d: -abs(first.strides[d]))  # channels-last, or a transposed matrix
        turned = [a.transpose(order) for a in arrays]
        if out is None and all(a.flags.c_contiguous for a in turned):
            return _flat(be, of, turned, scalars).transpose(np.argsort(order).tolist())
    return _strided(be, of, arrays, scalars, out)


def _flat(be: Any, of: Any, arrays: Sequence[Any], scalars: Sequence[Any], out: Any = None) -> Any:
    y = be.xp.empty(arrays[0].shape, arrays[0].dtype) if out is None else out
    if y.size:
        packed = all(a.data.ptr % 16 == 0 for a in (y, *arrays))
        per = 256 * (16 // y.itemsize if packed else 1)
        be.launch(
            of, "flat", blocks(y.size, per, 1 << 15), (256,), y, *arrays, *scalars, np.int64(y.size), np.int32(packed)
        )
    return y


def _strided(be: Any, of: Any, arrays: Sequence[Any], scalars: Sequence[Any], out: Any) -> Any:
    lies = tuple((a.shape, a.strides) for a in arrays)
    shape, geometry = _geometry(lies, arrays[0].itemsize)
    if geometry is None or (out is not None and out.shape != shape):
        return None
    y = be.xp.empty(shape, arrays[0].dtype) if out is None else out
    if y.size:
        be.launch(of, "strided", blocks(y.size, most=1 << 30), (256,), y, *arrays, *scalars, np.int64(y.size), geometry)
    return y


@functools.lru_cache(maxsize=4096)
def _geometry(lies: tuple[tuple[Any, Any], ...], itemsize: int) -> tuple[tuple[int, ...], Any]:
    """The common shape of arrays by their shapes and strides, and what the kernel is told; None where it has too many dimensions."""
    shape = np.broadcast_shapes(*(own for own, _ in lies))
    size, strides = merged(shape, [_strides(*lie, itemsize, len(shape)) for lie in lies])
    if len(size) > MAX_DIMS:
        return shape, None
    geometry = np.zeros((), _STRIDED)
    geometry["dims"], geometry["size"][: len(size)] = len(size), size
    for k, s in enumerate(strides):
        geometry["stride"][k, : len(s)] = s
    return shape, geometry


def _strides(shape: Sequence[int], strides: Sequence[int], itemsize: int, ndim: int) -> list[int]:
    """Strides in elements of an array that is broadcast to more dimensions."""
    return [0] * (ndim - len(shape)) + [0 if n == 1 else s // itemsize for n, s in zip(shape, strides)]


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


# -- ops and gradient rules ----------------------------------------------------------------------------------------------


def fused() -> dict[Any, Callable[..., Any]]:
    """For `Backend.fused`: the rows whose names are those of ops, or of an op and one of its inputs."""
    found: dict[Any, Callable[..., Any]] = {}
    for name, row in ROWS.items():
        op, _, of = name.partition(".")
        if op in OPS:
            arrays, numbers = len(row.arrays.split()), row.numbers.split()
            if of:
                found[op, of] = partial(_rule, name, arrays)
            else:
                found[op] = partial(_forward, name, arrays, numbers)
    return found


OPS = """
    normal_cdf sigmoid tanh silu mish softplus logsigmoid elu leaky_relu hardswish hardsigmoid hardtanh bce_with_logits huber
""".split()


def _forward(name: str, count: int, numbers: Sequence[str], be: Any, *args: Any, out: Any = None, **params: Any) -> Any:
    arrays = args[:count]
    if not all(isinstance(a, be.array_type) for a in arrays):  # a Python number among them
        return None
    return run(be, name, arrays, [params[n] for n in numbers], out)


def _rule(name: str, count: int, be: Any, *values: Any) -> Any:
    return run(be, name, values[:count], values[count:]) if isinstance(values[0], be.array_type) else None
