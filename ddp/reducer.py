"""Averages gradients over the ranks, in buckets, while backward goes on.

Parameters are packed in the reverse of their order in the model, which is about the order in which their gradients
arrive, and after the first backward in the order in which they did arrive on rank 0. A bucket is one flat array, and
the home of its members' gradients: backward writes them there. When the last gradient of a bucket has arrived, its
reduction starts, buckets strictly in order, so that every rank makes the same calls. Behind the gradients of a bucket
stands one number for each parameter: how much of the ranks had a gradient for it. So a parameter that some ranks did
not use has the same gradient everywhere, and one that nobody used keeps none, without anyone having to announce it.

Contract: after backward, `p.grad` of every parameter is a view into its bucket and holds the average over the ranks.
How a bucket is reduced is a `Reduction`: the average here, a communication hook in `ddp.comm_hooks`.
Source: Li et al., PyTorch Distributed, VLDB 2020 (buckets, hooks, order of arrival).
"""

from __future__ import annotations

import hashlib
import json
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from core import backend, engine
from core._tensor import Tensor, wrap
from core.errors import DTypeError, GraphError
from ddp.errors import MismatchError
from ddp.group import DONE, ProcessGroup
from ddp.timeline import WAIT

FIRST_BUCKET_BYTES = 1 << 20  # small, so that the first all-reduce starts early; and the last ends early
LARGEST_BUCKET_BYTES = 25 << 20  # torch's
# of ranks that share memory: so many bytes take a millisecond, and what starts earlier only takes turns with backward
SHARED_BUCKET_BYTES = 8 << 20
_ALIGNMENT_BYTES = 64


Member = tuple[int, str, Tensor]  # a parameter: its number in the model, its name, itself


class Bucket:
    """Some parameters of one dtype and device, and the flat array that their gradients share.

    `homes`: where the ranks see each other's memory, their arrays by rank; this rank's is `flat`.
    """

    def __init__(
        self,
        number: int,
        members: Sequence[Member],
        reached: set[int] | None,
        flat: Any,
        homes: list[np.ndarray] | None = None,
    ):
        self.number, self.is_last = number, False
        self.numbers, self.names, self.params = (list(column) for column in zip(*members))
        # of members that backward reaches; None: not known
        self.expected = None if reached is None else {i for i, n in enumerate(self.numbers) if n in reached}
        ends = np.cumsum([0, *(p._a.size for p in self.params)]).tolist()
        self.count = ends[-1]  # of elements, without the numbers behind them
        self.flat, self.homes = wrap(flat), homes
        self.gradients = wrap(flat[: self.count])
        self.views = [flat[a:b].reshape(p._a.shape) for a, b, p in zip(ends, ends[1:], self.params)]
        self.used = flat[self.count :]
        self.about = str(self).__str__  # for the recorder, which must not keep the arrays
        self.begin()

    def begin(self) -> None:
        """Wait for all members again that can have a gradient."""
        able = range(len(self.params)) if self.expected is None else self.expected
        self.missing = {i for i in able if self.params[i]._requires_grad}
        self.absent = set(range(len(self.params)))
        self.work: Any = None

    def take(self, i: int) -> None:
        """Member i has its gradient: it lives in the bucket from now on."""
        p, view = self.params[i], self.views[i]
        assert p._grad is not None
        if p._a.dtype != view.dtype or p._a.shape != view.shape:
            raise DTypeError(
                f"DistributedDataParallel: expected {self.names[i]} to be {view.dtype}{list(view.shape)}, as it was at construction, "
                f"got {p._a.dtype}{list(p._a.shape)}; convert the model before wrapping it"
            )
        if p._grad._a is not view:
            view[...] = p._grad._a
            p._grad = wrap(view)
        self.missing.discard(i)
        self.absent.discard(i)

    def fill(self, local: bool = True) -> None:
        """Members whose gradient did not arrive: one from an earlier backward counts, if `local`; none adds nothing. Then say in
        `used` who has one.
        """
        for i in sorted(self.absent):
            if local and self.params[i]._grad is not None:
                self.take(i)
            else:
                self.views[i][...] = 0
        self.used[...] = 1
        for i in self.absent:
            self.used[i] = 0

    def finish(self) -> None:
        """The reduction has ended: a parameter that was used anywhere has a gradient everywhere."""
        if not self.absent:
            return
        used = backend.of(self.used).to_numpy(self.used)
        for i in self.absent:
            p = self.params[i]
            if used[i] and p._requires_grad:
                p._grad = wrap(self.views[i])

    def __str__(self) -> str:
        names = self.names[0] if len(self.names) == 1 else f"{self.names[0]} … {self.names[-1]}"
        return f"bucket {self.number} ({names})"


def default_bucket_bytes(params: Sequence[Tensor], group: ProcessGroup) -> int:
    """An eighth of the model, so that there is something to overlap; no less than pays, no more than torch's 25 MiB."""
    least = SHARED_BUCKET_BYTES if group.world.local_size == group.world.size else FIRST_BUCKET_BYTES
    return min(max(sum(p._a.nbytes for p in params) // 8, least), LARGEST_BUCKET_BYTES)


class Reduction(Protocol):
    """How buckets are reduced. Every rank makes the same calls in the same order."""

    def start(self, bucket: Bucket) -> Any:
        """Begin; the result's `wait()` returns when the bucket holds what all ranks have."""

    def agree(self, buckets: Sequence[Bucket]) -> None:
        """All buckets have been started: make `used` the same everywhere, if `start` does not."""


class Average:
    """The average over the ranks: gradients and `used` in one all-reduce."""

    def __init__(self, group: ProcessGroup):
        self.group = group

    def start(self, bucket: Bucket) -> Any:
        later = not bucket.is_last  # behind the last one nothing is left to compute meanwhile
        if bucket.homes is not None:
            return self.group.all_reduce_homes(bucket.flat, bucket.homes, "avg", async_op=later) or DONE
        return self.group.all_reduce(bucket.flat, "avg", async_op=later) or DONE

    def agree(self, buckets: Sequence[Bucket]) -> None:
        pass


class Reducer:
    """The buckets of one model, and the hooks that fill them.

    `static_graph`: every backward reaches the same parameters as the first, so that those it does not reach hold nothing up.
    """

    def __init__(
        self, params: Sequence[tuple[str, Tensor]], group: ProcessGroup, bucket_bytes: int, static_graph: bool = False
    ):
        self.group, self.bucket_bytes, self.static_graph = group, bucket_bytes, static_graph
        self.params = list(params)
        self.reduction: Reduction = Average(group)
        self.recorder = group.lane.recorder
        self.sync = True  # false inside no_sync: gradients stay local
        self.scale = 1.0  # on top of the average; see ddp.parallel_join
        self.step = 0  # synchronised backwards that have begun
        self.began: int | None = None  # the backward that is under way, in ns
        self.ended: int | None = None  # the last one
        self._arrivals: list[int] | None = []  # parameters in the order of the first backward; None once it is used
        # what the first backward has reached here, if all others do the same; None: not known
        self._reached: set[int] | None = None
        self._next = 0  # the bucket that is reduced next
        self._started = 0  # when the last one began to be
        self._walking = False
        self._build(self._packed(range(len(self.params))[::-1]))
        for number, (_, p) in enumerate(self.params):
            _watch(p, weakref.ref(self), number)

    def reset(self) -> None:
        """Forget a backward that an error has ended before its time; wait for what it has begun, which still uses the buckets."""
        if self._walking:
            started, self._next, self._walking, self.began = self._next, 0, False, None
            for bucket in self.buckets[:started]:
                bucket.work.wait()

    def shadow(self) -> None:
        """Take part in one backward of the others, with no gradient of one's own."""
        self._begin()
        self._finish(local=False)

    # -- a backward --------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._walking = True
        self.step += 1
        self.recorder.step = self.step
        if self.began is None:
            self.began = time.perf_counter_ns()
        if self._arrivals is not None:
            self._arrivals = []
        for bucket in self.buckets:
            bucket.begin()

    def arrived(self, number: int, p: Tensor) -> None:
        """A parameter has all its gradient of this backward."""
        if not self.sync:
            return
        if not self._walking:
            self._begin()
            engine.queue_callback(self._finish)
        bucket, i = self._places[number]
        if p._grad is not None and p._grad._requires_grad:
            raise GraphError(
                f"DistributedDataParallel: expected plain gradients, got one with a graph for {bucket.names[i]}; "
                "backward(create_graph=True) is not supported through DDP, use autograd.grad on the module inside"
            )
        if bucket.expected is not None and i not in bucket.expected:
            raise GraphError(
                f"DistributedDataParallel(static_graph=True): expected the parameters of the first backward, got {bucket.names[i]} too "
                f"in backward {self.step}; leave static_graph out"
            )
        bucket.take(i)
        if self._arrivals is not None:
            self._arrivals.append(number)
        if not bucket.missing:
            while self._next < len(self.buckets) and not self.buckets[self._next].missing:
                self._start(self.buckets[self._next])

    def _start(self, bucket: Bucket, local: bool = True) -> None:
        bucket.fill(local)
        self.recorder.about = bucket.about
        # behind the last one backward has nothing left to do, and may wait right here
        self._started = time.perf_counter_ns()
        try:
            bucket.work = self.reduction.start(bucket)
        except Exception as e:
            self._explain(e, bucket)
            raise
        finally:
            self.recorder.about = None
        self._next += 1

    def _finish(self, local: bool = True) -> None:
        """Backward has ended: reduce what is left, wait for all, and be ready for the next."""
        try:
            for bucket in self.buckets[self._next :]:
                self._start(bucket, local)
            self.reduction.agree(self.buckets)
            assert self.began is not None
            self.recorder.span("backward", self.began, self._started)
            for bucket in self.buckets:
                if bucket.work is not DONE:
                    self._wait(bucket)
                if self.scale != 1.0:
                    gradients = bucket.gradients._a
                    gradients *= gradients.dtype.type(self.scale)
                bucket.finish()
            self.recorder.span(WAIT, self._started)
            self.ended = time.perf_counter_ns()
        finally:
            self._next, self._walking, self.began = 0, False, None
        if self._arrivals is not None:
            self._rebuild()

    def _wait(self, bucket: Bucket) -> None:
        try:
            bucket.work.wait()
        except Exception as e:
            self._explain(e, bucket)
            raise

    def _explain(self, error: Exception, bucket: Bucket) -> None:
        error.add_note(
            f"in backward {self.step} of DistributedDataParallel, reducing {bucket} of {len(self.buckets)}: "
            f"{', '.join(bucket.names[:20])}{', …' if len(bucket.names) > 20 else ''}"
        )

    # -- buckets -----------------------------------------------------------------------------------------------------

    def _build(self, packed: list[list[Member]], homes: list[list[np.ndarray]] | None = None) -> None:
        self.buckets = []
        for number, members in enumerate(packed):
            theirs = homes[number] if homes else None
            flat = _flat(members) if theirs is None else theirs[self.group.rank]
            self.buckets.append(Bucket(number, members, self._reached, flat, theirs))
        self.buckets[-1].is_last = True
        self._places = {n: (bucket, i) for bucket in self.buckets for i, n in enumerate(bucket.numbers)}
        for bucket in self.buckets:
            for p, view in zip(bucket.params, bucket.views):
                p._home = view

    def _rebuild(self) -> None:
        """Pack anew, in the order in which gradients arrived on rank 0, and where the ranks reach each other's buckets if they can;
        gradients that are there stay until they are replaced.
        """
        arrivals, self._arrivals = self._arrivals, None
        assert arrivals is not None
        if self.static_graph:
            self._reached = set(arrivals)
        before = [n for bucket in self.buckets for n in bucket.numbers]
        seen = set(arrivals)
        order = wrap(np.array([*arrivals, *(n for n in before if n not in seen)]))
        self.group.broadcast(order, 0)
        packed = self._packed(order.tolist())
        homes = self._homes(packed)
        if homes or order.tolist() != before or self.static_graph:
            self._build(packed, homes)

    def _packed(self, order: Iterable[int]) -> list[list[Member]]:
        return _packed([(n, *self.params[n]) for n in order], self.bucket_bytes)

    def _homes(self, packed: list[list[Member]]) -> list[list[np.ndarray]] | None:
        """For each bucket the arrays of all ranks, where they see each other's memory. All ranks make this call."""
        if any(p.device.type != "cpu" for members in packed for _, _, p in members):
            return None
        dtypes = [members[0][2]._a.dtype for members in packed]
        sizes = [_count(members) * dtype.itemsize for members, dtype in zip(packed, dtypes)]
        starts = np.cumsum([0, *(-(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for size in sizes)]).tolist()
        areas = self.group.homes(starts[-1])
        if areas is None:
            return None
        return [
            [area[start : start + size].view(dtype) for area in areas]
            for start, size, dtype in zip(starts, sizes, dtypes)
        ]


def _watch(p: Tensor, reducer: weakref.ref[Reducer], number: int) -> None:
    """Tell the reducer of the parameter's gradients, as long as there is a reducer."""

    def arrived(p: Tensor) -> None:
        owner = reducer()
        if owner is not None:
            owner.arrived(number, p)
        else:
            handle.remove()
            p._home = None

    handle = p.register_post_accumulate_grad_hook(arrived)


def _count(members: Sequence[Member]) -> int:
    """Elements of a bucket: the gradients, and a number for each parameter."""
    return sum(p._a.size + 1 for _, _, p in members)


def _flat(members: Sequence[Member]) -> Any:
    """The array of a bucket, for this rank alone."""
    first = members[0][2]._a
    return backend.of(first).xp.zeros(_count(members), dtype=first.dtype)


def _packed(params: Sequence[Member], bucket_bytes: int) -> list[list[Member]]:
    """The parameters in buckets, in order; a bucket holds one dtype and device. Depends on the arguments only.

    Of several buckets the first is small, and so is the last, whose reduction nothing hides.
    """
    if sum(p._a.nbytes for _, _, p in params) <= bucket_bytes:
        return _filled(params, bucket_bytes, bucket_bytes)
    small, last = min(FIRST_BUCKET_BYTES, bucket_bytes), len(params) - 1
    size = params[last][2]._a.nbytes
    room = max(small, size + small // 4)
    while last and (size := size + params[last - 1][2]._a.nbytes) <= room:
        last -= 1
    return _filled(params[:last], small, bucket_bytes) + _filled(params[last:], small, small)


def _filled(params: Sequence[Member], first_bytes: int, bucket_bytes: int) -> list[list[Member]]:
    """Buckets of about so many bytes. A large parameter takes a few small ones along rather than leave them a call of their own."""
    buckets: list[list[Member]] = []
    open_: dict[tuple[Any, str], tuple[list[Member], int]] = {}
    for member in params:
        p = member[2]
        key = (p._a.dtype, str(p.device))
        members, size = open_.get(key, ([], 0))
        limit = first_bytes if not buckets or members is buckets[0] else bucket_bytes
        if members and size + p._a.nbytes > limit and 4 * size >= limit:
            members, size = [], 0
        if not members:
            buckets.append(members)
        members.append(member)
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
    from ddp.objects import all_gather_object

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
