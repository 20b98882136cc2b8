"""What it takes to start a job: `python -m tests.bench.starting [--ranks 2 8 32 64] [--rounds 3]`

Each job starts by ddprun on this host, all-reduces 1000 numbers and ends. Processor seconds are those of ddprun and all ranks, the
least of the rounds; the seconds until the end are of the same round.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests import jobs
from tests.bench.distributed import SINGLE

LIMIT_S = 300
PROGRAM = """
import core, ddp
ddp.init_process_group()
numbers = core.ones(1000)
ddp.all_reduce(numbers)
assert numbers.sum().item() == 1000 * ddp.get_world_size()
ddp.destroy_process_group()
"""


def started(ranks: int, program: str) -> tuple[float, float]:
    """Processor seconds of a job, and how long it took."""
    before, began = _spent_s(), time.perf_counter()
    command = [sys.executable, "-m", "launch", "-n", str(ranks), program]
    jobs.run(command, timeout_s=LIMIT_S, env={**os.environ, **SINGLE})
    return _spent_s() - before, time.perf_counter() - began


def _spent_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.starting", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| ranks | processor seconds | of each rank | seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"
        program.write_text(PROGRAM)
        for ranks in args.ranks:
            cpu_s, wall_s = min(started(ranks, str(program)) for _ in range(args.rounds))
            print(f"| {ranks} | {cpu_s:.2f} | {cpu_s / ranks:.3f} | {wall_s:.1f} |", flush=True)


if __name__ == "__main__":
    main()
