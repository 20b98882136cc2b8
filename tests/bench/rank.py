"""One process of a job on one engine: `python -m tests.bench.rank ENGINE ROW [apart | in_step]`, started by a launcher; rank 0 prints the
seconds of a step. `apart`: the processes train models of their own, side by side. `in_step`: it prints how long a step takes that exchanges
nothing and ends with a barrier, by one that exchanges gradients; the two take turns.

It runs under the peer's Python, too, so it imports nothing of ours but the rows.
"""

from __future__ import annotations

import json
import operator
import statistics
import sys
import time
from collections.abc import Callable

from tests.bench import rows

WARM, MEASURED_S, BLOCKS = 5, 2.0, 10  # steps; seconds of measuring, in so many blocks


def timed(step: Callable[[], object], times: int) -> float:
    """Seconds of one of so many steps."""
    began = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - began) / times


def main(engine: str, row: str, how: str = "together") -> None:
    """The median is printed."""
    if engine == "core":
        import core as torch
        import ddp as dist
        from ddp import DistributedDataParallel
    else:
        import torch  # type: ignore[no-redef]
        import torch.distributed as dist  # type: ignore[no-redef]
        from torch.nn.parallel import DistributedDataParallel  # type: ignore[no-redef]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    work = rows.TRAIN[row](torch)
    if how != "apart":
        work = work._replace(model=DistributedDataParallel(work.model))
    step = work.training(torch, "float32")

    def waits() -> None:
        with work.model.no_sync():
            step()
        dist.barrier()

    for _ in range(WARM):
        step()
    dist.barrier()
    count = torch.tensor([max(1, int(MEASURED_S / BLOCKS / timed(step, 1)))])
    dist.broadcast(count, 0)
    if how == "in_step":
        turns = [(timed(waits, 1), timed(step, 1)) for _ in range(BLOCKS * int(count))]
        found = operator.truediv(*(statistics.median(column) for column in zip(*turns)))
    else:
        times = []
        for _ in range(BLOCKS):
            dist.barrier()
            times.append(timed(step, int(count)))
        found = statistics.median(times)
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.barrier()  # who leaves early would break the peer's connections
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
