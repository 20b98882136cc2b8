"""Averages gradients over the ranks, in buckets, while backward goes on.

Parameters are packed in the reverse of their order in the model, which is about the order in which their gradients
arrive. A bucket is one flat array; when the last gradient of it has arrived, its all-reduce starts in the group's
thread, buckets strictly in order, so that every rank makes the same calls. Behind the gradients of a bucket stands
one number for each parameter: how much of the ranks had a gradient for it. So a parameter that some ranks did not use
has the same gradient everywhere, and one that nobody used keeps none, without anyone having to announce it.

Contract: after backward, `p.grad` of every parameter is a view into its bucket and holds the average over the ranks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from core import backend, engine
from core._tensor import Tensor, wrap
from core.errors import GraphError
from ddp.errors import DDPError, MismatchError
from ddp.group import ProcessGroup, Work

FIRST_BUCKET_BYTES = 1 << 20  # small, so that the first all-reduce starts early


class Bucket:
    """Some parameters of one dtype and device, and the flat array that their gradients share."""

    def __init__(self, members: Sequence[tuple[str, Tensor]]):
        self.names = [name for name, _ in members]
        self.params = [p for _, p in members]
        first = self.params[0]._a
        sizes = [p._a.size for p in self.params]
        flat = backend.of(first).xp.zeros(sum(sizes) + len(sizes), dtype=first.dtype)
        ends = np.cumsum([0, *sizes]).tolist()
        self.flat = wrap(flat)
        self.views = [flat[a:b].reshape(p._a.shape) for a, b, p in zip(ends, ends[1:], self.params)]
        self.used = flat[ends[-1] :]
        self.begin()

    def begin(self) -> None:
        """Wait for all members again."""
        self.missing = set(range(len(self.params)))
        self.work: Work | None = None

    def take(self, i: int) -> None:
        """Member i has its gradient: it lives in the bucket from now on."""
        p, view = self.params[i], self.views[i]
        assert p._grad is not None
        if p._grad._a is not view:
            view[...] = p._grad._a
            p._grad = wrap(view)
        self.used[i] = 1

    def fill(self) -> None:
        """Members whose gradient did not arrive: one from an earlier backward counts, none adds nothing."""
        for i in self.missing:
            if self.params[i]._grad is not None:
                self.take(i)
            else:
                self.views[i][...] = 0
                self.used[i] = 0

    def finish(self) -> None:
        """The all-reduce has ended: a parameter that was used anywhere has a gradient everywhere."""
        used = backend.of(self.used).to_numpy(self.used)
        for i in self.missing:
            if used[i] and self.params[i]._grad is None:
                self.params[i]._grad = wrap(self.views[i])


class Reducer:
    """The buckets of one model, and the hooks that fill them."""

    def __init__(self, params: Sequence[tuple[str, Tensor]], group: ProcessGroup, bucket_bytes: int):
        self.group = group
        self.buckets = [Bucket(members) for members in _packed(params, bucket_bytes)]
        self.sync = True  # false inside no_sync: gradients stay local
        self._next = 0  # the bucket that is reduced next
        self._walking = False
        for bucket in self.buckets:
            for i, p in enumerate(bucket.params):
                p.register_post_accumulate_grad_hook(self._hook(bucket, i))

    def _hook(self, bucket: Bucket, i: int) -> Any:
        def arrived(p: Tensor) -> None:
            if not self.sync:
                return
            if not self._walking:
                self._walking = True
                engine.queue_callback(self._finish)
            if p._grad is not None and p._grad._requires_grad:
                raise GraphError(
                    f"DistributedDataParallel: expected plain gradients, got one with a graph for {bucket.names[i]}; "
                    "backward(create_graph=True) is not supported through DDP, use autograd.grad on the module inside"
                )
            bucket.take(i)
            bucket.missing.discard(i)
            self._launch()

        return arrived

    def _launch(self) -> None:
        while self._next < len(self.buckets) and not self.buckets[self._next].missing:
            bucket = self.buckets[self._next]
            bucket.work = self.group.all_reduce(bucket.flat, "avg", async_op=True)
            self._next += 1

    def _finish(self) -> None:
        """Backward has ended: reduce what is left, wait for all, and be ready for the next."""
        try:
            for bucket in self.buckets[self._next :]:
                bucket.fill()
                bucket.work = self.group.all_reduce(bucket.flat, "avg", async_op=True)
            for number, bucket in enumerate(self.buckets):
                assert bucket.work is not None
                try:
                    bucket.work.wait()
                except DDPError as e:
                    e.add_note(
                        f"while averaging bucket {number} of {len(self.buckets)}, from {bucket.names[0]} to {bucket.names[-1]}"
                    )
                    raise
                bucket.finish()
        finally:
            self._next, self._walking = 0, False
            for bucket in self.buckets:
                bucket.begin()


def _packed(params: Sequence[tuple[str, Tensor]], bucket_bytes: int) -> list[list[tuple[str, Tensor]]]:
    """The parameters in buckets, last parameter first; a bucket holds one dtype and device. Depends on the model only."""
    buckets: list[list[tuple[str, Tensor]]] = []
    open_: dict[tuple[Any, str], tuple[list[tuple[str, Tensor]], int]] = {}
    for name, p in reversed(params):
        key = (p._a.dtype, str(p.device))
        members, size = open_.get(key, ([], 0))
        limit = FIRST_BUCKET_BYTES if not buckets or members is buckets[0] else bucket_bytes
        if members and size + p._a.nbytes > min(limit, bucket_bytes):
            members, size = [], 0
        if not members:
            buckets.append(members)
        members.append((name, p))
        open_[key] = members, size + p._a.nbytes
    return buckets


def check_same_model(tensors: Sequence[tuple[str, Tensor]], group: ProcessGroup) -> None:
    """Error on every rank, naming the first parameter or buffer, if the ranks' models differ in names, shapes or dtypes."""
    mine = [[name, list(t._a.shape), t._a.dtype.name] for name, t in tensors]
    text = json.dumps(mine).encode()
    digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8).copy()
    digests = [wrap(np.zeros(32, np.uint8)) for _ in range(group.size)]
    group.all_gather(digests, wrap(digest))
    if all(np.array_equal(d._a, digests[0]._a) for d in digests):
        return
    from ddp.distributed import all_gather_object

    everyone: list[Any] = []
    all_gather_object(everyone, mine, group)
    for rank, theirs in enumerate(everyone):
        for i in range(max(len(theirs), len(everyone[0]))):
            a, b = (m[i] if i < len(m) else None for m in (everyone[0], theirs))
            if a != b:
                raise MismatchError(
                    f"rank {group.world.rank}: DistributedDataParallel: expected the same model on every rank, got at position {i} "
                    f"{_described(a)} on rank {group.ranks[0]} and {_described(b)} on rank {group.ranks[rank]}; "
                    "build the model alike everywhere"
                )


def _described(entry: Any) -> str:
    return "nothing" if entry is None else f"{entry[0]} ({entry[2]}{entry[1]})"
