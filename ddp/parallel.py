"""DistributedDataParallel: every rank has the whole model and a part of each batch; gradients are averaged during
backward.

Not here: how (`ddp.reducer`), communication hooks (`ddp.comm_hooks`), uneven inputs (`ddp.parallel_join`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.engine import mode
from core.errors import ArgumentError
from core.nn.modules.module import Module
from ddp import distributed, parallel_join
from ddp.algorithms.join import Join, Joinable
from ddp.comm_hooks import Hook, Hooked
from ddp.group import ProcessGroup
from ddp.reducer import Reducer, check_same_model, default_bucket_bytes
from ddp.timeline import watch_backward


class DistributedDataParallel(Module, Joinable):
    """A module whose gradients, after backward, are the average over the ranks of the group.

    At construction the models are compared (names, shapes, dtypes) and take over the values of rank 0; before each
    forward in training mode so do the buffers, unless `broadcast_buffers` is false. With equal parts of a batch on
    each rank and a loss that is a mean, training equals one process on the whole batch. Unused parameters need no
    announcement; `static_graph` says that they never change, so that they hold nothing up. `find_unused_parameters` is
    accepted for torch's sake, as is `gradient_as_bucket_view`, which is always so. `bucket_cap_mb` is in MiB,
    by default an eighth of the model and at most 25.
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
        if not any(p._requires_grad for p in module.parameters()):
            raise ArgumentError(
                "DistributedDataParallel: expected a module with a parameter that requires a gradient, got none"
            )
        self.module = module
        # to walk the modules anew before each forward takes longer
        self._buffer_rooms = [m._buffers for m in module.modules()]
        self.process_group = group = distributed._group(process_group)
        self.broadcast_buffers = broadcast_buffers
        self.device_ids, self.output_device, self.dim = device_ids, output_device, dim
        self.static_graph = static_graph
        self.bucket_bytes = (
            default_bucket_bytes(list(module.parameters()), group)
            if bucket_cap_mb is None
            else int(bucket_cap_mb * 2**20)
        )
        self.buffer_source = 0  # the rank of the group whose buffers all take over
        self._reducer: Reducer | None = None
        if group.size == 1:
            return
        everything = [*module.named_parameters(), *module.named_buffers()]
        if init_sync:
            check_same_model(everything, group)
            broadcast_coalesced([t for _, t in everything], group)
        self._reducer = self._new_reducer()

    def _new_reducer(self) -> Reducer:
        params = [(n, p) for n, p in self.module.named_parameters() if p._requires_grad]
        return Reducer(params, self.process_group, self.bucket_bytes, self.static_graph)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        r = self._reducer
        if r is None:
            return self.module(*args, **kwargs)
        r.reset()
        if self._join is not None:
            parallel_join.before_forward(self)
        if self.will_broadcast_buffers():
            broadcast_coalesced(self.all_buffers(), self.process_group, self.buffer_source)
        if not r.recorder.listeners:
            return self.module(*args, **kwargs)
        if r.ended is not None:
            r.recorder.span("optimizer, data and all else", r.ended)
            r.ended = None
        began = time.perf_counter_ns()
        result = self.module(*args, **kwargs)
        r.recorder.span("forward", began)
        watch_backward(r, result)
        return result

    def all_buffers(self) -> list[Tensor]:
        """The buffers of the modules that were there at construction."""
        return [b for room in self._buffer_rooms for b in room.values() if b is not None]

    def will_synchronise(self) -> bool:
        """Whether the backward of a forward made now averages gradients."""
        return self._reducer is not None and self._reducer.sync and mode.grad

    def will_broadcast_buffers(self) -> bool:
        """Whether a forward made now begins with the buffers of `buffer_source`."""
        return self._reducer is not None and self._reducer.sync and self.training and self.broadcast_buffers

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

    def register_comm_hook(self, state: Any, hook: Hook) -> None:
        """Let `hook(state, bucket)` reduce the gradients, see `ddp.comm_hooks`. Once, before the first backward."""
        if not callable(hook):
            raise ArgumentError(f"register_comm_hook: expected a function, got {type(hook).__name__}")
        if self._reducer is None:
            self._reducer = self._new_reducer()
        if isinstance(self._reducer.reduction, Hooked) or self._reducer.step:
            raise ArgumentError(
                "register_comm_hook: register_comm_hook or register_builtin_comm_hook can only be called once, before the first backward"
            )
        self._reducer.reduction = Hooked(self._reducer, self.process_group, state, hook)

    # -- uneven inputs -------------------------------------------------------------------------------------------------

    def join(
        self, divide_by_initial_world_size: bool = True, enable: bool = True, throw_on_early_termination: bool = False
    ) -> Join:
        """A block in which ranks may have different numbers of batches: who has finished goes along with the others.

        Gradients are divided by the number of ranks, or by that of those still having batches. At the end all ranks
        have the model of the last.
        """
        return Join(
            [self], enable, throw_on_early_termination, divide_by_initial_world_size=divide_by_initial_world_size
        )

    def join_hook(self, **kwargs: Any) -> parallel_join.Shadow:
        return parallel_join.Shadow(self, kwargs.get("divide_by_initial_world_size", True))

    @property
    def join_device(self) -> Any:
        return next(self.module.parameters()).device

    @property
    def join_process_group(self) -> ProcessGroup:
        return self.process_group

    # -- copies --------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_reducer", "_join", "process_group")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy talks to the default group and has no communication hook."""
        self.__dict__.update(state)
        self.__dict__["process_group"] = group = distributed._group(None)
        self.__dict__["_reducer"] = self._new_reducer() if group.size > 1 else None


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
