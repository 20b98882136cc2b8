"""The seam between `ddp` and the libraries that move bytes.

A transport connects the ranks 0 … size-1 of one job and knows nothing of models, tensors or gradients: it moves one-dimensional
NumPy arrays. A member writes `send`, `recv`, `flush` and `close`; the collectives below are derived from these once, for all, and
are the oracle of the conformance suite. A member overrides a collective only where its library has a better one.

Contract
- Every wait has a deadline, and every error names the peer: `DeadlineError`, `PeerLostError`, `MismatchError`.
- Each array travels with the `Call` it belongs to. The receiver states the call that it is in; when they differ, both sides' calls
  are in the message of the `MismatchError`.
- A transport is used by one thread at a time; `ddp.group` sees to that.
- A collective never changes its input unless it is documented as in place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ddp.errors import DeadlineError


class Call(NamedTuple):
    """What the ranks are doing together: two ranks are in the same call when all fields are equal."""

    name: str  # "all_reduce", "broadcast", …, "send" for point to point
    number: int  # how many calls this group made before; the tag for point to point
    dtype: str  # NumPy's name, "float32"
    count: int  # elements of the array that the call is about, on every rank
    detail: str = ""  # "sum", "root=2": whatever else must agree
    group: int = 0  # which process group; 0 is the world

    def __str__(self) -> str:
        detail = f", {self.detail}" if self.detail else ""
        where = f" of group {self.group}" if self.group else ""
        return f"{self.name} #{self.number}{where} ({self.dtype}[{self.count}]{detail})"


@dataclass(frozen=True)
class Deadline:
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
        return DeadlineError(
            f"rank {rank}: {call}: expected rank {peer} within {self.timeout_s:g} s, got nothing; "
            f"it is stuck, slower than the timeout, or in code that makes no such call",
            rank=peer,
        )


class Transport:
    """Moves arrays between `size` ranks; this process is `rank`."""

    name: str = "base"

    def __init__(self, rank: int, size: int):
        self.rank = rank
        self.size = size

    # -- what a member writes ---------------------------------------------------------------------------------------

    def send(self, peer: int, array: np.ndarray, call: Call, deadline: Deadline) -> None:
        """Hand a contiguous 1-D array over for `peer`. Never waits for the peer to call `recv`.

        The array must not be changed before `flush` has returned: a member may send it without copying.
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
