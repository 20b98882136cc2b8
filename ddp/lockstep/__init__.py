"""Lockstep mode: training whose result does not depend on how many workers compute it, nor on which of them die.

    run = ddp.Lockstep(model, optimizer, dataset, shards=16, batch_size=256, seed=0)
    for step in run.steps(lambda shard: F.cross_entropy(model(shard.x), shard.y), 1000):
        if run.leader:
            print(step.number, step.loss)

The batch is cut into V shards that do not change (`shards`); each is computed by itself, with random numbers of its own (`compute`; side
by side where a layer needs the whole batch: `phases`); their gradients are added in the order of one tree (`tree`, `exchange`); members
come and go by agreement (`membership`, `register`, `desk`). So the state after a step is a function of the state before (`state`) and of
the step's number, and a SHA-256 of it (`digest`) is the same for 1 … V workers, on every transport, and through any sequence of deaths
and joins that leaves one worker. `run` puts these together and is where to begin reading.
"""

from ddp.lockstep.fingerprint import FingerprintError
from ddp.lockstep.membership import ExcludedError
from ddp.lockstep.run import DivergenceError, Lockstep, Step
from ddp.lockstep.shards import Shard

__all__ = ["DivergenceError", "ExcludedError", "FingerprintError", "Lockstep", "Shard", "Step"]
