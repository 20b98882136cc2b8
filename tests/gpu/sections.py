"""The sections of `python -m tests.gpu`: what each runs, and how it is run in a process of its own.

`python -m tests.gpu.sections NAME[,NAME…]` writes a line of JSON for each result, as soon as it is there.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from tests.gpu.report import Check, Found, Timing


class Section(NamedTuple):
    """A generator of (name, check), or of `Timing`, and how long it may take."""

    function: str
    limit_s: int
    quick_limit_s: int


SECTIONS = {  # the quick limits add up to less than ten minutes
    "who computes": Section("checks:who_computes", 120, 30),
    "kernels": Section("checks:kernels", 600, 60),
    "products": Section("checks:products", 300, 30),
    "convolutions": Section("checks:convolutions", 600, 40),
    "attention": Section("checks:attention", 300, 30),
    "recurrence": Section("steps:recurrence", 300, 20),
    "losses": Section("steps:losses", 300, 15),
    "random numbers": Section("steps:random_numbers", 300, 15),
    "optimizers": Section("steps:optimizers", 300, 25),
    "training": Section("steps:training", 600, 30),
    "graphs": Section("steps:graphs", 600, 30),
    "memory": Section("checks:memory", 120, 15),
    "ranks": Section("ranks:ranks", 300, 40),
    "devices": Section("ranks:devices", 120, 15),
    "overhead": Section("benchmarks:overhead", 300, 15),
    "benchmarks": Section("benchmarks:rows", 1800, 100),
    "op table": Section("checks:op_table", 3600, 70),
}


def results(name: str, quick: bool) -> Iterator[Check | Timing]:
    """Run a section here; a check that raises is a failed row and stops nothing."""
    module, _, function = SECTIONS[name].function.partition(":")
    for row in getattr(importlib.import_module(f"tests.gpu.{module}"), function)(quick):
        if isinstance(row, Timing):
            yield row
            continue
        title, check = row
        try:
            detail, passed = check(), True
        except pytest.skip.Exception:
            continue
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            detail, passed = f"{type(error).__name__}: {str(error)[:300]} at {at.filename}:{at.lineno}", False
        yield Check(name, title, passed, "" if detail is None else " ".join(str(detail).split()))
        gc.collect()


def in_a_process(name: str, quick: bool, rehearsed: Sequence[str] = ()) -> Found:
    """The same in a process of its own, which is killed at its time limit. `rehearsed`: "--fake", and "--plain" for no kernels."""
    section, start_s = SECTIONS[name], time.monotonic()
    limit_s = section.limit_s if rehearsed or not quick else section.quick_limit_s
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "tests.gpu.sections", name, *["--quick"] * quick, *rehearsed]
        process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True)
        try:
            code = process.wait(limit_s)
            end = "" if code == 0 else f"the process ended with status {code}"
        except subprocess.TimeoutExpired:
            end = f"not done within {limit_s} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # it and what it started
                process.wait()
        out.seek(0)
        errors.seek(0)
        checks, timings = parsed(out.read())
        if end:
            tail = " ".join(errors.read()[-600:].split())
            checks.append(Check(name, "the section as a whole", False, f"{end}; last words: {tail}"))
    return Found(name, checks, timings, time.monotonic() - start_s)


def parsed(text: str) -> tuple[list[Check], list[Timing]]:
    """What a process has written; a last line that was cut off is left out."""
    checks, timings = [], []
    for line in text.splitlines():
        try:
            kind, fields = json.loads(line)
        except ValueError:
            continue
        if kind == "check":
            checks.append(Check(*fields))
        else:
            timings.append(Timing(*fields))
    return checks, timings


def main(arguments: list[str]) -> int:
    quick = "--quick" in arguments
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no result
    if "--fake" in arguments:
        from tests.gpu import rehearsal

        rehearsal.install(kernels="--plain" not in arguments)
    for name in arguments[0].split(","):
        for row in results(name, quick):
            out.write(json.dumps(["check" if isinstance(row, Check) else "timing", row]) + "\n")
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
