"""One process of a job on one engine: `python -m tests.bench.rank ENGINE ROW [apart | in_step]`, started by a launcher; rank 0 prints the
seconds of a step. `apart`: the processes train models of their own, side by side; `in_step`: the same, with a barrier behind each step.

It runs under the peer's Python, too, so it imports nothing of ours but the rows.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

from tests.bench import rows

WARM, MEASURED_S, BLOCKS = 5, 2.0, 10  # steps; seconds of measuring, in so many blocks


def main(engine: str, row: str, how: str = "together") -> None:
    """The median over blocks is printed."""
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
    if how == "together":
        work = work._replace(model=DistributedDataParallel(work.model))
    train = work.training(torch, "float32")

    def step() -> None:
        train()
        if how == "in_step":
            dist.barrier()

    for _ in range(WARM):
        step()
    dist.barrier()
    began = time.perf_counter()
    step()
    calls = torch.tensor([max(1, int(MEASURED_S / BLOCKS / (time.perf_counter() - began)))])
    dist.broadcast(calls, 0)
    times = []
    for _ in range(BLOCKS):
        dist.barrier()
        began = time.perf_counter()
        for _ in range(int(calls)):
            step()
        times.append((time.perf_counter() - began) / int(calls))
    if dist.get_rank() == 0:
        print(json.dumps(statistics.median(times)))
    dist.barrier()  # who leaves early would break the peer's connections
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
