"""From which size on which algorithm: the table, its measured defaults, and the file that `ddprun tune` keeps.

Contract: all ranks of a job use rank 0's table, whatever the files of their own hosts say: ranks that chose different
algorithms would wait for each other for ever. A file of another version is as good as none; one of this version with
numbers out of range is an error that names it. Not here: measuring (`ddp.bench`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ArgumentError

VERSION = 1
# Below, above: what may stand in the table.
_LIMITS = {"direct_bytes": (0, 1 << 20), "slot_bytes": (1 << 12, 1 << 24), "ring_bytes": (0, 1 << 30)}


@dataclass(frozen=True)
class Tuning:
    """Defaults: 2 AMD Zen 4 cores, float32 sum, two and four processes."""

    # Shared memory, more than two ranks or arrays in `homes`: where the others' arrays have up to so many bytes together,
    # each rank combines them all itself (one round); above, each combines a chunk (two rounds).
    direct_bytes: int = 64 << 10
    # Shared memory: larger arrays go in pieces of so many bytes. Small enough to stay in the cache.
    slot_bytes: int = 2 << 20
    # Messages: up to here latency rules (log2(size) rounds, the whole array each), above it bandwidth (2(size-1)
    # rounds, 1/size of the array each). Over ZeroMQ: even at 64 KiB, the ring 1.4 times as fast at 256 KiB.
    ring_bytes: int = 64 << 10


def checked(table: Mapping[str, Any], where: str) -> Tuning:
    """The table that a file or rank 0 says; ArgumentError if it cannot be one."""
    if set(table) != set(_LIMITS):
        raise ArgumentError(f"{where}: expected the entries {', '.join(_LIMITS)}, got {', '.join(table)}")
    for name, (low, high) in _LIMITS.items():
        if type(table[name]) is not int or not low <= table[name] <= high:
            raise ArgumentError(
                f"{where}: expected {name} in {low} … {high}, got {table[name]!r}; run ddprun tune again"
            )
    return Tuning(**table)


def path() -> Path:
    """Where the table is kept for this user."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache) / "lockstep" / "tuning.json"


def load() -> Tuning:
    """What was measured on this machine, or the defaults."""
    where = path()
    try:
        text = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or half a file
        return Tuning()
    if not isinstance(text, dict) or text.pop("version", None) != VERSION:
        return Tuning()
    return checked(text, str(where))


def save(tuning: Tuning) -> Path:
    """Keep a table for the jobs to come."""
    where = path()
    where.parent.mkdir(parents=True, exist_ok=True)
    half = where.with_suffix(f".{os.getpid()}")
    half.write_text(json.dumps({"version": VERSION, **dataclasses.asdict(tuning)}, indent=1) + "\n", encoding="utf-8")
    half.replace(where)
    return where
