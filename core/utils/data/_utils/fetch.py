"""From an index, or a list of them, to a batch: the same in the main process and in workers.

A fetcher is a function that `fetcher` makes; it raises StopIteration when a stream is at its end.
Whole batches of tensors are gathered by one index per tensor: what collating the samples would give, without making
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from core._tensor import Tensor, wrap
from core.utils.data._utils.collate import default_collate
from core.utils.data.dataset import IterableDataset, Subset, TensorDataset, samples_of

Fetch = Callable[[Any], Any]


def fetcher(dataset: Any, batched: bool, collate_fn: Callable[[Any], Any], drop_last: bool) -> Fetch:
    """index -> sample, or indices -> batch if `batched`, through `collate_fn`. Starts the stream if there is one."""
    if isinstance(dataset, IterableDataset):
        return _from_stream(iter(dataset), batched, collate_fn, drop_last)
    if not batched:
        return lambda index: collate_fn(dataset[index])
    gather = _gather(dataset) if collate_fn is default_collate else None
    if gather is None:
        return lambda indices: collate_fn(samples_of(dataset, indices))

    def fetch(indices: Any) -> Any:
        positions = np.asarray(indices) if type(indices) is list else None
        if positions is None or positions.dtype != np.int64 or positions.ndim != 1:  # a sampler of the user's own kind
            return collate_fn(samples_of(dataset, indices))
        return gather(positions)

    return fetch


def _from_stream(stream: Any, batched: bool, collate_fn: Callable[[Any], Any], drop_last: bool) -> Fetch:
    ended = False

    def fetch(indices: Any) -> Any:
        nonlocal ended
        if ended:
            raise StopIteration
        if not batched:
            return collate_fn(next(stream))
        samples = list(itertools.islice(stream, len(indices)))
        ended = len(samples) < len(indices)
        if not samples or (ended and drop_last):
            raise StopIteration
        return collate_fn(samples)

    return fetch


def _gather(dataset: Any) -> Callable[[np.ndarray], list[Tensor]] | None:
    """positions -> the collated batch; None where samples are needed, as of subclasses, which may do anything."""
    if type(dataset) is TensorDataset:
        tensors = dataset.tensors
        if all(type(t) is Tensor and not t.requires_grad for t in tensors):
            return lambda positions: [_rows(t, positions) for t in tensors]
    elif type(dataset) is Subset:
        inner = _gather(dataset.dataset)
        indices = np.asarray(dataset.indices)
        if inner is not None and indices.dtype == np.int64 and indices.ndim == 1:
            return lambda positions: inner(indices[positions])
    return None


def _rows(t: Tensor, positions: np.ndarray) -> Tensor:
    return wrap(t._a.take(positions, axis=0)) if type(t._a) is np.ndarray else t[positions]
