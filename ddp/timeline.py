"""The timeline of a training: what each rank computed, what it sent and where it waited, for chrome://tracing and Perfetto.

`ddprun --timeline out.json` (or LOCKSTEP_TIMELINE=out.json on all ranks) collects from `init_process_group` on; leaving the
process group writes `out.rank-R.json`, and the last rank to do so makes one `out.json` of them all. They stay apart where a rank
was killed, or where the hosts share no disk: `python -m ddp.timeline OUT PART …` merges what there is. In a script `start` and
`stop` do the same for a while. One lane shows the script (forward, backward, waiting for gradients, what is between steps), the
other the transport (each call, with its bucket).

Contract: without a timeline nothing is collected. All times are of rank 0's clock: the distance of another host's is measured at
the start, to about half the time of a message there and back.
Source: Trace Event Format, Google 2016 (complete events "X", metadata "M"; times in us).
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from ddp.recorder import Entry, Recorder

if TYPE_CHECKING:
    from ddp.group import ProcessGroup
    from ddp.reducer import Reducer

VARIABLE = "LOCKSTEP_TIMELINE"
WAIT = "wait for gradients"
_SCRIPT, _TRANSPORT = 0, 1  # thread numbers
_ROUNDS = 8  # of asking for the time: the quickest counts


class Timeline:
    """What one rank collects. `ahead_s` is how much its clock is ahead of rank 0's; `run` names the run, where `out` is to hold all
    ranks of it.
    """

    def __init__(self, recorder: Recorder, path: Any, ahead_s: float = 0.0, run: str = ""):
        self.recorder, self.ahead_s, self.run = recorder, ahead_s, run
        self.out = Path(path)
        self.path = _part(self.out, recorder.rank) if recorder.size > 1 else self.out
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
        zero = self.recorder.seconds(0) - self.ahead_s
        rows: list[dict[str, Any]] = [
            {"ph": "M", "name": what, "pid": rank, "tid": tid, "ts": 0, "args": {"name": name}}
            for what, tid, name in (
                ("process_name", _SCRIPT, f"rank {rank}"),
                ("thread_name", _SCRIPT, "script"),
                ("thread_name", _TRANSPORT, "transport"),
            )
        ]
        for name, begun, ended, call in self.events:
            row: dict[str, Any] = {
                "ph": "X",
                "name": name,
                "pid": rank,
                "tid": _SCRIPT if call is None else _TRANSPORT,
                "ts": zero * 1e6 + begun / 1e3,
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
        return {
            "traceEvents": rows,
            "displayTimeUnit": "ms",
            "otherData": {f"rank {rank}": self.summary()},
            "run": self.run,
        }

    def write(self) -> None:
        """This rank's file; the last rank of a run that is to have one file makes it, and says so."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _write(self.path, self.trace())
        if self.run and self.recorder.size > 1 and _merge_if_all(self.out, self.recorder.size, self.run):
            print(f"timeline of {self.recorder.size} ranks: {self.out}, for ui.perfetto.dev", file=sys.stderr)

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


def start_if_asked(group: ProcessGroup) -> Timeline | None:
    """The timeline that the environment asks for; on all ranks of the world or on none."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    if group.size == 1:
        return Timeline(group.lane.recorder, path)
    from ddp.objects import all_gather_object

    everyone: list[Any] = []
    all_gather_object(everyone, {"run": secrets.token_hex(8), "host": _host()}, group)
    elsewhere = [rank for rank, each in enumerate(everyone) if each["host"] != everyone[0]["host"]]
    return Timeline(group.lane.recorder, path, _ahead_s(group, elsewhere), everyone[0]["run"])


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
    timed = [row for row in rows if row["ph"] != "M"]
    zero = min((row["ts"] for row in timed), default=0.0)
    for row in timed:
        row["ts"] -= zero
    _write(Path(out), {"traceEvents": rows, "displayTimeUnit": "ms", "otherData": summaries})
    return summaries


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m ddp.timeline OUT PART …`: merge the files of ranks by hand."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m ddp.timeline", description="Merge the timelines of ranks.")
    parser.add_argument("out", help="the file to write")
    parser.add_argument("parts", nargs="+", metavar="out.rank-R.json", help="the files of the ranks")
    found = parser.parse_args(argv)
    try:
        print(f"{found.out}: {', '.join(merge(found.parts, found.out))}")
    except (OSError, ValueError, KeyError) as error:  # no such file, or none of ours
        parser.error(f"expected timelines of ranks: {error}")
    return 0


def watch_backward(reducer: Reducer, result: Any) -> None:
    """Note when a gradient reaches a result of the model: there its backward begins."""

    def begins(_: Any) -> None:
        if reducer.began is None:
            reducer.began = time.perf_counter_ns()

    found = result.values() if isinstance(result, dict) else result if isinstance(result, (list, tuple)) else [result]
    for t in found:
        if isinstance(t, Tensor) and t._requires_grad:
            t.register_hook(begins)


# -- one file of all ranks ---------------------------------------------------------------------------------------------


def _part(out: Path, rank: int) -> Path:
    return out.with_name(f"{out.stem}.rank-{rank}{out.suffix}")


def _write(path: Path, trace: dict[str, Any]) -> None:
    """Whole or not at all: another rank may be looking."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    half.write_text(json.dumps(trace))
    half.replace(path)


def _merge_if_all(out: Path, size: int, run: str) -> bool:
    """Make `out` of the ranks' files and remove them, if all are there, and no other rank is at it."""
    parts = [_part(out, rank) for rank in range(size)]
    if not all(part.exists() for part in parts):
        return False
    claim = out.with_name(f".{out.name}.{run}")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        if any(json.loads(part.read_text())["run"] != run for part in parts):  # an earlier run left it
            return False
        merge(parts, out)
        for part in parts:
            part.unlink()
        return True
    except FileNotFoundError:  # another rank was at it, and has ended
        return False
    finally:
        claim.unlink()


# -- one clock ---------------------------------------------------------------------------------------------------------


def _host() -> str:
    """Processes with the same one read the same clock."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _ahead_s(group: ProcessGroup, elsewhere: Sequence[int]) -> float:
    """How much this rank's clock is ahead of rank 0's; rank 0 tells each of the others the time in turn."""
    if group.rank == 0:
        for rank in elsewhere:
            for _ in range(_ROUNDS):
                group.recv(wrap(np.zeros(1)), rank, 0)
                group.send(wrap(np.array([time.time()])), rank, 0)
    if group.rank not in elsewhere:
        return 0.0
    found = []
    for _ in range(_ROUNDS):
        asked, answer = time.time(), wrap(np.zeros(1))
        group.send(wrap(np.array([asked])), 0, 0)
        group.recv(answer, 0, 0)
        now = time.time()
        found.append((now - asked, (asked + now) / 2 - float(answer._a[0])))
    return min(found)[1]


if __name__ == "__main__":
    sys.exit(main())
