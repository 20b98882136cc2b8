"""Memory of GPUs: what tensors hold, what the pool holds, and what is left. Questions open no GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from core.backend.cuda.memory import Statistics
from core.cuda import place
from core.errors import ArgumentError


def _if_used(question: Callable[[Any], int]) -> Callable[..., int]:
    """0 as long as no GPU has been used: asking must not open one."""

    @functools.wraps(question)
    def answer(device: Any = None) -> int:
        return question(device) if place.is_initialized() else 0

    return answer


def _pool() -> Any:
    return place.gpu().xp.get_default_memory_pool()


def _statistics(where: Any) -> Statistics:
    return place.gpu().memory.statistics(place.index(where))


@_if_used
def memory_allocated(device: Any = None) -> int:
    """Bytes held by tensors."""
    return _statistics(device).bytes


@_if_used
def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors held at one time, since the start or `reset_peak_memory_stats`."""
    return _statistics(device).peak_bytes


@_if_used
def memory_reserved(device: Any = None) -> int:
    """Bytes held by the pool, in use or not."""
    with place.device(device):
        return int(_pool().total_bytes())


@_if_used
def max_memory_reserved(device: Any = None) -> int:
    """Like `memory_reserved`: the pool gives nothing back unless `empty_cache` is called, and keeps no record of when it was."""
    return max(memory_reserved(device), _statistics(device).peak_bytes)


def reset_peak_memory_stats(device: Any = None) -> None:
    """Count the peak from now on."""
    if place.is_initialized():
        s = _statistics(device)
        s.peak_bytes, s.peak_blocks = s.bytes, s.blocks


def memory_stats(device: Any = None) -> dict[str, int]:
    """The counts, by torch's names; empty as long as no GPU has been used."""
    if not place.is_initialized():
        return {}
    s, reserved = _statistics(device), memory_reserved(device)
    return {
        "allocated_bytes.all.current": s.bytes,
        "allocated_bytes.all.peak": s.peak_bytes,
        "allocated_bytes.all.allocated": s.allocated_bytes,
        "allocated_bytes.all.freed": s.allocated_bytes - s.bytes,
        "allocation.all.current": s.blocks,
        "allocation.all.peak": s.peak_blocks,
        "allocation.all.allocated": s.allocations,
        "allocation.all.freed": s.allocations - s.blocks,
        "reserved_bytes.all.current": reserved,
    }


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """The counts as a table for people."""
    stats = memory_stats(device)
    if not stats:
        return "no GPU has been used"
    lines = [f"memory of cuda:{place.index(device)}"]
    for name, value in stats.items():
        amount = f"{value / 2**20:12.1f} MiB" if "bytes" in name else f"{value:12}"
        lines.append(f"{name:32}{amount}")
    return "\n".join(lines)


def empty_cache() -> None:
    """Give unused memory of the pools back: of the device, and pinned memory of the host."""
    if place.is_initialized():
        _pool().free_all_blocks()
        place.gpu().xp.get_default_pinned_memory_pool().free_all_blocks()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the device."""
    with place.device(device):
        free, total = place.gpu().xp.cuda.runtime.memGetInfo()
    return int(free), int(total)


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    """Let the pool hold at most this part of the device's memory."""
    if not 0 <= fraction <= 1:
        raise ArgumentError(f"set_per_process_memory_fraction: expected a fraction in 0 … 1, got {fraction}")
    with place.device(device):
        _pool().set_limit(fraction=fraction)
