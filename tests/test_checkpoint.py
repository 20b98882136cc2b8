"""Checkpoints: a training that was interrupted goes on as if it had not been, also after kill -9 in the middle of a save."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import core
import core.nn as nn
import ddp
from core.errors import CheckpointError
from ddp import checkpoint
from ddp.checkpoint import Checkpointer
from ddp.optim import ZeroRedundancyOptimizer
from tests import jobs

_building = threading.Lock()  # threads share the default random numbers
X = np.random.default_rng(0).standard_normal((24, 4))


class Training:
    """A small training on all ranks of the group, resumable at any step."""

    def __init__(self, folder, zero=False, **options):
        with _building:
            core.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        self.model = ddp.DistributedDataParallel(self.net)
        params = self.model.parameters()
        self.opt = (
            ZeroRedundancyOptimizer(params, core.optim.Adam, lr=0.01) if zero else core.optim.Adam(params, lr=0.01)
        )
        self.scheduler = core.optim.lr_scheduler.StepLR(self.opt, 3, 0.5)
        self.sampler = ddp.DistributedSampler(X)
        self.checkpoints = Checkpointer(
            folder, model=self.model, optimizer=self.opt, scheduler=self.scheduler, sampler=self.sampler, **options
        )
        self.step = 0
        found = self.checkpoints.restore()
        if found is not None:
            self.step = found["step"]
            assert found["extra"] == {"note": "x", "loss": [1.5]}

    def run(self, until, save_at=()):
        size = ddp.get_world_size()
        batch = 12 // size  # of a rank: two steps an epoch, whatever the size
        while self.step < until:
            self.sampler.set_epoch(self.step // 2)
            for part in np.array_split(np.array(list(self.sampler)), len(self.sampler) // batch):
                self.opt.zero_grad()
                self.model(core.tensor(X[part])).pow(2).mean().backward()
                self.opt.step()
                self.scheduler.step()
                self.sampler.advance(12)
                self.step += 1
                if self.step in save_at:
                    self.checkpoints.save(self.step, extra={"note": "x", "loss": [1.5]})
                if self.step == until:
                    break
        self.checkpoints.wait()
        return np.concatenate([p.detach().numpy().reshape(-1) for p in self.net.parameters()])


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("before, after", [(1, 1), (2, 2), (2, 1), (1, 3), (3, 2)])
def test_a_training_goes_on_in_the_middle_of_an_epoch(before, after, background, zero, tmp_path):
    whole = ddp.run_threads(after, lambda: Training(tmp_path / "a", zero).run(9))[0]
    ddp.run_threads(before, lambda: Training(tmp_path / "b", zero, background=background).run(6, save_at=(2, 5)))
    resumed = ddp.run_threads(after, lambda: Training(tmp_path / "b", zero).run(9))[0]
    if before == after:
        np.testing.assert_array_equal(resumed, whole)
    else:
        np.testing.assert_allclose(resumed, whole, rtol=1e-9)  # sums in another order


def test_random_numbers_go_on(tmp_path):
    saves = Checkpointer(tmp_path)
    core.manual_seed(3)
    saves.save(1)
    expected = core.rand(3).tolist(), np.random.random(), __import__("random").random()
    assert saves.restore() == {"step": 1, "extra": None}
    assert (core.rand(3).tolist(), np.random.random(), __import__("random").random()) == expected


def test_only_the_last_stay(tmp_path):
    layer = nn.Linear(2, 2)
    saves = Checkpointer(tmp_path, keep=2, model=layer)
    for step in (1, 2, 10, 9):
        layer.weight.data.fill_(step)
        saves.save(step)
    assert saves.steps() == [9, 10] and (tmp_path / "latest").read_text() == "step-9\n"
    assert saves.restore(10)["step"] == 10 and layer.weight[0, 0].item() == 10
    assert saves.restore()["step"] == 9 and layer.weight[0, 0].item() == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-10", "step-9"]


def test_a_snapshot_is_taken_before_the_writing(tmp_path):
    layer = nn.Linear(300, 300)
    saves = Checkpointer(tmp_path, background=True, model=layer)
    layer.weight.data.fill_(1)
    saves.save(1)
    layer.weight.data.fill_(2)
    saves.wait()
    saves.restore()
    assert (layer.weight == 1).all()


def damage(folder, name, change):
    path = folder / "step-2" / name
    path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "a bit": (
        "state.pth",
        lambda b: b[:500] + bytes([b[500] ^ 1]) + b[501:],
        "the file is damaged: restore an earlier step",
    ),
    "the end": ("state.pth", lambda b: b[:-7], "the file is damaged"),
    "the manifest": ("manifest.json", lambda b: b[:10], "got none that can be read"),
    "the format": (
        "manifest.json",
        lambda b: b.replace(b"lockstep", b"whatever"),
        "expected a lockstep checkpoint of version 1",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_seen_by_every_rank(name, tmp_path):
    file, change, message = DAMAGES[name]

    def body():
        layer = nn.Linear(2, 2)
        saves = Checkpointer(tmp_path, model=layer)
        if not saves.steps():
            saves.save(1)
            saves.save(2)
        ddp.barrier()
        if ddp.get_rank() == 0:
            damage(tmp_path, file, change)
        with pytest.raises(CheckpointError, match=message):
            saves.restore()
        assert saves.restore(1)["step"] == 1

    ddp.run_threads(2, body)


def test_killed_between_the_renames_of_a_replacement(tmp_path):
    layer = nn.Linear(2, 2)
    saves = Checkpointer(tmp_path, model=layer)
    layer.weight.data.fill_(5)
    saves.save(1)
    (tmp_path / "step-1").rename(tmp_path / ".step-1.replaced")  # and then it was killed
    layer.weight.data.fill_(6)
    assert saves.restore()["step"] == 1 and (layer.weight == 5).all()
    layer.weight.data.fill_(7)
    saves.save(1)
    assert saves.restore()["step"] == 1 and (layer.weight == 7).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-1"]


def test_mistakes(tmp_path):
    assert Checkpointer(tmp_path / "none", model=nn.Linear(2, 2)).restore() is None
    Checkpointer(tmp_path, model=nn.Linear(2, 2)).save(1)
    with pytest.raises(CheckpointError, match=r"expected a checkpoint of \['net'\], got one of \['model'\]"):
        Checkpointer(tmp_path, net=nn.Linear(2, 2)).restore()
    with pytest.raises(CheckpointError, match=r"expected a step of \[1\]"):
        Checkpointer(tmp_path, model=nn.Linear(2, 2)).restore(7)
    with pytest.raises(ValueError, match="expected parts with state_dict and load_state_dict, got epoch, a int"):
        Checkpointer(tmp_path, epoch=3)
    failing = Checkpointer("/proc/nowhere", model=nn.Linear(2, 2), background=True)
    failing.save(1)
    with pytest.raises(OSError):
        failing.wait()


SAVES = """
import sys
import core, core.nn as nn
from ddp.checkpoint import Checkpointer
layer = nn.Linear(256, 256)
saves = Checkpointer(sys.argv[1], keep=2, model=layer, background=sys.argv[2] == "True")
found = saves.restore()
step = found["step"] if found else 0
assert not found or (layer.weight == step).all()
print(step, flush=True)
while True:
    step += 1
    layer.weight.data.fill_(step)
    saves.save(step)
    print(step, flush=True)
"""


@pytest.mark.parametrize("background", [False, True])
def test_kill_9_during_a_save_loses_nothing(background, tmp_path):
    """Killed again and again, each time somewhere else: no checkpoint that was complete is lost, and the newest is whole."""
    layer, last = nn.Linear(256, 256), 0
    for life in range(4):
        argv = [sys.executable, "-c", SAVES, str(tmp_path), str(background)]
        job = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=jobs.environment())
        try:
            assert int(job.stdout.readline()) == last
            saved = [int(job.stdout.readline()) for _ in range(2)][-1]
            time.sleep(0.004 * life)
            assert job.poll() is None
        finally:
            os.kill(job.pid, signal.SIGKILL)
            job.wait()
            job.stdout.close()
        last = Checkpointer(tmp_path, model=layer).restore()["step"]
        assert last >= saved - background and bool((layer.weight == last).all())


# -- torch.distributed.checkpoint --------------------------------------------------------------------------------------


def test_save_and_load_of_ones_own_state(tmp_path):
    def body():
        rank = ddp.get_rank()
        net = nn.Linear(3, 2)
        opt = core.optim.SGD(net.parameters(), lr=0.1 + rank, momentum=0.9)
        if rank == 0:
            nn.init.ones_(net.weight)
        state = {"model": net.state_dict(), "opt": opt, "deep": {"t": core.full((2,), float(rank)), "n": rank}}
        checkpoint.save(state, checkpoint_id=tmp_path / "c")
        nn.init.zeros_(net.weight)
        mine = {"model": net.state_dict(), "opt": opt, "deep": {"t": core.zeros(2) - 1, "n": 5}}
        checkpoint.load(mine, checkpoint_id=tmp_path / "c")
        assert (net.weight == 1).all() and opt.param_groups[0]["lr"] == 0.1
        assert mine["deep"]["t"].tolist() == [0, 0] and mine["deep"]["n"] == 0
        checkpoint.async_save({"a": core.ones(2)}, checkpoint_id=tmp_path / "c").wait()
        ddp.barrier()
        with pytest.raises(CheckpointError, match=r"expected 'b' in the checkpoint, got \['a'\]"):
            checkpoint.load({"b": core.ones(2)}, checkpoint_id=tmp_path / "c")
        with pytest.raises(CheckpointError, match=r"a: expected shape \(3,\), got \(2,\)"):
            checkpoint.load({"a": core.ones(3)}, checkpoint_id=tmp_path / "c")

    ddp.run_threads(2, body)


# -- evaluation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, size", [(10, 3), (2, 3), (0, 2), (7, 1)])
def test_exact_sampler_sees_each_sample_once(n, size):
    def body():
        mine = ddp.ExactDistributedSampler(range(n))
        assert len(list(mine)) == len(mine)
        sums = ddp.sum_over_ranks({"loss": sum(0.1 * i for i in mine), "seen": len(mine), "t": core.tensor(1.0)})
        assert sums["seen"] == n and sums["t"] == size and sums["loss"] == pytest.approx(0.1 * sum(range(n)))
        return list(mine)

    assert [i for part in ddp.run_threads(size, body) for i in part] == list(range(n))
