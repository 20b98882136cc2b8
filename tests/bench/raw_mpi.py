"""The MPI backend's all-reduce against mpi4py's own, which take turns in the same processes, on the same memory:

    python -m tests.bench.raw_mpi [--ranks 2] [--turns 15] [--no-shared-memory]

Ranks of one host reduce in shared memory; without it, as between hosts, ours is MPI's own all-reduce behind an agreement on the call.
`beyond raw` is what a call of ours takes more; `raw / ours` the median over the turns, with the quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tests import jobs

KB = 1 << 10
SIZES = (4 * KB, 64 * KB, 256 * KB, 1024 * KB, 4096 * KB, 16384 * KB, 65536 * KB)
TURN_BYTES = 100_000_000  # about what a turn moves
LIMIT_S = 300


def rank(turns: int) -> None:
    """One process of the job; rank 0 prints."""
    from mpi4py import MPI

    import core
    import ddp

    core.set_num_threads(1)
    ddp.init_process_group("mpi")
    world: Any = MPI.COMM_WORLD
    for nbytes in SIZES:
        x = core.zeros(nbytes // 4)
        raw, ours = partial(world.Allreduce, MPI.IN_PLACE, x.numpy()), partial(ddp.all_reduce, x)
        calls = max(3, min(400, TURN_BYTES // nbytes))
        for _ in range(3):
            _seconds(raw, 3, world), _seconds(ours, 3, world)
        found = [(_seconds(raw, calls, world), _seconds(ours, calls, world)) for _ in range(turns)]
        if world.rank == 0:
            low, middle, high = statistics.quantiles(r / o for r, o in found)
            times = [1e6 * statistics.median(column) for column in (*zip(*found), [o - r for r, o in found])]
            shown = " | ".join(f"{t:.1f} µs" for t in times)
            print(f"| {nbytes // KB} KB | {shown} | **{middle:.2f}** | {low:.2f} to {high:.2f} |", flush=True)
    ddp.destroy_process_group()


def _seconds(call: Callable[[], object], calls: int, world: Any) -> float:
    world.Barrier()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.raw_mpi", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--no-shared-memory", action="store_true")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        return rank(args.turns)
    words = ["-m", "tests.bench.raw_mpi", "--rank", "--turns", str(args.turns)]
    env = jobs.environment() | ({"LOCKSTEP_SHARED_MEMORY": "0"} if args.no_shared_memory else {})
    done = jobs.run([*jobs.LAUNCHERS["mpiexec"](args.ranks), *words], timeout_s=LIMIT_S, cwd=jobs.ROOT, env=env)
    print("| size | raw | ours | beyond raw | raw / ours | quartiles |\n|---|---|---|---|---|---|")
    sys.stdout.write(done.stdout)


if __name__ == "__main__":
    main()
