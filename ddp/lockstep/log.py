"""The log of a run: a line of JSON for each step, written once, by whoever leads.

    {"lockstep": 1, "shards": 16, …, "fingerprint": {…}}            the first line
    {"step": 1, "epoch": 0, "loss": 2.302, "digest": "9f…", …}      and so on; `digest` and `parameters` every k steps

Contract: lines come in the order of the steps, each once, through redone steps and changes of the leader: a leader first looks which
step is the last in the file. A new run with the same path starts the file over, a resumed one goes on. `ddp.verify` compares two logs.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import deque
from typing import Any


class Log:
    def __init__(self, path: str | os.PathLike[str], head: dict[str, Any]):
        self._path, self._head = path, head
        self._recent: deque[dict[str, Any]] = deque(maxlen=2)  # a leader may have died before it wrote the last one

    def add(self, record: dict[str, Any], write: bool) -> None:
        """A step is done; `write` on the member that leads."""
        self._recent.append(record)
        if write:
            self._write(anew=record["step"] == 1)

    def finish(self) -> None:
        """The run is over: add what is missing because the leader died with the last step. On its host; elsewhere there is no file."""
        if self._recent and os.path.exists(self._path):
            self._write(anew=False)

    def _write(self, anew: bool) -> None:
        with open(self._path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if anew:
                file.truncate(0)
            last = _last_step(file)
            lines = [{"lockstep": 1, **self._head}] if last is None else []
            lines += [each for each in self._recent if each["step"] > (last or 0)]
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The first line, and the others by step."""
    with open(path, encoding="utf-8") as file:
        head, *steps = [json.loads(line) for line in file if line.endswith("\n")]
    return head, {step["step"]: step for step in steps}


def _last_step(file: Any) -> int | None:
    """The last step in the file, after cutting off half a line; 0 if there is only the first line, None if not even that."""
    end = file.seek(0, os.SEEK_END)
    start, tail = end, b""
    while start and tail.count(b"\n") < 2:
        start = max(0, start - 4096)
        file.seek(start)
        tail = file.read(end - start)
    whole = tail.rfind(b"\n") + 1
    file.truncate(start + whole)
    lines = tail[:whole].splitlines()
    return json.loads(lines[-1]).get("step", 0) if lines else None
