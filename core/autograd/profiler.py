"""How long ops take: torch.autograd.profiler. Inside of `profile` each op and each `record_function` block is timed;
`key_averages().table()`
prints the sums. On a GPU the times are those of asking for the work, which goes on by itself.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

from core.ops.op import Op

__all__ = ["EventList", "profile", "record_function"]

_active: list[profile] = []


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    key: str
    start_us: float
    duration_us: float
    thread: int


@dataclass
class Average:
    """All events of one name."""

    key: str
    count: int
    cpu_time_total: float  # µs

    @property
    def cpu_time(self) -> float:
        """µs of one, on the average."""
        return self.cpu_time_total / self.count


class EventList(list[Average]):
    """The sums, as a table."""

    def table(self, sort_by: str | None = "cpu_time_total", row_limit: int = 100, **_: Any) -> str:
        """Names, calls, total and mean milliseconds, those that took longest first."""
        key = sort_by if sort_by in ("cpu_time", "cpu_time_total", "count") else "cpu_time_total"
        rows = sorted(self, key=lambda e: getattr(e, key), reverse=True)[:row_limit]
        total = sum(e.cpu_time_total for e in self) or 1.0
        width = max([len(e.key) for e in rows] + [4])
        lines = [f"{'Name':<{width}}  {'Calls':>8}  {'CPU total':>12}  {'CPU %':>7}  {'CPU mean':>12}"]
        lines += [
            f"{e.key:<{width}}  {e.count:>8}  {e.cpu_time_total / 1e3:>10.3f}ms"
            f"  {100 * e.cpu_time_total / total:>6.2f}%  {e.cpu_time / 1e3:>10.3f}ms"
            for e in rows
        ]
        return "\n".join(lines)


class profile:
    """`with profile() as p: …`, then `print(p.key_averages().table())`. Options that ask for more than times are accepted."""

    def __init__(self, enabled: bool = True, **options: Any):
        self.enabled, self.options = enabled, options
        self.function_events: list[Event] = []

    def start(self) -> None:
        """Time from here on."""
        if self.enabled:
            _active.append(self)
            if len(_active) == 1:
                _replace(_timed)

    def stop(self) -> None:
        """Time no more."""
        if self in _active:
            _active.remove(self)
            if not _active:
                _replace(_apply)

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def events(self) -> list[Event]:
        """All that happened, in order of their ends."""
        return self.function_events

    def key_averages(self, *args: Any, **kwargs: Any) -> EventList:
        """Sums for each name."""
        found: dict[str, Average] = {}
        for e in self.function_events:
            a = found.setdefault(e.key, Average(e.key, 0, 0.0))
            a.count += 1
            a.cpu_time_total += e.duration_us
        return EventList(found.values())

    def table(self, **options: Any) -> str:
        """`key_averages().table()`"""
        return self.key_averages().table(**options)

    def export_chrome_trace(self, path: str) -> None:
        """A file for chrome://tracing."""
        events = [
            {"name": e.key, "ph": "X", "ts": e.start_us, "dur": e.duration_us, "pid": 0, "tid": e.thread}
            for e in self.function_events
        ]
        with open(path, "w") as file:
            json.dump({"traceEvents": events}, file)


class record_function:
    """A named block, or function, of its own line in the table."""

    def __init__(self, name: str, args: Any = None):
        self.name = name

    def __enter__(self) -> record_function:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        _note(self.name, self._start)

    def __call__(self, function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with record_function(self.name):
                return function(*args, **kwargs)

        return wrapper


_apply = Op.apply


def _timed(op: Op, args: Any, params: dict[str, Any]) -> Any:
    start = time.perf_counter()
    try:
        return _apply(op, args, params)
    finally:
        _note(op.name, start)


def _replace(apply: Any) -> None:
    from core import methods

    Op.apply = apply  # type: ignore[method-assign]
    methods.bind_operators()


def _note(name: str, start: float) -> None:
    event = Event(name, start * 1e6, (time.perf_counter() - start) * 1e6, threading.get_ident())
    for p in _active:
        p.function_events.append(event)
