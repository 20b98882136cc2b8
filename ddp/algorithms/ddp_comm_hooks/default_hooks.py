"""Averaging gradients, as they are or in two bytes an element.

`state` of the plain hooks is a process group, None for the world. A `…_wrapper` makes another hook work in two bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from core import dtypes
from core._tensor import Tensor, wrap
from ddp import distributed
from ddp.comm_hooks import GradBucket, Hook
from ddp.futures import Future


def allreduce_hook(process_group: Any, bucket: GradBucket) -> Future[Tensor]:
    """The average over the group, as without a hook."""
    return _average(process_group, bucket.buffer())


def fp16_compress_hook(process_group: Any, bucket: GradBucket) -> Future[Tensor]:
    """The average in float16: half of the bytes of float32, 11 bits of precision, overflow above 65504."""
    return _compressed(dtypes.float16, allreduce_hook, process_group, bucket)


def bf16_compress_hook(process_group: Any, bucket: GradBucket) -> Future[Tensor]:
    """The average in bfloat16: half of the bytes of float32, 8 bits of precision, float32's range."""
    return _compressed(dtypes.bfloat16, allreduce_hook, process_group, bucket)


def fp16_compress_wrapper(hook: Hook) -> Callable[[Any, GradBucket], Future[Tensor]]:
    """The hook, given and giving float16."""
    return lambda state, bucket: _compressed(dtypes.float16, hook, state, bucket)


def bf16_compress_wrapper(hook: Hook) -> Callable[[Any, GradBucket], Future[Tensor]]:
    """The hook, given and giving bfloat16."""
    return lambda state, bucket: _compressed(dtypes.bfloat16, hook, state, bucket)


def _average(process_group: Any, t: Tensor) -> Future[Tensor]:
    """The tensor becomes the average. Divided before it is summed up, so that two bytes overflow no sooner than one rank's would."""
    group = distributed._group(process_group)
    a = t._a
    a /= a.dtype.type(group.size)
    return group.all_reduce(t, "sum", async_op=True).get_future().then(lambda f: f.value()[0])


def _compressed(dtype: dtypes.dtype, hook: Hook, state: Any, bucket: GradBucket) -> Future[Tensor]:
    wide = bucket.buffer()
    with np.errstate(over="ignore"):  # what float16 cannot hold is inf, which a GradScaler looks for
        bucket.set_buffer(wrap(wide._a.astype(dtype.numpy)))

    def decompress(f: Future[Any]) -> Tensor:
        result = f.value()
        narrow = result[0] if isinstance(result, list) else result
        wide._a[...] = narrow._a
        return wide

    return hook(state, bucket).then(decompress)
