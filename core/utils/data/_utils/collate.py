"""Collating: from a list of samples to one batch of the same structure, its leaves stacked into tensors.

`collate` goes down dicts, named tuples, tuples and lists together; `default_collate_fn_map` says what becomes of a
leaf, by type.
`default_convert` does not batch: it only makes tensors of arrays.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from core import creation
from core._tensor import Tensor, wrap
from core.errors import DTypeError, ShapeError
from core.ops.shape import stack

CollateMap = dict[type | tuple[type, ...], Callable[..., Any]]


def default_collate(batch: Sequence[Any]) -> Any:
    """A batch of a list of samples.

    Tensors, arrays: stacked, (…) -> (N, …). Numbers: a tensor (N,), floats as float64. Strings, bytes: the list as it
    is.
    Mappings, named tuples and lists keep their type, tuples become lists, their members are collated.
    """
    return collate(batch, collate_fn_map=default_collate_fn_map)


def default_convert(data: Any) -> Any:
    """The same structure with NumPy arrays and numbers as tensors; the rest stays as it is, tuples become lists."""
    if isinstance(data, (np.ndarray, np.generic)):
        return data if data.dtype.kind in "SUO" else creation.as_tensor(data)
    if isinstance(data, Mapping):
        return _like_mapping(data, {key: default_convert(data[key]) for key in data})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(default_convert, data))
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _like_sequence(data, list(map(default_convert, data)))
    return data


def collate(batch: Sequence[Any], *, collate_fn_map: CollateMap | None = None) -> Any:
    """A batch of a list of samples. `collate_fn_map`: {type or types: f(samples, collate_fn_map=…)}, in order."""
    first = batch[0]
    known = collate_fn_map or {}
    found = known.get(type(first)) or next((f for types, f in known.items() if isinstance(first, types)), None)
    if found is not None:
        return found(batch, collate_fn_map=collate_fn_map)
    if isinstance(first, Mapping):
        members = {key: collate([sample[key] for sample in batch], collate_fn_map=collate_fn_map) for key in first}
        return _like_mapping(first, members)
    if isinstance(first, Sequence):
        lengths = [len(sample) for sample in batch]
        if len(set(lengths)) > 1:
            i = next(i for i, n in enumerate(lengths) if n != lengths[0])
            raise ShapeError(
                "default_collate: each element in list of batch should be of equal size, "
                f"got {lengths[0]} at entry 0 and {lengths[i]} at entry {i}; pad them, or pass collate_fn"
            )
        columns = [collate(column, collate_fn_map=collate_fn_map) for column in zip(*batch)]
        return type(first)(*columns) if hasattr(first, "_fields") else _like_sequence(first, columns)
    raise _not_collatable(type(first))


def collate_tensor_fn(batch: Sequence[Tensor], *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """[(…)] * N -> (N, …)"""
    shape = batch[0]._a.shape
    for i, t in enumerate(batch):
        if t._a.shape != shape:
            raise ShapeError(
                f"default_collate: stack expects each tensor to be equal size, but got {list(shape)} at entry 0 and "
                f"{list(t._a.shape)} at entry {i}; pad them, or pass collate_fn"
            )
    return stack(batch, 0)


def collate_numpy_array_fn(batch: Sequence[np.ndarray], *, collate_fn_map: CollateMap | None = None) -> Any:
    """[(…)] * N -> (N, …)"""
    if batch[0].dtype.kind in "SUO":
        raise _not_collatable(batch[0].dtype)
    return collate([creation.as_tensor(a) for a in batch], collate_fn_map=collate_fn_map)


def collate_numpy_scalar_fn(batch: Sequence[np.generic], *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """N NumPy numbers -> (N,), of their dtype."""
    return creation.from_numpy(np.asarray(batch))


def collate_float_fn(batch: Sequence[float], *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """N floats -> (N,) float64"""
    return wrap(np.array(batch, dtype=np.float64))


def collate_int_fn(batch: Sequence[int], *, collate_fn_map: CollateMap | None = None) -> Tensor:
    """N ints -> (N,) int64; N bools -> (N,) bool"""
    return creation.tensor(batch)


def collate_str_fn(batch: Sequence[Any], *, collate_fn_map: CollateMap | None = None) -> Sequence[Any]:
    """Strings as they are."""
    return batch


default_collate_fn_map: CollateMap = {
    Tensor: collate_tensor_fn,
    np.ndarray: collate_numpy_array_fn,
    (np.bool_, np.number, np.object_): collate_numpy_scalar_fn,  # before float: np.float64 is one
    float: collate_float_fn,
    int: collate_int_fn,
    str: collate_str_fn,
    bytes: collate_str_fn,
}


def _like_mapping(example: Any, members: dict[Any, Any]) -> Any:
    """The members in a mapping of the example's type, with whatever else it carries; else a dict."""
    try:
        if isinstance(example, MutableMapping):
            clone = copy.copy(example)
            clone.update(members)
            return clone
        return type(example)(members)
    except TypeError:
        return members


def _like_sequence(example: Any, members: list[Any]) -> Any:
    """The members in a sequence of the example's type; a list for tuples, as ever in torch, and where that fails."""
    if isinstance(example, tuple):
        return members
    try:
        if isinstance(example, MutableSequence):
            clone = copy.copy(example)
            for i, member in enumerate(members):
                clone[i] = member
            return clone
        return type(example)(members)
    except TypeError:  # range, for one
        return members


def _not_collatable(found: Any) -> DTypeError:
    return DTypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {found}; pass collate_fn"
    )
