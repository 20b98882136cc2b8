"""The flight recorder: what each rank did last, to be read when the job has failed.

Every call of a process group leaves a line in a ring of the last `LOCKSTEP_RECORD_CALLS` (2000) calls of its rank: name,
sizes, when it was made, begun and ended, from which line of the script, in which step and for which parameters. When a
call fails, or the rank itself ends by an exception, the ring is written to `$LOCKSTEP_RECORD_DIR/rank-R.json`, if that
is set; `dump` writes it at any time. A rank that is ended by SIGTERM, as ddprun does with those that hang, leaves there
in `rank-R.stack` in which lines its threads were. `ddp.doctor` reads the files of all ranks together.

Contract: recording costs less than 2 us a call, and nothing that goes wrong in writing a file reaches the caller. The
file says what its fields mean and how many older calls were overwritten. Not here: judging (`ddp.doctor`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

from core.errors import ArgumentError
from ddp.errors import DDPError

FORMAT, VERSION = "lockstep flight record", 1
DIRECTORY_VARIABLE = "LOCKSTEP_RECORD_DIR"
_CALLS_VARIABLE = "LOCKSTEP_RECORD_CALLS"

MEANING = {
    "rank": "the rank that wrote this file, of `size`",
    "reason": "why the file was written",
    "culprit": "the rank that the error names, null if it names none",
    "overwritten": "how many older calls the ring no longer holds",
    "groups": "ranks of each process group by its number; 0 is the world",
    "calls": "oldest first; ranks of a group must agree in name, dtype, count and detail of the same number",
    "calls[].number": "place in the group's sequence, from 1; the tag of a send or recv; null while queued",
    "calls[].state": "queued, running, done or failed",
    "calls[].made": "when the script made the call; seconds since 1970, as are begun and ended; null if not yet",
    "calls[].site": "line of the script, file:line in function",
    "calls[].step": "how many synchronised backwards of DistributedDataParallel had begun",
    "calls[].about": "the bucket and the parameters that the call was for, null if none",
}


class Entry:
    """One call."""

    __slots__ = (
        "about", "begun", "code", "count", "detail", "dtype", "ended", "error", "group", "line", "made", "name", "number", "step",
    )  # fmt: skip

    name: str
    dtype: str
    count: int
    detail: str
    group: int
    number: int | None
    made: int  # these three in ns of the clock `time.perf_counter_ns`
    begun: int
    ended: int
    error: str | None
    code: CodeType | None
    line: int
    step: int
    about: Callable[[], str] | None

    @property
    def state(self) -> str:
        if self.error is not None:
            return "failed"
        return "done" if self.ended else "running" if self.begun else "queued"


class Recorder:
    """The ring of one rank. `about` and `step` are set by whoever knows, and go into the calls made meanwhile."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self.groups: dict[int, list[int]] = {}
        self.about: Callable[[], str] | None = None
        self.step = 0
        self.made = 0  # calls so far
        # told of each call that has ended, and of each span: (name, begun, ended, the call if it is one)
        self.listeners: list[Callable[[str, int, int, Entry | None], None]] = []
        self._ring: deque[Entry] = deque(maxlen=_calls_kept())
        self._written = threading.Lock()  # taken by the first failure, whose file stays
        self._stack: Any = None  # the file that SIGTERM writes to
        # what turns the clock of the entries into seconds since 1970
        self._zero = time.time() - time.perf_counter_ns() / 1e9

    # -- as calls go by ----------------------------------------------------------------------------------------------

    def call(self, name: str, dtype: str, count: int, detail: str, group: int) -> Entry:
        """A call was made."""
        e = Entry()
        e.name, e.dtype, e.count, e.detail, e.group = name, dtype, count, detail, group
        e.number, e.begun, e.ended, e.error = None, 0, 0, None
        e.step, e.about = self.step, self.about
        e.code, e.line = _site()
        self.made += 1
        self._ring.append(e)
        e.made = time.perf_counter_ns()
        return e

    def begins(self, e: Entry, number: int) -> None:
        """It is its turn."""
        e.number, e.begun = number, time.perf_counter_ns()

    def ends(self, e: Entry) -> None:
        """It has ended well."""
        e.ended = time.perf_counter_ns()
        for listener in self.listeners:
            listener(e.name, e.begun, e.ended, e)

    def span(self, name: str, begun: int, ended: int | None = None) -> None:
        """Something other than a call has ended, now or at `ended`; for listeners only."""
        for listener in self.listeners:
            listener(name, begun, ended or time.perf_counter_ns(), None)

    def fails(self, e: Entry, error: BaseException) -> None:
        """It has raised."""
        e.ended = time.perf_counter_ns()
        e.error = f"{type(error).__name__}: {error}"
        if isinstance(error, DDPError):  # others are mistakes that the script may mend
            self.write_on_failure(e.error, getattr(error, "rank", None))

    # -- out -----------------------------------------------------------------------------------------------------------

    def seconds(self, ns: int) -> float:
        """A time of an entry as seconds since 1970."""
        return self._zero + ns / 1e9

    def snapshot(self, reason: str, culprit: int | None = None) -> dict[str, Any]:
        """What a file holds."""
        calls = [self._row(e) for e in list(self._ring)]
        return {
            "format": FORMAT,
            "version": VERSION,
            "meaning": MEANING,
            "rank": self.rank,
            "size": self.size,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": os.environ.get("LOCKSTEP_JOB", ""),
            "written": time.time(),
            "reason": reason,
            "culprit": culprit,
            "step": self.step,
            "overwritten": self.made - len(calls),
            "groups": {str(number): ranks for number, ranks in self.groups.items()},
            "calls": calls,
        }

    def write(self, path: Any, reason: str, culprit: int | None = None) -> None:
        """Write the file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self.snapshot(reason, culprit), indent=1))
        temporary.replace(path)

    def watch_sigterm(self) -> None:
        """From here on SIGTERM first writes the lines in which this process is, if a directory is named. For the main thread."""
        folder = os.environ.get(DIRECTORY_VARIABLE)
        if not folder or threading.current_thread() is not threading.main_thread():
            return
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._stack = open(Path(folder) / f"rank-{self.rank}.stack", "w")  # open until `end`
        except OSError as e:
            print(f"rank {self.rank}: flight recorder: could not write to {folder}: {e}", file=sys.stderr)
            return
        faulthandler.register(signal.SIGTERM, self._stack, all_threads=True, chain=True)
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        """In a child that was forked: its end is not the rank's."""
        if self._stack is not None:
            faulthandler.unregister(signal.SIGTERM)

    def end(self) -> None:
        """Nothing is left to be watched."""
        if self._stack is not None:
            faulthandler.unregister(signal.SIGTERM)
            self._stack.close()
            with contextlib.suppress(OSError):
                os.unlink(self._stack.name)
            self._stack = None

    def write_on_failure(self, reason: str, culprit: int | None) -> None:
        """Write this rank's file once, if a directory is named. Failing here must not hide the failure itself."""
        folder = os.environ.get(DIRECTORY_VARIABLE)
        if not folder or not self._written.acquire(blocking=False):
            return
        try:
            self.write(Path(folder) / f"rank-{self.rank}.json", reason, culprit)
        except OSError as e:
            print(f"rank {self.rank}: flight recorder: could not write to {folder}: {e}", file=sys.stderr)

    def _row(self, e: Entry) -> dict[str, Any]:
        return {
            "name": e.name,
            "number": e.number,
            "group": e.group,
            "dtype": e.dtype,
            "count": e.count,
            "detail": e.detail,
            "state": e.state,
            "made": self.seconds(e.made),
            "begun": self.seconds(e.begun) if e.begun else None,
            "ended": self.seconds(e.ended) if e.ended else None,
            "site": f"{e.code.co_filename}:{e.line} in {e.code.co_name}" if e.code else None,
            "step": e.step,
            "about": e.about() if e.about else None,
            "error": e.error,
        }


def dump(path: Any = None, group: Any = None) -> str:
    """Write this rank's record now, by default where a failure would. Returns the path; `{rank}` in it is the rank."""
    from ddp import distributed

    recorder = distributed._group(group).lane.recorder
    if path is None:
        path = Path(os.environ.get(DIRECTORY_VARIABLE) or ".") / "rank-{rank}.json"
    path = str(path).replace("{rank}", str(recorder.rank))
    recorder.write(path, "asked for")
    return path


def _calls_kept() -> int:
    text = os.environ.get(_CALLS_VARIABLE) or "2000"
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentError(
            f"flight recorder: expected a number of calls to keep, got {_CALLS_VARIABLE}={text!r}; mend or unset it"
        )
    return int(text)


_ROOT = str(Path(__file__).parent.parent) + os.sep
OURS = (_ROOT + "ddp" + os.sep, _ROOT + "core" + os.sep)
_our_files: set[str] = set()  # those met so far


def _site() -> tuple[CodeType | None, int]:
    """The line outside of our packages from which a call was made. Code and number only: a frame would keep its values."""
    frame: Any = sys._getframe(3)
    while frame is not None:
        code = frame.f_code
        file = code.co_filename
        if file not in _our_files:
            if not file.startswith(OURS):
                return code, frame.f_lineno
            _our_files.add(file)
        frame = frame.f_back
    return None, 0
