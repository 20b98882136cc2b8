"""What besides the program decides the bits: the engine, the libraries that compute, their threads, the instruction set.

OpenBLAS rounds a product otherwise with another number of threads or for another CPU (notes/distributed.md, 4.2), so workers that differ
in any of this must not train together, nor may a run be resumed where it differs. What does not change the bits is not in here.
Contract: a flat dict of strings, compared by equality.
"""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache

import core
from core import dtypes
from core.backend import cpu
from ddp.errors import DDPError


class FingerprintError(DDPError):
    """Workers, or a checkpoint and a worker, that would compute different bits."""


def fingerprint() -> dict[str, str]:
    """That of this process, now: loads oneDNN."""
    return {
        "engine": core.__version__,
        **cpu.description(),
        "instructions": _cpu(),
        "dtype": dtypes.default_numpy().name,
    }


def check_same(mine: dict[str, str], theirs: dict[str, str], where: str, whose: str) -> None:
    """FingerprintError, with what differs and both fingerprints, unless they are equal."""
    if mine == theirs:
        return
    differ = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
    raise FingerprintError(
        f"{where}: expected the same {', '.join(differ)} here and {whose}, or the bits would differ, got\n"
        f"    here: {_line(mine)}\n    {whose}: {_line(theirs)}\n"
        "use the same machine type, release and number of threads everywhere"
    )


def _line(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())


@cache
def _cpu() -> str:
    """Model and instruction sets: libraries choose their kernels by these."""
    fields: dict[str, str] = {}
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields.setdefault(name.strip(), value.strip())
    flags = hashlib.sha256(" ".join(sorted(fields.get("flags", "").split())).encode()).hexdigest()[:8]
    return f"{platform.machine()} {fields.get('model name', platform.processor() or '?')} flags {flags}"
