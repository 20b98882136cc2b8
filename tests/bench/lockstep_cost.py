"""What Lockstep costs without failures, against DistributedDataParallel at the same batch for each worker.

    ddprun -n 2 tests/bench/lockstep_cost.py [--shards 16] [--batch 64] [--width 32] [--clock cpu]

V is the number of workers unless --shards says otherwise. Both shuffle: one by a DataLoader with a DistributedSampler, the other by
itself. The two are measured in turns, block by block, in one job. `--clock cpu` takes
the processor time of rank 0 instead of the wall's, for a host that others use, too: what waiting costs is not in it.
"""

import argparse
import itertools
import statistics
import time

import numpy as np

import core
import core.nn as nn
import core.nn.functional as F
import ddp
from core.utils.data import DataLoader, TensorDataset


def network(width):
    core.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * width, 256), nn.ReLU(), nn.Linear(256, 10),
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64, help="for each worker")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    ddp.init_process_group()
    rank, size = ddp.get_rank(), ddp.get_world_size()
    core.set_num_threads(1)
    rng = np.random.default_rng(0)
    n = 8 * args.batch * size
    data = TensorDataset(
        core.tensor(rng.standard_normal((n, 3, 16, 16)).astype(np.float32)), core.tensor(rng.integers(0, 10, n))
    )

    plain = ddp.DistributedDataParallel(network(args.width))
    optimizer = core.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
    sampler = ddp.DistributedSampler(data)
    loader = DataLoader(data, batch_size=args.batch, sampler=sampler)

    def batches():
        for epoch in itertools.count():
            sampler.set_epoch(epoch)
            yield from loader

    ahead = batches()

    def plain_steps(count):
        for x, y in itertools.islice(ahead, count):
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            optimizer.step()

    model = network(args.width)
    run = ddp.Lockstep(
        model, core.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), data, shards=args.shards or size,
        batch_size=args.batch * size, digest_every=0,
    )  # fmt: skip
    loss = lambda shard: F.cross_entropy(model(shard.x), shard.y)

    def lockstep_steps(count):
        for _ in run.steps(loss, run.step + count):
            pass

    times = {plain_steps: [], lockstep_steps: []}
    for block in range(args.blocks + 1):
        for each in times:
            ddp.barrier()
            began = clock()
            each(8)  # an epoch
            if block:  # the first warms up
                times[each].append((clock() - began) / 8)
    if rank == 0:
        a, b = (statistics.median(found) for found in times.values())
        ratio = statistics.median(q / p for p, q in zip(*times.values()))
        what = f"W={size} V={args.shards or size} batch {args.batch} a worker"
        print(
            f"{what}: DDP {a * 1e3:.1f} ms, Lockstep {b * 1e3:.1f} ms a step by the {args.clock} clock, {ratio:.2f} times"
        )


if __name__ == "__main__":
    main()
