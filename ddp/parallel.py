"""DistributedDataParallel: every rank has the whole model and a part of each batch; gradients are averaged during
backward.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from core.nn import Module
from ddp import distributed
from ddp.group import ProcessGroup
from ddp.reducer import Reducer, check_same_model


class DistributedDataParallel(Module):
    """A module whose gradients, after backward, are the average over the ranks of the group.

    At construction the models are compared (names, shapes, dtypes) and take over the values of rank 0; before each
    forward in training mode so do the buffers, unless `broadcast_buffers` is false. With equal parts of a batch on
    each rank and a loss that is a mean, training equals one process on the whole batch. Unused parameters need no
    announcement; `find_unused_parameters` and `static_graph` are accepted for torch's sake, as is
    `gradient_as_bucket_view`, which is always so. `bucket_cap_mb` is in MiB.
    """

    def __init__(
        self,
        module: Module,
        device_ids: Any = None,
        output_device: Any = None,
        dim: int = 0,
        broadcast_buffers: bool = True,
        init_sync: bool = True,
        process_group: ProcessGroup | None = None,
        bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False,
        check_reduction: bool = False,
        gradient_as_bucket_view: bool = False,
        static_graph: bool = False,
    ):
        super().__init__()
        params = [(n, p) for n, p in module.named_parameters() if p._requires_grad]
        if not params:
            raise ArgumentError(
                "DistributedDataParallel: expected a module with a parameter that requires a gradient, got none"
            )
        self.module = module
        self.process_group = group = distributed._group(process_group)
        self.broadcast_buffers = broadcast_buffers
        self.device_ids, self.output_device, self.dim = device_ids, output_device, dim
        self._reducer: Reducer | None = None
        if group.size == 1:
            return
        everything = [*module.named_parameters(), *module.named_buffers()]
        if init_sync:
            check_same_model(everything, group)
            broadcast_coalesced([t for _, t in everything], group)
        self._reducer = Reducer(params, group, int((25 if bucket_cap_mb is None else bucket_cap_mb) * 2**20))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._reducer is not None and self._reducer.sync and self.training and self.broadcast_buffers:
            broadcast_coalesced(list(self.module.buffers()), self.process_group)
        return self.module(*args, **kwargs)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward inside only accumulates; the next one outside averages the sum."""
        if self._reducer is None:
            yield
            return
        before, self._reducer.sync = self._reducer.sync, False
        try:
            yield
        finally:
            self._reducer.sync = before


def broadcast_coalesced(tensors: list[Tensor], group: ProcessGroup, src: int = 0) -> None:
    """Every rank's tensors take over the values of group rank `src`, with one broadcast for each dtype."""
    by_dtype: dict[np.dtype, list[Tensor]] = {}
    for t in tensors:
        by_dtype.setdefault(t._a.dtype, []).append(t)
    for ts in by_dtype.values():
        flat = wrap(np.concatenate([backend.of(t._a).to_numpy(t._a).reshape(-1) for t in ts]))
        group.broadcast(flat, src)
        if group.rank == src:
            continue
        start = 0
        for t in ts:
            be, n = backend.of(t._a), t._a.size
            t._a[...] = be.from_numpy(flat._a[start : start + n].reshape(t._a.shape), be.index_of(t._a))
            t._bump()
            start += n
