"""Communication hooks: a function of the user's own, or of `ddp.algorithms.ddp_comm_hooks`, reduces the buckets.

`hook(state, bucket: GradBucket)` begins the reduction of a bucket and returns a future of the result: a tensor of the
bucket's length, or a list of one. DistributedDataParallel divides nothing then; what the future holds becomes the
gradient. Calls that a callback of the future makes come right after the call it belongs to, in one order on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ShapeError
from ddp.futures import Future
from ddp.group import ProcessGroup, Work
from ddp.reducer import Bucket, Reducer


class GradBucket:
    """What a hook sees of a bucket: torch.distributed.GradBucket."""

    def __init__(self, bucket: Bucket, is_last: bool):
        self._bucket, self._is_last = bucket, is_last
        self._buffer = bucket.gradients

    def buffer(self) -> Tensor:
        """All gradients, flat (n,); shares memory with them."""
        return self._buffer

    def set_buffer(self, buffer: Tensor) -> None:
        """Let `buffer` and `gradients` show this (n,), of any dtype, instead."""
        self._buffer = buffer

    def gradients(self) -> list[Tensor]:
        """Each parameter's, as views of the buffer."""
        flat, start, parts = self._buffer._a, 0, []
        for p in self._bucket.params:
            parts.append(wrap(flat[start : start + p._a.size].reshape(p._a.shape)))
            start += p._a.size
        return parts

    def parameters(self) -> list[Tensor]:
        """The parameters, in the order of `gradients`."""
        return list(self._bucket.params)

    def index(self) -> int:
        """The bucket's number, 0 being reduced first."""
        return self._bucket.number

    def is_last(self) -> bool:
        """Whether it is the last of this backward."""
        return self._is_last


Hook = Callable[[Any, GradBucket], Any]


class Hooked:
    """A `ddp.reducer.Reduction` by a hook."""

    def __init__(self, reducer: Reducer, group: ProcessGroup, state: Any, hook: Hook):
        self.reducer, self.group, self.state, self.hook = reducer, group, state, hook

    def start(self, bucket: Bucket) -> Any:
        result = self.hook(self.state, GradBucket(bucket, bucket.number == len(self.reducer.buckets) - 1))
        return _Pending(result.get_future() if isinstance(result, Work) else result, bucket)

    def agree(self, buckets: Sequence[Bucket]) -> None:
        """One more all-reduce: a hook sees the gradients alone. With a static graph the first backward has told."""
        if self.reducer.static_graph and self.reducer.step > 1:
            return
        used = wrap(np.concatenate([backend.of(b.used).to_numpy(b.used) > 0 for b in buckets]).astype(np.uint8))
        self.group.all_reduce(used, "max")
        start = 0
        for b in buckets:
            be, n = backend.of(b.used), len(b.names)
            b.used[...] = be.from_numpy(used._a[start : start + n].astype(b.used.dtype), be.index_of(b.used))
            start += n


class _Pending:
    """A bucket whose gradients a future holds."""

    def __init__(self, future: Future[Any], bucket: Bucket):
        self.future, self.bucket = future, bucket

    def wait(self) -> None:
        result = self.future.wait()
        tensor = result[0] if isinstance(result, list) else result
        mine = self.bucket.gradients
        if tensor is mine:
            return
        if not isinstance(tensor, Tensor) or tensor._a.size != mine._a.size:
            got = f"shape {list(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ShapeError(
                f"communication hook: expected a future of a tensor of {mine._a.size} elements, as bucket.buffer(), got {got}"
            )
        mine._a[...] = tensor._a.reshape(-1)
