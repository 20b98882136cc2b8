"""Errors between processes.

Contract: a message begins with `rank R:` (the rank that raises) and says who, what and in which call. All are
`RuntimeError`s, as torch.distributed's are, so that one `except` serves both.
"""

from __future__ import annotations

from core.errors import CoreError


class DDPError(CoreError, RuntimeError):
    """Anything that goes wrong between processes."""


class WorldError(DDPError, ValueError):
    """The environment describes no world, or two that contradict each other."""


class PeerLostError(DDPError, ConnectionError):
    """A peer died, left, or was told to stop. `rank` is the peer at fault."""

    def __init__(self, message: str, rank: int | None = None):
        super().__init__(message)
        self.rank = rank


class DeadlineError(DDPError, TimeoutError):
    """A peer did not answer before the deadline. `rank` is the peer that was waited for."""

    def __init__(self, message: str, rank: int | None = None):
        super().__init__(message)
        self.rank = rank


class MismatchError(DDPError):
    """Ranks are in different calls, or in the same call with different shapes, dtypes or roots."""


class WireError(DDPError):
    """Bytes that are not a frame of this job: bad magic, wrong job, wrong length."""
