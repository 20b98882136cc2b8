"""A hook that communicates nothing: gradients stay local. For measuring, and for local SGD."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from ddp.comm_hooks import GradBucket
from ddp.futures import Future


def noop_hook(_: Any, bucket: GradBucket) -> Future[Tensor]:
    """The local gradients."""
    future: Future[Tensor] = Future()
    future.set_result(bucket.buffer())
    return future
