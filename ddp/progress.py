"""How far the training is, in one line that moves, on rank 0 alone.

`ProgressBar(loader)` is for a loop that knows its length. `ddprun --progress` (LOCKSTEP_PROGRESS=1) needs no line in the script:
it counts the synchronised backwards of DistributedDataParallel.

Contract: writes to stderr only, at most every PAUSE_S, each state behind a carriage return, which ddprun understands; the last state
stays. Costs nothing on the other ranks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from ddp import distributed
from ddp.recorder import Entry, Recorder
from ddp.timeline import WAIT

VARIABLE = "LOCKSTEP_PROGRESS"
PAUSE_S = 0.2
_WIDTH = 30


class _Line:
    """A line that is written over."""

    def __init__(self) -> None:
        self._next = 0.0
        self._longest = 0

    def show(self, text: str, now: bool = False) -> None:
        if now or time.monotonic() >= self._next:
            self._next = time.monotonic() + PAUSE_S
            self._longest = max(self._longest, len(text))
            print(f"\r{text.ljust(self._longest)}", end="\n" if now else "\r", file=sys.stderr, flush=True)


class ProgressBar:
    """Iterates as `iterable` does, and on rank 0 shows how much of it is done: `epoch 3 [####......] 40/100, 12.3/s, 5 s left`.

    `total`: how many there are, by default the length of `iterable`, if it has one. `note(loss=0.31)` adds to the line.
    """

    def __init__(self, iterable: Iterable[Any], total: int | None = None, text: str = ""):
        self.iterable, self.text = iterable, text
        self.total = len(iterable) if total is None and isinstance(iterable, Sized) else total
        self._notes = ""

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError("ProgressBar: expected an iterable with a length, got one without; give total")
        return self.total

    def note(self, **values: Any) -> None:
        """Show these values behind the bar."""
        self._notes = "".join(f", {k} {v:.4g}" if isinstance(v, float) else f", {k} {v}" for k, v in values.items())

    def __iter__(self) -> Iterator[Any]:
        if distributed.is_initialized() and distributed.get_rank():
            yield from self.iterable
            return
        line, began, done = _Line(), time.monotonic(), 0
        try:
            for each in self.iterable:
                yield each
                done += 1
                line.show(self._state(done, time.monotonic() - began))
        finally:
            line.show(self._state(done, time.monotonic() - began), now=True)

    def _state(self, done: int, seconds: float) -> str:
        rate = done / seconds if seconds else 0.0
        head = f"{self.text} " if self.text else ""
        if not self.total:
            return f"{head}{done}, {rate:.1f}/s{self._notes}"
        filled = min(_WIDTH, _WIDTH * done // self.total)
        left = f", {(self.total - done) / rate:.0f} s left" if rate and done < self.total else f", {seconds:.1f} s"
        return f"{head}[{'#' * filled}{'.' * (_WIDTH - filled)}] {done}/{self.total}, {rate:.1f}/s{left}{self._notes}"


class _Steps:
    """A listener of rank 0's recorder: counts the waits for gradients, of which each step has one."""

    def __init__(self) -> None:
        self._line = _Line()
        self._steps = self._waited_ns = self._began = 0

    def __call__(self, name: str, begun: int, ended: int, call: Entry | None) -> None:
        if name != WAIT or call is not None:
            return
        self._began = self._began or begun  # the first step, which sets up much, is not timed
        self._waited_ns += ended - begun if self._steps else 0
        self._steps += 1
        self._line.show(self._state(ended))

    def _state(self, now: int) -> str:
        passed_s = (now - self._began) / 1e9
        rate, waited = (self._steps - 1) / passed_s, self._waited_ns / 1e9 / passed_s
        return f"step {self._steps}, {rate:.1f} steps/s, {waited:.0%} of the time waiting for gradients"

    def end(self) -> None:
        if self._steps:
            self._line.show(self._state(time.perf_counter_ns()), now=True)


def start_if_asked(recorder: Recorder) -> _Steps | None:
    """Count steps, if the environment asks for it and this is rank 0."""
    if not os.environ.get(VARIABLE) or recorder.rank:
        return None
    steps = _Steps()
    recorder.listeners.append(steps)
    return steps
