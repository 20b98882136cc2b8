"""The models of the Lockstep tests, alone or as a worker of a job:  lockstep_models.py NAME STEPS SHARDS [--save PATH EVERY]

NAME is convnet (BatchNorm, dropout, Adam), syncnet (the same with SyncBatchNorm) or gpt (attention, AdamW, clipping, warm-up).
"""

import argparse
import os
import time

import numpy as np

import core
import core.nn as nn
import core.nn.functional as F
import ddp
from core.philox import PhiloxGenerator, drawing_from
from core.utils.data import TensorDataset

SAMPLES, BATCH = 100, 48  # two whole batches and a short one in an epoch


class ConvNet(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = norm(4)
        self.fc = nn.Linear(64, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.fc(F.dropout(x.flatten(1), 0.2, self.training))


class GPT(nn.Module):
    """One block of causal attention over tokens (N, T)."""

    def __init__(self, tokens=11, width=16, length=8):
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Parameter(core.zeros(length, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.register_buffer("mask", core.tensor(np.triu(np.full((length, length), -1e9, np.float32), 1)))

    def forward(self, x):
        h = self.tokens(x) + self.places
        q, k, v = self.qkv(self.norm1(h)).chunk(3, -1)
        weights = F.softmax(q @ k.transpose(-2, -1) / 4.0 + self.mask, -1)
        h = h + F.dropout(self.out(weights @ v), 0.1, self.training)
        h = h + self.down(F.relu(self.up(self.norm2(h))))
        return h @ self.tokens.weight.t()


def convnet(norm=nn.BatchNorm2d):
    rng = np.random.default_rng(1)
    data = TensorDataset(
        core.tensor(rng.standard_normal((SAMPLES, 1, 8, 8)).astype(np.float32)),
        core.tensor(rng.integers(0, 5, SAMPLES)),
    )
    model = ConvNet(norm)
    return model, core.optim.Adam(model.parameters(), lr=1e-2), data, {}, lambda s: F.cross_entropy(model(s.x), s.y)


def gpt():
    rng = np.random.default_rng(2)
    data = TensorDataset(core.tensor(rng.integers(0, 11, (SAMPLES, 8))), core.tensor(rng.integers(0, 11, (SAMPLES, 8))))
    model = GPT()
    optimizer = core.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = core.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 4))
    loss = lambda s: F.cross_entropy(model(s.x).flatten(0, 1), s.y.flatten())
    return model, optimizer, data, {"scheduler": scheduler, "clip_norm": 0.5}, loss


MODELS = {"convnet": convnet, "gpt": gpt, "syncnet": lambda: convnet(ddp.SyncBatchNorm)}


def built(name, shards, **options):
    """(run, training function)"""
    with drawing_from(PhiloxGenerator(3)):  # threads share the default stream
        model, optimizer, data, more, loss = MODELS[name]()
    return ddp.Lockstep(model, optimizer, data, shards=shards, batch_size=BATCH, seed=4, **more, **options), loss


def noting(loss, path):
    """The same function, which leaves a line `step shard index,index,…` at each call."""

    def noted(shard):
        with open(path, "a") as file:
            print(shard.step, shard.number, ",".join(map(str, shard.indices)), file=file)
        return loss(shard)

    return noted


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("steps", type=int)
    parser.add_argument("shards", type=int)
    parser.add_argument("--save", nargs=2, metavar=("PATH", "EVERY"))
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each step, so that others can come")
    parser.add_argument("--samples", help="a directory: each worker writes there which samples it computes")
    args = parser.parse_args()
    run, loss = built(args.name, args.shards, digest_every=1, log_parameters=True)
    if args.samples:
        loss = noting(loss, f"{args.samples}/{os.getpid()}")
    if args.save:
        run.resume(args.save[0])
    for step in run.steps(loss, args.steps):
        time.sleep(args.pause)
        if args.save and step.number % int(args.save[1]) == 0:
            run.save(args.save[0])
        if run.leader:
            print(f"step {step.number} {time.time():.6f} members {','.join(map(str, run.members))}", flush=True)
    if run.leader:
        print(f"digest {run.digest()}")
    run.close()


if __name__ == "__main__":
    main()
