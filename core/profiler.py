"""torch.profiler: how long ops take, over chosen steps of training. The measuring is in `core.autograd.profiler`."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.autograd import profiler as _profiler
from core.autograd.profiler import record_function

__all__ = ["ProfilerActivity", "ProfilerAction", "profile", "record_function", "schedule", "tensorboard_trace_handler"]


class ProfilerActivity(enum.Enum):
    """What to time. Ops are timed where they are asked for: on the CPU."""

    CPU = 0
    CUDA = 1


class ProfilerAction(enum.Enum):
    """What to do in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0
) -> Callable[[int], ProfilerAction]:
    """Step number -> action: after `skip_first`, cycles of `wait`, `warmup` and `active` steps, `repeat` times (0: for ever)."""

    def action(step: int) -> ProfilerAction:
        step -= skip_first
        cycle, place = divmod(step, wait + warmup + active)
        if step < 0 or (repeat and cycle >= repeat) or place < wait:
            return ProfilerAction.NONE
        if place < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD_AND_SAVE if place == wait + warmup + active - 1 else ProfilerAction.RECORD

    return action


def tensorboard_trace_handler(dir_name: str, worker_name: str | None = None) -> Callable[[Any], None]:
    """For `on_trace_ready`: a trace for each cycle in a folder."""

    def handler(p: Any) -> None:
        Path(dir_name).mkdir(parents=True, exist_ok=True)
        p.export_chrome_trace(str(Path(dir_name) / f"{worker_name or 'worker'}.{p.step_num}.pt.trace.json"))

    return handler


class profile(_profiler.profile):
    """`with profile(schedule=…, on_trace_ready=…) as p:`, and `p.step()` after each step; without a schedule all is recorded."""

    def __init__(self, *, activities: Any = None, schedule: Any = None, on_trace_ready: Any = None, **options: Any):
        super().__init__(**options)
        self._schedule = schedule or (lambda step: ProfilerAction.RECORD)
        self._ready, self.step_num = on_trace_ready, 0
        self._scheduled = schedule is not None

    def __enter__(self) -> profile:
        self._follow(self._schedule(0))
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        if self._ready is not None and not self._scheduled:
            self._ready(self)

    def _follow(self, action: ProfilerAction) -> None:
        self.stop()
        if action in (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE):
            self.start()

    def step(self) -> None:
        """A step has ended."""
        action = self._schedule(self.step_num)
        if action is ProfilerAction.RECORD_AND_SAVE:
            self.stop()
            if self._ready is not None:
                self._ready(self)
        self.step_num += 1
        following = self._schedule(self.step_num)
        if action is ProfilerAction.RECORD_AND_SAVE and following is not ProfilerAction.NONE:
            self.function_events.clear()
        self._follow(following)
