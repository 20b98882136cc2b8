"""A training step of many processes, against PyTorch's DistributedDataParallel over Gloo:

    python -m tests.bench.distributed [--ranks 2] [--peer-python PATH] [--rounds 3] [--only REGEX]

One thread a process. Ours alone, ours apart, ours together and the peer together run in turn, whole jobs each. `apart`: as many
processes side by side that exchange nothing. `efficiency` is our time alone by our time together: each process has the batch of the row,
so 1 is perfect. What processes lose that share caches, a memory bus and a clock shows in `apart`. `in step`: the time of a step that
exchanges nothing and ends with a barrier, by that of one that exchanges gradients, in turn in one job: what is missing to 1 is all that
a faster exchange could gain.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
from typing import Any

from tests.bench import rows
from tests.bench.__main__ import LIMIT_S, ROOT, _duration, chip, version
from tests.jobs import free_port

ROWS = ("MLP 784", "ResNet-18", "GPT 4")
SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def ours(ranks: int, row: str, how: str = "together") -> float:
    """Seconds of a step of a job of ours; with `in_step` a ratio."""
    command = [sys.executable, "-m", "launch", "-n", str(ranks), "-m", "tests.bench.rank"]
    done = subprocess.run(
        [*command, "core", row, how],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, **SINGLE}, timeout=LIMIT_S,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return float(re.findall(r"[\d.e-]+$", done.stdout.strip())[-1])


def theirs(python: str, ranks: int, row: str) -> float:
    """Seconds of a step of a job of the peer's, started as its own launcher would."""
    world = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [python, "-m", "tests.bench.rank", "torch", row]
    jobs = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **SINGLE, **world, "RANK": str(r)}, text=True,
            stdout=subprocess.PIPE,
        )
        for r in range(ranks)
    ]  # fmt: skip
    printed = [job.communicate(timeout=LIMIT_S)[0] for job in jobs]
    assert not any(job.returncode for job in jobs), f"the peer ended with {[job.returncode for job in jobs]}"
    return float(printed[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.distributed", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--peer-python", default="", help="a Python that has PyTorch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="a regular expression: rows whose names it finds")
    args = parser.parse_args()
    peer = f"torch {version(args.peer_python, 'torch')}, Gloo" if args.peer_python else "no peer"
    print(f"{chip()}, {args.ranks} processes of one thread, {args.rounds} rounds; peer: {peer}\n")
    columns = ("step", "alone", "apart", "together", "efficiency", "in step", "peer", "peer / ours")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    ratios = []
    for name in (n for n in rows.TRAIN if n.startswith(ROWS) and re.search(args.only, n)):
        found: list[tuple[Any, ...]] = []
        for _ in range(args.rounds):
            peers = theirs(args.peer_python, args.ranks, name) if args.peer_python else float("nan")
            jobs = (ours(args.ranks, name, how) for how in ("apart", "together", "in_step"))
            found.append((ours(1, name), *jobs, peers))
        efficiency, ratio = (statistics.median(row[i] / row[2] for row in found) for i in (0, 4))
        ratios.append(ratio)
        alone, apart, together, in_step, peers = (statistics.median(column) for column in zip(*found))
        times = (_duration(seconds) for seconds in (alone, apart, together))
        cells = [name, *times, f"{efficiency:.2f}", f"{in_step:.2f}", _duration(peers), f"**{ratio:.2f}**"]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\ngeometric mean of peer / ours: {statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
