"""The timeline of a training: what each rank computed, what it sent and where it waited, for chrome://tracing and Perfetto.

`LOCKSTEP_TIMELINE=out.json`, or `start("out.json")`, begins to collect in this process; `stop`, or leaving the process
group, writes `out.rank-R.json` (`out.json` in a world of one). `merge` makes one file of all. One lane shows the script
(forward, backward, waiting for gradients, what is between steps), the other the transport (each call, with its bucket).

Contract: without a timeline nothing is collected. Clocks of several hosts are taken as they are.
Source: Trace Event Format, Google 2016 (complete events "X", metadata "M"; times in us).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core._tensor import Tensor
from core.errors import ArgumentError
from ddp.recorder import Entry, Recorder

if TYPE_CHECKING:
    from ddp.reducer import Reducer

VARIABLE = "LOCKSTEP_TIMELINE"
WAIT = "wait for gradients"
_SCRIPT, _TRANSPORT = 0, 1  # thread numbers


class Timeline:
    """What one rank collects."""

    def __init__(self, recorder: Recorder, path: Any):
        self.recorder = recorder
        path = Path(path)
        self.path = path if recorder.size == 1 else path.with_name(f"{path.stem}.rank-{recorder.rank}{path.suffix}")
        self.events: list[tuple[str, int, int, Entry | None]] = []
        recorder.listeners.append(self._seen)

    def _seen(self, name: str, begun: int, ended: int, call: Entry | None) -> None:
        self.events.append((name, begun, ended, call))

    def summary(self) -> dict[str, Any]:
        """Seconds in each kind of span, and `hidden`: the share of the gradients' communication during which the script did not
        wait for it; None if there was none.
        """
        spans: dict[str, float] = {}
        for name, begun, ended, call in self.events:
            if call is None:
                spans[name] = spans.get(name, 0.0) + (ended - begun) / 1e9
        calls = [(b, e) for _, b, e, call in self.events if call is not None and call.about is not None]
        waits = sorted((b, e) for name, b, e, call in self.events if call is None and name == WAIT)
        total = sum(e - b for b, e in calls)
        exposed, first = 0, 0
        for begun, ended in sorted(calls):
            while first < len(waits) and waits[first][1] <= begun:
                first += 1
            for w in waits[first:]:
                if w[0] >= ended:
                    break
                exposed += min(ended, w[1]) - max(begun, w[0])
        return {**spans, "communication": total / 1e9, "hidden": (total - exposed) / total if total else None}

    def trace(self) -> dict[str, Any]:
        """The file's content."""
        rank = self.recorder.rank
        rows: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}},
            {"ph": "M", "name": "thread_name", "pid": rank, "tid": _SCRIPT, "args": {"name": "script"}},
            {"ph": "M", "name": "thread_name", "pid": rank, "tid": _TRANSPORT, "args": {"name": "transport"}},
        ]
        for name, begun, ended, call in self.events:
            row: dict[str, Any] = {
                "ph": "X",
                "name": name,
                "pid": rank,
                "tid": _SCRIPT if call is None else _TRANSPORT,
                "ts": self.recorder.seconds(begun) * 1e6,
                "dur": (ended - begun) / 1e3,
            }
            if call is not None:
                about = call.about() if call.about else ""
                row["args"] = {
                    "number": call.number, "dtype": call.dtype, "count": call.count, "detail": call.detail, "step": call.step,
                    "about": about, "queued_us": (call.begun - call.made) / 1e3,
                }  # fmt: skip
                if about:
                    row["name"] = f"{name} {about.split(' (')[0]}"
            rows.append(row)
        return {"traceEvents": rows, "displayTimeUnit": "ms", "otherData": {f"rank {rank}": self.summary()}}

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.trace()))

    def end(self) -> None:
        """Collect no more."""
        if self._seen in self.recorder.listeners:
            self.recorder.listeners.remove(self._seen)


def start(path: Any, group: Any = None) -> Timeline:
    """Begin to collect on this rank, for the file `path`."""
    from ddp import distributed

    lane = distributed._group(group).lane
    if lane.timeline is not None:
        raise ArgumentError(
            f"timeline: expected no timeline to be under way, got one for {lane.timeline.path}; call stop() first"
        )
    lane.timeline = Timeline(lane.recorder, path)
    return lane.timeline


def start_if_asked(recorder: Recorder) -> Timeline | None:
    """The timeline that the environment asks for."""
    path = os.environ.get(VARIABLE)
    return Timeline(recorder, path) if path else None


def stop(group: Any = None) -> dict[str, Any]:
    """Write this rank's file. Returns the summary."""
    from ddp import distributed

    lane = distributed._group(group).lane
    timeline, lane.timeline = lane.timeline, None
    if timeline is None:
        raise ArgumentError("timeline: expected start() before stop(), got no timeline")
    timeline.end()
    timeline.write()
    return timeline.summary()


def merge(paths: Iterable[Any], out: Any) -> dict[str, Any]:
    """One file `out` of the files of all ranks. Returns the summaries by rank."""
    rows: list[Any] = []
    summaries: dict[str, Any] = {}
    for path in map(Path, paths):
        trace = json.loads(path.read_text())
        rows += trace["traceEvents"]
        summaries |= trace["otherData"]
    if not rows:
        raise ArgumentError("timeline.merge: expected files of ranks, got none")
    zero = min((row["ts"] for row in rows if "ts" in row), default=0.0)
    for row in rows:
        if "ts" in row:
            row["ts"] -= zero
    Path(out).write_text(json.dumps({"traceEvents": rows, "displayTimeUnit": "ms", "otherData": summaries}))
    return summaries


def watch_backward(reducer: Reducer, result: Any) -> None:
    """Note when a gradient reaches a result of the model: there its backward begins."""

    def begins(_: Any) -> None:
        if reducer.began is None:
            reducer.began = time.perf_counter_ns()

    found = result.values() if isinstance(result, dict) else result if isinstance(result, (list, tuple)) else [result]
    for t in found:
        if isinstance(t, Tensor) and t._requires_grad:
            t.register_hook(begins)
