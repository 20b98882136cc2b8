"""Top-k: of each bucket only the elements of largest magnitude are sent, the others are added to the next gradient.

Each rank sends k numbers and their places; the result is the sum of all that were sent, divided by the number of ranks.
Source: Stich, Cordonnier, Jaggi, Sparsified SGD with Memory, NeurIPS 2018; Aji, Heafield, EMNLP 2017. Torch has no such hook.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from ddp import distributed
from ddp.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from ddp.comm_hooks import GradBucket
from ddp.futures import Future


class TopKState:
    """`ratio` of the elements of a bucket are sent, at least one. The first `start_iter` backwards average as usual."""

    def __init__(self, process_group: Any, ratio: float = 0.01, start_iter: int = 2, use_error_feedback: bool = True):
        if not 0 < ratio <= 1:
            raise ArgumentError(f"TopKState: expected 0 < ratio <= 1, got {ratio}")
        if use_error_feedback and start_iter <= 1:
            raise ArgumentError(
                f"TopKState: expected start_iter > 1 with error feedback, got {start_iter}; buckets change after the first backward"
            )
        self.process_group, self.ratio, self.start_iter = process_group, ratio, start_iter
        self.use_error_feedback = use_error_feedback
        self.iter = 0
        self.error_dict: dict[int, Any] = {}  # bucket -> what this rank has not sent yet (n,)


def topk_hook(state: TopKState, bucket: GradBucket) -> Future[Tensor]:
    """The average over the group of what each rank sends."""
    started = state.iter >= state.start_iter
    state.iter += bucket.is_last()
    if not started:
        return allreduce_hook(state.process_group, bucket)
    group = distributed._group(state.process_group)
    flat, number = bucket.buffer(), bucket.index()
    be = backend.of(flat._a)
    host = be.to_numpy(flat._a).copy()
    if number in state.error_dict:
        host += state.error_dict[number]
    k = max(1, int(host.size * state.ratio))
    places = np.sort(np.argpartition(np.abs(host.astype(np.float64)), host.size - k)[host.size - k :]).astype(np.int64)
    values = host[places]
    if state.use_error_feedback:
        host[places] = 0
        state.error_dict[number] = host
    message = wrap(np.concatenate([places.view(np.uint8), values.view(np.uint8)]))  # one call for both
    outputs = [wrap(np.empty_like(message._a)) for _ in range(group.size)]

    def add_up(f: Future[list[Tensor]]) -> Tensor:
        total: np.ndarray = np.zeros(host.size, np.float64 if host.itemsize == 8 else np.float32)
        for t in f.value():  # in the order of the ranks: the same bits everywhere
            theirs = t._a[: places.nbytes].view(np.int64)
            total[theirs] += t._a[places.nbytes :].view(host.dtype)  # no place twice in one message
        total /= group.size
        flat._a[...] = be.from_numpy(total.astype(host.dtype), be.index_of(flat._a))
        return flat

    return group.all_gather(outputs, message, async_op=True).get_future().then(add_up)
