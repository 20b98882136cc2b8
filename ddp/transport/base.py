"""The seam between `ddp` and the libraries that move bytes.

A transport connects the ranks 0 … size-1 of one job and knows nothing of models, tensors or gradients: it moves
one-dimensional, contiguous NumPy arrays. A member writes `send`, `recv`, `flush` and `close`; the collectives below
are derived from these once, for all, and are the oracle of the conformance suite. A member overrides a collective
only where its library has a better one.

Contract
- Every wait has a deadline, and every error names the peer: `DeadlineError`, `PeerLostError`, `MismatchError`.
- Each array travels with the `Call` it belongs to. The receiver states the call that it is in; when they differ, both
  sides' calls are in the message of the `MismatchError`, and the other ranks are told, so that all of them raise
  soon. A rank whose part was done before the others noticed (the root of a broadcast sends and goes on) raises in the
  next call in which it waits.
- Two streams run between each pair of ranks in each group. Collectives must come in the order in which the receiver
  makes them. Point to point (`call.name == "send"`) matches by tag (`call.number`) and may arrive at any time; what
  nobody asked for yet is kept.
- A transport is used by one thread at a time; `ddp.group` sees to that.
- A collective never changes its input unless it is documented as in place. After an error in a collective the
  contents of in-place arrays are undefined, and further calls raise the same error.
- Every rank ends `all_reduce` with the same bits.

Not here: process groups as objects, tensors, retries, who is in the job (`ddp.env`), how bytes look on a wire
(`ddp.wire`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import ml_dtypes
import numpy as np

from core.errors import ArgumentError, DTypeError, RangeError, ShapeError, unknown_name
from ddp.errors import DeadlineError, WireError
from ddp.transport.tuning import Tuning

# Large arrays travel in pieces, so that a rank adds or forwards one while the next is on its way.
PIECE_BYTES = 1 << 20

# What can travel. The names are NumPy's; both ends look them up here, so nothing else is ever built from a received
# name.
DTYPES: dict[str, np.dtype] = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in (
        np.bool_,
        *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
        *(np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.complex64, np.complex128),
    )
}

REDUCE_OPS: dict[str, np.ufunc] = {
    "sum": np.add,
    "product": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
    "avg": np.add,  # and a division by the size at the end
}


class Call(NamedTuple):
    """What the ranks are doing together: two ranks are in the same call when all fields are equal."""

    name: str  # "all_reduce", "broadcast", …, "send" for point to point
    number: int  # how many calls this group made before; the tag for point to point
    dtype: str  # NumPy's name, "float32"
    count: int  # type: ignore[assignment]  # elements of the array argument on every rank; of the result for scatter
    detail: str = ""  # "sum", "root=2": whatever else must agree
    group: int = 0  # which process group; 0 is the world

    @property
    def collective(self) -> bool:
        return self.name != "send"

    def __str__(self) -> str:
        detail = f", {self.detail}" if self.detail else ""
        where = f" of group {self.group}" if self.group else ""
        return f"{self.name} #{self.number}{where} ({self.dtype}[{self.count}]{detail})"


class Deadline(NamedTuple):
    """A moment after which waiting is an error. Times are seconds of the monotonic clock."""

    at: float
    timeout_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        return cls(time.monotonic() + timeout_s, timeout_s)

    def remaining_s(self) -> float:
        return max(0.0, self.at - time.monotonic())

    def expired(self) -> bool:
        return time.monotonic() >= self.at

    def error(self, rank: int, peer: int, call: Call) -> DeadlineError:
        return DeadlineError(f"rank {rank}: {call}: {self.text(peer)}", rank=peer)

    def text(self, peer: int) -> str:
        return (
            f"expected rank {peer} within {self.timeout_s:g} s, got nothing; "
            f"it is stuck, slower than the timeout, or in code that makes no such call"
        )


def always() -> bool:
    return True


class Transport:
    """Moves arrays between `size` ranks; this process is `rank`."""

    name: str = "base"
    tuning: Tuning = Tuning()
    asynchronous = False  # whether a collective on arrays of a device returns before it has ended

    def __init__(self, rank: int, size: int):
        self.rank = rank
        self.size = size
        # whether somebody waits for the call under way, so that it may spin; the lane says so for asynchronous calls
        self.is_urgent: Callable[[], bool] = always

    # -- what a member writes ---------------------------------------------------------------------------------------

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        """Hand a contiguous 1-D array over for `peer`. Never waits for the peer to call `recv`.

        The array must not be changed before `flush` has returned: a member may send it without copying.
        One message: at most `wire.MAX_PAYLOAD_BYTES`. `send_pieces` has no such limit.
        """
        raise NotImplementedError

    def recv(self, peer: int, call: Call, deadline: Deadline) -> np.ndarray:
        """The next array from `peer` for this kind of call, 1-D, possibly read-only, owned by the caller."""
        raise NotImplementedError

    def flush(self, deadline: Deadline) -> None:
        """Return once every array given to `send` may be changed again."""
        raise NotImplementedError

    def close(self) -> None:
        """Say goodbye and free everything. Calling it again does nothing. Never waits more than a moment."""
        raise NotImplementedError

    def abort(self, reason: str) -> None:
        """This rank cannot go on: let no other rank wait for it. With some members this ends the process."""
        self.close()

    @property
    def fills(self) -> bool:
        """Whether collectives take a list of blocks for an array of them, and `into`: arrays (n,) of the caller's.

        They are one for each row or block of the result, which are filled and returned (the array itself if there is
        one). They must not lie where the input lies; only a rank's own row of a gather may be its input.
        """
        return False

    # -- arrays of any size -----------------------------------------------------------------------------------------

    def send_pieces(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        """`send` for an array of any size; `recv_pieces` is its other end."""
        for piece in pieces(slice(0, array.size), array.itemsize):
            self.send(peer, array[piece], call, deadline)

    def recv_pieces(self, peer: int, out: np.ndarray, call: Call, deadline: Deadline) -> None:
        """Fill `out` with what `peer` gave to `send_pieces`."""
        for piece in pieces(slice(0, out.size), out.itemsize):
            out[piece] = self._recv_exactly(peer, out[piece].size, call, deadline)

    # -- collectives: every rank of the transport makes the same call ------------------------------------------------

    def all_reduce(self, array: np.ndarray, op: str, call: Call, deadline: Deadline) -> None:
        """Reduce over the ranks, in place on every rank: (n,) -> (n,).

        Up to tuning.ring_bytes recursive doubling: ceil(log2(size)) rounds (two more if size is no power of two), n elements
        each. Above, a ring (reduce-scatter, then all-gather): each rank sends 2 n (size-1)/size elements, whatever
        the size.
        """
        combine = reduction(op, array.dtype, call)
        if array.nbytes <= self.tuning.ring_bytes:
            self._all_reduce_doubling(array, combine, call, deadline)
        else:
            bounds = chunks(array.size, self.size)
            self._ring_reduce(array, bounds, combine, call, deadline, pass_on=True)
            self._ring_gather(array, bounds, call, deadline)
            self.flush(deadline)
        if op == "avg":
            divide(array, self.size)

    def reduce(self, array: np.ndarray, op: str, root: int, call: Call, deadline: Deadline) -> None:
        """Reduce over the ranks, in place on `root`; the other ranks' arrays stay as they are. Binomial tree."""
        combine = reduction(op, array.dtype, call)
        parent, children = tree(self.rank, root, self.size)
        for piece in pieces(slice(0, array.size), array.itemsize):
            mine = array[piece]
            if children and parent is not None:
                mine = mine.copy()
            for child in reversed(children):
                combine(mine, self._recv_exactly(child, mine.size, call, deadline), out=mine)
            if parent is not None:
                self.send(parent, mine, call, deadline)
        self.flush(deadline)
        if op == "avg" and parent is None:
            divide(array, self.size)

    def broadcast(self, array: np.ndarray, root: int, call: Call, deadline: Deadline) -> None:
        """Give every rank the array of `root`, in place on the others. Binomial tree, in pieces."""
        parent, children = tree(self.rank, root, self.size)
        for piece in pieces(slice(0, array.size), array.itemsize):
            mine = array[piece]
            if parent is not None:
                mine[:] = self._recv_exactly(parent, mine.size, call, deadline)
            for child in children:
                self.send(child, mine, call, deadline)
        self.flush(deadline)

    def all_gather(self, array: np.ndarray, call: Call, deadline: Deadline) -> np.ndarray:
        """Every rank's array on every rank: (n,) -> (size, n).

        Bruck's algorithm where the result is no larger than tuning.ring_bytes: ceil(log2(size)) rounds for any size. Above,
        a ring.
        """
        out = np.empty((self.size, array.size), array.dtype)
        if out.nbytes <= self.tuning.ring_bytes:
            out[0] = array  # out[j] is the array of rank + j until the end
            have = 1
            while have < self.size:
                more = min(have, self.size - have)
                self.send((self.rank - have) % self.size, out[:more].reshape(-1), call, deadline)
                flat = self._recv_exactly((self.rank + have) % self.size, more * array.size, call, deadline)
                out[have : have + more] = flat.reshape(more, array.size)
                have += more
            self.flush(deadline)
            return np.roll(out, self.rank, axis=0)
        out[self.rank] = array
        flat, bounds = out.reshape(-1), chunks(out.size, self.size)
        if self.size > 1:
            self.send_pieces((self.rank + 1) % self.size, flat[bounds[self.rank]], call, deadline)
        self._ring_gather(flat, bounds, call, deadline)
        self.flush(deadline)
        return out

    def gather(self, array: np.ndarray, root: int, call: Call, deadline: Deadline) -> np.ndarray | None:
        """Every rank's array on `root`: (n,) -> (size, n) there, None elsewhere. Straight to the root."""
        self._check_root(root, call)
        if self.rank != root:
            self.send_pieces(root, array, call, deadline)
            self.flush(deadline)
            return None
        out = np.empty((self.size, array.size), array.dtype)
        out[root] = array
        for peer in self._others():
            self.recv_pieces(peer, out[peer], call, deadline)
        return out

    def scatter(self, array: np.ndarray | None, root: int, call: Call, deadline: Deadline) -> np.ndarray:
        """One block of the root's array for each rank: (size n,) on `root` -> (n,), where n is `call.count`.

        The other ranks' `array` is not looked at.
        """
        self._check_root(root, call)
        if self.rank != root:
            out = self._empty(call)
            self.recv_pieces(root, out, call, deadline)
            return out
        blocks = self._check_scatter(array, call)
        for peer in self._others():
            self.send_pieces(peer, blocks[peer], call, deadline)
        self.flush(deadline)
        return blocks[root].copy()

    def reduce_scatter(self, array: np.ndarray, op: str, call: Call, deadline: Deadline) -> np.ndarray:
        """Reduce over the ranks and keep one block each: (size n,) -> (n,), block `rank`. Ring."""
        combine = reduction(op, array.dtype, call)
        self._check_blocks(array, call)
        partial, bounds = array.copy(), chunks(array.size, self.size)
        self._ring_reduce(partial, bounds, combine, call, deadline, pass_on=False)
        self.flush(deadline)
        out = partial[bounds[self.rank]].copy()
        if op == "avg":
            divide(out, self.size)
        return out

    def all_to_all(self, array: np.ndarray, call: Call, deadline: Deadline) -> np.ndarray:
        """Block j of rank i becomes block i of rank j: (size n,) -> (size n,). In pairs, ever further apart."""
        self._check_blocks(array, call)
        blocks = array.reshape(self.size, array.size // self.size)
        out = np.empty_like(blocks)
        out[self.rank] = blocks[self.rank]
        for step in range(1, self.size):
            to, source = (self.rank + step) % self.size, (self.rank - step) % self.size
            self.send_pieces(to, blocks[to], call, deadline)
            self.recv_pieces(source, out[source], call, deadline)
        self.flush(deadline)
        return out.reshape(-1)

    def barrier(self, call: Call, deadline: Deadline) -> None:
        """Return once every rank has called it. Dissemination: ceil(log2(size)) rounds for any size."""
        nothing = np.empty(0, DTYPES[call.dtype])
        distance = 1
        while distance < self.size:
            self.send((self.rank + distance) % self.size, nothing, call, deadline)
            self._recv_exactly((self.rank - distance) % self.size, 0, call, deadline)
            distance *= 2
        self.flush(deadline)

    # -- memory that all ranks reach ----------------------------------------------------------------------------------

    def homes(self, nbytes: int, call: Call, deadline: Deadline) -> list[np.ndarray] | None:
        """An array (nbytes,) of bytes for each rank, zeroed, all of which every rank sees; None where ranks share no memory."""
        return None

    def all_reduce_homes(self, homes: Sequence[np.ndarray], op: str, call: Call, deadline: Deadline) -> None:
        """`all_reduce` of arrays that lie in `homes`: of each rank the same part, (n,), by rank."""
        self.all_reduce(homes[self.rank], op, call, deadline)

    # -- some of the ranks --------------------------------------------------------------------------------------------

    def subset(self, ranks: Sequence[int]) -> Transport:
        """The same transport seen by some of its ranks, numbered 0 … len(ranks)-1 in this order. Moves nothing.

        Groups that share a rank need calls with different `Call.group`. Errors go on naming the ranks of the job.
        """
        return Subset(self, ranks)

    # -- algorithms ---------------------------------------------------------------------------------------------------

    def _all_reduce_doubling(self, array, combine: np.ufunc, call: Call, deadline: Deadline) -> None:
        """Fold the ranks beyond the largest power of two onto the first, exchange with rank ^ 1, ^ 2, …, unfold."""
        power = 1 << (self.size.bit_length() - 1)
        value = array  # never written to, it may still be on its way: each round makes a new one
        if self.rank >= power:
            self.send(self.rank - power, array, call, deadline)
            value = self._recv_exactly(self.rank - power, array.size, call, deadline)
        else:
            folded = self.rank + power < self.size
            if folded:
                value = combine(value, self._recv_exactly(self.rank + power, array.size, call, deadline))
            for bit in range(power.bit_length() - 1):
                peer = self.rank ^ (1 << bit)
                self.send(peer, value, call, deadline)
                theirs = self._recv_exactly(peer, array.size, call, deadline)
                # Both partners combine in the order of their ranks: min(-0.0, 0.0) and NaN payloads depend on it.
                value = combine(value, theirs) if self.rank < peer else combine(theirs, value)
            if folded:
                self.send(self.rank + power, value, call, deadline)
        self.flush(deadline)
        if value is not array:
            array[:] = value

    def _ring_reduce(self, array, bounds, combine: np.ufunc, call: Call, deadline: Deadline, pass_on: bool) -> None:
        """Once round the ring: chunk `rank` of `array` ends reduced over all ranks, the others as partial results.

        `pass_on` also sends the finished chunk to the right, which is how `_ring_gather` begins.
        """
        if self.size == 1:
            return
        left, right = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        self.send_pieces(right, array[bounds[left]], call, deadline)
        for step in range(2, self.size + 1):
            for piece in pieces(bounds[(self.rank - step) % self.size], array.itemsize):
                mine = array[piece]
                combine(self._recv_exactly(left, mine.size, call, deadline), mine, out=mine)
                if step < self.size or pass_on:
                    self.send(right, mine, call, deadline)

    def _ring_gather(self, array, bounds, call: Call, deadline: Deadline) -> None:
        """Once more round: every chunk of `array` reaches every rank. Chunk `rank` is already on its way to the right.

        No flush between the two turns: a finished chunk comes back only after all that it was made of has arrived
        elsewhere, so what is overwritten here is no longer being sent.
        """
        left, right = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        for step in range(1, self.size):
            for piece in pieces(bounds[(self.rank - step) % self.size], array.itemsize):
                mine = array[piece]
                mine[:] = self._recv_exactly(left, mine.size, call, deadline)
                if step < self.size - 1:
                    self.send(right, mine, call, deadline)

    def _recv_exactly(self, peer: int, count: int, call: Call, deadline: Deadline) -> np.ndarray:
        array = self.recv(peer, call, deadline)
        if array.size != count:  # NumPy would stretch one element over many
            raise WireError(f"rank {self.rank}: {call}: expected {count} elements from rank {peer}, got {array.size}")
        return array

    def _empty(self, call: Call) -> np.ndarray:
        return np.empty(call.count, DTYPES[call.dtype])

    def _others(self) -> Iterator[int]:
        return (peer for peer in range(self.size) if peer != self.rank)

    def _check_root(self, root: int, call: Call) -> None:
        if not 0 <= root < self.size:
            raise RangeError(f"rank {self.rank}: {call}: expected a root in 0 … {self.size - 1}, got {root}")

    def _check_scatter(self, array: np.ndarray | None, call: Call) -> np.ndarray:
        """The root's array as (size, n)."""
        if array is None or array.size != self.size * call.count:
            got = "no array" if array is None else array.size
            raise ShapeError(
                f"rank {self.rank}: {call}: expected {self.size} × {call.count} elements on the root, got {got}; "
                f"give as many blocks as there are ranks"
            )
        return array.reshape(self.size, call.count)

    def _check_blocks(self, array: np.ndarray, call: Call) -> None:
        if array.size % self.size:
            raise ShapeError(
                f"rank {self.rank}: {call}: expected a multiple of {self.size} elements, one block a rank, "
                f"got {array.size}; pad the array"
            )

    def _check_peer(self, peer: int, call: Call) -> None:
        if not 0 <= peer < self.size or peer == self.rank:
            raise RangeError(f"rank {self.rank}: {call}: expected another rank of 0 … {self.size - 1}, got {peer}")


class Subset(Transport):
    """Some ranks of another transport. Closing it does nothing: the transport belongs to whoever opened it."""

    def __init__(self, whole: Transport, ranks: Sequence[int]):
        if len(set(ranks)) != len(ranks) or not all(0 <= rank < whole.size for rank in ranks):
            raise RangeError(f"subset: expected different ranks of 0 … {whole.size - 1}, got {list(ranks)}")
        if whole.rank not in ranks:
            raise ArgumentError(f"subset: expected the calling rank {whole.rank} among the ranks, got {list(ranks)}")
        super().__init__(list(ranks).index(whole.rank), len(ranks))
        self.name = whole.name
        self.tuning = whole.tuning
        self._whole = whole
        self._ranks = tuple(ranks)

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        self._check_peer(peer, call)
        self._whole.send(self._ranks[peer], array, call, deadline)

    def recv(self, peer: int, call: Call, deadline: Deadline) -> np.ndarray:
        self._check_peer(peer, call)
        return self._whole.recv(self._ranks[peer], call, deadline)

    def flush(self, deadline: Deadline) -> None:
        self._whole.flush(deadline)

    def subset(self, ranks: Sequence[int]) -> Transport:
        if self.rank in ranks and all(0 <= rank < self.size for rank in ranks):
            return self._whole.subset([self._ranks[rank] for rank in ranks])
        return super().subset(ranks)  # which says what is wrong

    def close(self) -> None:
        pass

    def abort(self, reason: str) -> None:
        self._whole.abort(reason)


# -- pure parts -------------------------------------------------------------------------------------------------------


def chunks(count: int, parts: int) -> list[slice]:
    """Cut 0 … count into `parts` neighbours whose lengths differ by at most one, the longer first, some maybe empty."""
    short, longer = divmod(count, parts)
    ends = [part * short + min(part, longer) for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def pieces(span: slice, itemsize: int) -> list[slice]:
    """Cut a span into pieces of at most PIECE_BYTES.

    An empty span is one empty piece: there is always a message to compare calls by.
    """
    step = max(1, PIECE_BYTES // itemsize)
    starts = range(span.start, span.stop, step) or (span.start,)
    return [slice(start, min(start + step, span.stop)) for start in starts]


def tree(rank: int, root: int, size: int) -> tuple[int | None, list[int]]:
    """Parent and children in the binomial tree below `root`, the child with the largest subtree first.

    Seen from the root (v = rank - root), the parent of v is v without its lowest one-bit.
    """
    if not 0 <= root < size:
        raise RangeError(f"rank {rank}: expected a root in 0 … {size - 1}, got {root}")
    v = (rank - root) % size
    parent = None if v == 0 else ((v & (v - 1)) + root) % size
    below = (v & -v) if v else 1 << size.bit_length()
    bits = [1 << bit for bit in range(size.bit_length()) if 1 << bit < below and v + (1 << bit) < size]
    return parent, [(v + bit + root) % size for bit in reversed(bits)]


def reduction(op: str, dtype: np.dtype, call: Call) -> np.ufunc:
    """The ufunc of a reduce op, if the dtype has it."""
    if op not in REDUCE_OPS:
        raise ArgumentError(unknown_name(str(call), "reduce op", op, REDUCE_OPS))
    whole = dtype.kind in "biu"
    if op == "avg" and whole:
        raise DTypeError(f"{call}: expected a floating or complex dtype for avg, got {dtype}; use sum and divide")
    if op in ("band", "bor", "bxor") and not whole:
        raise DTypeError(f"{call}: expected an integer or bool dtype for {op}, got {dtype}")
    return REDUCE_OPS[op]


def divide(array: np.ndarray, size: int) -> None:
    """array /= size, in place. Two-byte floats by way of float32: bfloat16 cannot even hold 257."""
    if array.dtype.itemsize == 2:
        array[:] = array.astype(np.float32) / np.float32(size)
    elif size & (size - 1):
        array /= size
    else:  # the same numbers, sooner
        array *= array.dtype.type(1 / size)
