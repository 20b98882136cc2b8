"""Trains a small ConvNet for some steps and saves the parameters: started on any number of ranks it must give the same ones.

    train.py OUT DTYPE
"""

import sys

import numpy as np

import core
import core.nn as nn
import ddp

STEPS, BATCH = 6, 24


def train(dtype):
    """The parameters after STEPS steps on batches of BATCH, each rank on its part."""
    rng = np.random.default_rng(0)
    images, classes = rng.standard_normal((STEPS, BATCH, 1, 8, 8)), rng.integers(0, 10, (STEPS, BATCH))
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 10)
    ).to(dtype)
    for i, p in enumerate(net.parameters()):
        p.data = core.tensor(np.random.default_rng(i).standard_normal(p.shape) * 0.2, dtype=dtype)
    model = ddp.DistributedDataParallel(net, bucket_cap_mb=0.002)  # several buckets
    optimizer = core.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mine = slice(ddp.get_rank(), None, ddp.get_world_size())
    for x, y in zip(images, classes):
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(core.tensor(x[mine], dtype=dtype)), core.tensor(y[mine])).backward()
        optimizer.step()
    return [p.detach().numpy() for p in net.parameters()]


def main():
    out, dtype = sys.argv[1:]
    ddp.init_process_group(timeout=60)
    params = train(getattr(core, dtype))
    if ddp.get_rank() == 0:
        np.savez(out, *params)
    ddp.destroy_process_group()


if __name__ == "__main__":
    main()
