"""`python -m tests.bench train|infer|ops|memory|startup [--peer torch --peer-python PATH] [--threads 1] [--rounds 5] [--only REGEX]
[--clock wall|cpu] [--dtype bfloat16]`

Ours and the peer's run in turn, each row in processes of their own with the same number of threads: other load on the machine then
meets both. With --clock cpu, which is for one thread, it is not counted at all. The ratio is peer / ours, above 1 where we are faster
(or smaller): the median over the rounds, with the least and greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from core.backend.cpu import description
from tests.bench import rows

ROOT = Path(__file__).parents[2]
KINDS = {"train": rows.TRAIN, "infer": rows.TRAIN, "ops": rows.OPS, "memory": rows.TRAIN, "startup": ["import"]}
LIMIT_S = 300  # of one process


def measured(python: str, engine: str, kind: str, row: str, threads: int, clock: str, dtype: str) -> dict[str, Any]:
    """What a child process found."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    command = [python, "-m", "tests.bench.child", engine, kind, row, str(threads), clock, dtype]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **counts}, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {LIMIT_S} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def line(row: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """A row of the table."""
    unit, text = ("bytes", lambda v: f"{v / 2**20:.1f} MiB") if "bytes" in ours[0] else ("seconds", _duration)
    cells = [row]
    for found in (ours, theirs):
        bad = next((f for f in found if unit not in f), None)
        cells.append(
            "" if not found else f"{next(iter(bad))}: {next(iter(bad.values()))}" if bad else text(_median(found, unit))
        )
    ratios = [t[unit] / o[unit] for o, t in zip(ours, theirs) if unit in o and unit in t and o[unit]]
    cells += [f"**{statistics.median(ratios):.2f}**", f"{min(ratios):.2f} to {max(ratios):.2f}"] if ratios else ["", ""]
    return f"| {' | '.join(cells)} |"


def _median(found: list[dict[str, Any]], unit: str) -> float:
    return statistics.median(f[unit] for f in found)


def _duration(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.1f} µs"
        if seconds < 1e-3
        else f"{seconds * 1e3:.2f} ms"
        if seconds < 1
        else f"{seconds:.2f} s"
    )


def chip() -> str:
    """The processor's name, as Linux gives it."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def version(python: str, engine: str) -> str:
    code = f"import {engine}; print({engine}.__version__)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() or "not found"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--peer", choices=["torch"], help="the other engine")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="time that passes, or that the process computes"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="bfloat16: under autocast (train, infer, memory)",
    )
    parser.add_argument("--only", default="", help="a regular expression: rows whose names it finds")
    args = parser.parse_args()

    names = [n for n in KINDS[args.kind] if re.search(args.only, n)]
    if not names:
        parser.error(f"--only: expected a pattern that finds one of {', '.join(KINDS[args.kind])}, got {args.only!r}")
    who = description()
    peer = f"{args.peer} {version(args.peer_python, args.peer)}" if args.peer else "no peer"
    ours_is = f"{version(sys.executable, 'core')}, NumPy {who['numpy']}, {who['blas']}, oneDNN {who['onednn']}"
    print(
        f"{chip()}, {args.threads} thread(s), {args.clock} time, {args.rounds} rounds, {args.dtype}; ours: {ours_is}; peer: {peer}\n"
    )
    print(f"| {args.kind} | ours | {args.peer or 'peer'} | peer / ours | spread |\n|---|---|---|---|---|", flush=True)
    for name in names:
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(measured(sys.executable, "core", args.kind, name, args.threads, args.clock, args.dtype))
            if args.peer:
                theirs.append(
                    measured(args.peer_python, args.peer, args.kind, name, args.threads, args.clock, args.dtype)
                )
            if "seconds" not in ours[-1] and "bytes" not in ours[-1]:
                break
        print(line(name, ours, theirs), flush=True)


if __name__ == "__main__":
    main()
