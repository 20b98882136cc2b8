"""Which cores this process may use, and how they are shared out among ranks.

Contract: cores are the system's numbers, in an order in which neighbours have most in common (hardware threads of one
core, then the package), so that a contiguous share is a good one.
"""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def usable_cores() -> tuple[int, ...]:
    """Cores that this process may run on, which a container or taskset may have made fewer than the machine has."""
    if not hasattr(os, "sched_getaffinity"):
        return tuple(range(os.cpu_count() or 1))
    return tuple(sorted(os.sched_getaffinity(0), key=_place))


def threads_for_each(cores: int, ranks: int) -> int:
    return max(1, cores // ranks)


def shares(cores: tuple[int, ...], ranks: int) -> tuple[tuple[int, ...], ...]:
    """Of cores 0 … 4, for two ranks: (0, 1) and (2, 3). With fewer cores than ranks nobody gets one of its own: ()."""
    if ranks > len(cores):
        return ((),) * ranks
    each = threads_for_each(len(cores), ranks)
    return tuple(cores[rank * each : (rank + 1) * each] for rank in range(ranks))


def _place(core: int) -> tuple[int, int, int]:
    return (_number(core, "physical_package_id"), _number(core, "core_id"), core)


def _number(core: int, name: str) -> int:
    try:
        return int((_TOPOLOGY / f"cpu{core}" / "topology" / name).read_text())
    except (OSError, ValueError):  # no Linux, or a container that hides it
        return 0
