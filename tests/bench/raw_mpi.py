"""The MPI backend's collectives against mpi4py's own, which take turns in the same processes, on the same memory:

    python -m tests.bench.raw_mpi [--op all_reduce] [--ranks 2] [--turns 15] [--no-shared-memory]

Ranks of one host meet in shared memory; without it, as between hosts, ours is MPI's own collective behind an agreement on the call. A size
is that of one rank's block: of what goes from one rank to one other.
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
OPS = ("all_reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all", "gather", "scatter")


def calls(op: str, count: int, mpi: Any, ddp: Any, core: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """The raw call and ours, of blocks of `count` float32."""
    world = mpi.COMM_WORLD
    block, blocks = core.zeros(count), core.zeros(world.size * count)
    if op == "all_reduce":
        return partial(world.Allreduce, mpi.IN_PLACE, block.numpy()), partial(ddp.all_reduce, block)
    if op == "broadcast":
        return partial(world.Bcast, block.numpy()), partial(ddp.broadcast, block, 0)
    if op == "all_gather":
        raw, ours = world.Allgather, ddp.all_gather_into_tensor
        return partial(raw, block.numpy(), blocks.numpy()), partial(ours, blocks, block)
    if op == "reduce_scatter":
        raw, ours = world.Reduce_scatter_block, ddp.reduce_scatter_tensor
        return partial(raw, blocks.numpy(), block.numpy()), partial(ours, block, blocks)
    if op == "all_to_all":
        there = core.zeros(world.size * count)
        return partial(world.Alltoall, blocks.numpy(), there.numpy()), partial(ddp.all_to_all_single, there, blocks)
    at_root = list(blocks.view(world.size, count)) if world.rank == 0 else None
    whole = blocks.numpy() if world.rank == 0 else None
    if op == "gather":
        return partial(world.Gather, block.numpy(), whole), partial(ddp.gather, block, at_root, 0)
    return partial(world.Scatter, whole, block.numpy()), partial(ddp.scatter, block, at_root, 0)


def rank(op: str, turns: int) -> None:
    """One process of the job; rank 0 prints."""
    from mpi4py import MPI

    import core
    import ddp

    core.set_num_threads(1)
    ddp.init_process_group("mpi")
    world: Any = MPI.COMM_WORLD
    for nbytes in SIZES:
        raw, ours = calls(op, nbytes // 4, MPI, ddp, core)
        times = max(3, min(400, TURN_BYTES // nbytes))
        for _ in range(3):
            _seconds(raw, 3, world), _seconds(ours, 3, world)
        found = [(_seconds(raw, times, world), _seconds(ours, times, world)) for _ in range(turns)]
        if world.rank == 0:
            low, middle, high = statistics.quantiles(r / o for r, o in found)
            columns = (*zip(*found), [o - r for r, o in found])
            shown = " | ".join(f"{1e6 * statistics.median(column):.1f} µs" for column in columns)
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
    parser.add_argument("--op", choices=OPS, default="all_reduce")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--no-shared-memory", action="store_true")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        return rank(args.op, args.turns)
    words = ["-m", "tests.bench.raw_mpi", "--rank", "--op", args.op, "--turns", str(args.turns)]
    env = jobs.environment() | ({"LOCKSTEP_SHARED_MEMORY": "0"} if args.no_shared_memory else {})
    done = jobs.run([*jobs.LAUNCHERS["mpiexec"](args.ranks), *words], timeout_s=LIMIT_S, cwd=jobs.ROOT, env=env)
    print("| size | raw | ours | beyond raw | raw / ours | quartiles |\n|---|---|---|---|---|---|")
    sys.stdout.write(done.stdout)


if __name__ == "__main__":
    main()
