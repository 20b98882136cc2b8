"""The average of parameters over a group."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from ddp.group import ProcessGroup


def average_parameters(params: Iterable[Tensor], process_group: ProcessGroup) -> None:
    """Each parameter becomes its average over the group, with one all-reduce for each dtype. In place."""
    by_dtype: dict[np.dtype, list[Tensor]] = {}
    for p in params:
        by_dtype.setdefault(p._a.dtype, []).append(p)
    for ps in by_dtype.values():
        flat = wrap(np.concatenate([backend.of(p._a).to_numpy(p._a).reshape(-1) for p in ps]))
        process_group.all_reduce(flat, "avg")
        start = 0
        for p in ps:
            be, n = backend.of(p._a), p._a.size
            p._a[...] = be.from_numpy(flat._a[start : start + n].reshape(p._a.shape), be.index_of(p._a))
            p._bump()
            start += n


def get_params_to_average(params: Iterable[Any]) -> list[Tensor]:
    """Of parameters, or of an optimizer's groups of them, those that have a gradient."""
    found: list[Tensor] = []
    for item in params:
        found += [p for p in (item["params"] if isinstance(item, dict) else [item]) if p._grad is not None]
    return found


def average_parameters_or_parameter_groups(params: Iterable[Any], process_group: ProcessGroup) -> None:
    """Average parameters, or an optimizer's groups of them, that have a gradient."""
    average_parameters(get_params_to_average(params), process_group)
