"""Lockstep: the same bits for any number of workers, on threads, ZeroMQ and MPI; exact samples, losses and evaluation; state and logs.

What happens when workers die is in test_lockstep_faults, what when they come from elsewhere in test_lockstep_hosts.
LOCKSTEP_FULL=1 runs the whole matrix over 50 steps: each model, V = 8 and 16, 1 to 8 workers, on each transport.
"""

import json
import os
import subprocess
import sys
import threading
from functools import cache

import numpy as np
import pytest

import core
import core.nn as nn
import core.nn.functional as F
import ddp
from core.errors import CoreError
from core.philox import PhiloxGenerator, drawing_from
from core.utils.data import Dataset, TensorDataset
from ddp.lockstep import buffers
from ddp.lockstep.digest import digest, digests
from ddp.lockstep.log import Log, read
from ddp.lockstep.shards import Cut, Source
from ddp.verify import main as verify_main
from ddp.verify import verify
from tests import jobs

sys.path.insert(0, str(jobs.PROGRAMS))
from lockstep_models import MODELS, built

STEPS = 4  # an epoch, whose last batch is short, and one more
FULL = bool(os.environ.get("LOCKSTEP_FULL"))
MATRIX_STEPS = 50 if FULL else STEPS
WHOLE = [(name, shards, workers) for name in MODELS for shards in (8, 16) for workers in range(1, 9)]


def trained(name, shards, steps=STEPS, **options):
    run, loss = built(name, shards, **options)
    losses = [step.loss for step in run.steps(loss, steps)]
    return run.digest(), losses


@cache
def alone(name, shards, steps=STEPS):
    """(digest, losses) of one worker."""
    return trained(name, shards, steps)


THREADS = [
    *[("convnet", 8, w) for w in range(2, 9)],
    *[("convnet", 16, w) for w in (3, 6, 7, 16)],
    *[("gpt", 8, w) for w in (2, 3, 5)],
    ("gpt", 16, 7),
    *[("syncnet", 8, w) for w in (2, 3, 7)],
    ("syncnet", 16, 5),
]


@pytest.mark.parametrize("name, shards, workers", WHOLE if FULL else THREADS)
def test_same_bits_on_threads(name, shards, workers):
    for found in ddp.run_threads(workers, lambda: trained(name, shards, MATRIX_STEPS), 100.0):
        assert found == alone(name, shards, MATRIX_STEPS)


PROCESSES = {
    "ddprun": [("gpt", 8, 2), ("convnet", 8, 3), ("syncnet", 8, 2)],
    "mpiexec": [("convnet", 8, 2), ("gpt", 8, 3)],
}


@pytest.mark.parametrize(
    "launcher, name, shards, workers",
    [
        pytest.param(launcher, *row, marks=[jobs.needs_mpi] * (launcher == "mpiexec"))
        for launcher, rows in PROCESSES.items()
        for row in (WHOLE if FULL else rows)
    ],
)
def test_same_bits_between_processes(launcher, name, shards, workers):
    done = jobs.run(jobs.command(launcher, workers, "lockstep_models.py", name, MATRIX_STEPS, shards), timeout_s=100)
    assert f"digest {alone(name, shards, MATRIX_STEPS)[0]}" in done.stdout
    assert done.stdout.count("step") == MATRIX_STEPS  # one leader


def test_more_workers_than_shards():
    assert ddp.run_threads(10, lambda: trained("convnet", 8), 60.0) == [alone("convnet", 8)] * 10


def test_another_v_is_another_rounding():
    assert alone("convnet", 8)[0] != alone("convnet", 16)[0]
    assert np.allclose(alone("gpt", 8)[1][0], alone("gpt", 16)[1][0], rtol=0.1)


# -- what is computed


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(core.tensor([1.0, -2.0], dtype=core.float64))
        self.idle = nn.Parameter(core.tensor([3.0], dtype=core.float64))

    def forward(self, x):
        return x @ self.w


def line(samples=10, **options):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((samples, 2)), rng.standard_normal(samples)
    model = Line()
    options = {"shards": 4, "batch_size": 4, **options}
    return (
        ddp.Lockstep(
            model, core.optim.SGD(model.parameters(), lr=0.1), TensorDataset(core.tensor(x), core.tensor(y)), **options
        ),
        x,
        y,
    )


def squares(run):
    return lambda shard: F.mse_loss(run.model(shard.x), shard.y)


def test_equals_plain_training_on_the_whole_batch():
    run, x, y = line(seed=3)
    w = np.array([1.0, -2.0])
    cut = Cut(10, 4, 4, 3)
    for step in run.steps(squares(run), 7):
        picked = np.concatenate(cut.batch(step.number - 1))
        errors = x[picked] @ w - y[picked]
        w = w - 0.1 * 2 * errors @ x[picked] / len(picked)
        assert (
            step.loss == pytest.approx(np.mean(errors**2))
            and step.count == len(picked)
            and step.epoch == (step.number - 1) // 3
        )
    assert run.model.w.tolist() == pytest.approx(w.tolist())
    assert run.model.idle.tolist() == [3.0] and run.model.idle.grad is None


def test_clipping():
    run, x, y = line(clip_norm=0.25)
    before = run.model.w.detach().numpy().copy()
    step = next(run.steps(squares(run), 1))
    picked = np.concatenate(Cut(10, 4, 4, 0).batch(0))
    g = 2 * (x[picked] @ before - y[picked]) @ x[picked] / 4
    assert step.grad_norm == pytest.approx(np.linalg.norm(g)) and step.grad_norm > 0.25
    assert np.linalg.norm(run.model.w.detach().numpy() - before) == pytest.approx(0.1 * 0.25, rel=1e-5)


@pytest.mark.parametrize("samples, batch, shards", [(10, 4, 4), (100, 48, 16), (7, 7, 3), (33, 8, 8)])
def test_every_sample_once_an_epoch(samples, batch, shards):
    cut = Cut(samples, batch, shards, seed=5)
    orders = []
    for epoch in range(3):
        batches = [cut.batch(epoch * cut.steps_per_epoch + b) for b in range(cut.steps_per_epoch)]
        assert all(len(b) == shards for b in batches)
        orders.append(np.concatenate([part for b in batches for part in b]).tolist())
        assert sorted(orders[-1]) == list(range(samples))
    assert orders[0] != orders[1] != orders[2]
    short = Cut(samples, batch, shards, 5, drop_last=True)
    assert all(sum(map(len, short.batch(s))) == batch for s in range(2 * short.steps_per_epoch))


class Augmented(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        return i, core.rand(2)


def test_augmentation_is_keyed_by_epoch_and_sample():
    fetch = Source(Augmented(), 1).fetch
    i, noise = fetch(np.array([4, 2]), 0)
    assert i.tolist() == [4, 2]
    assert fetch(np.array([2]), 0)[1].tolist() == noise[1:].tolist()
    assert fetch(np.array([2]), 1)[1].tolist() != noise[1:].tolist()


def test_evaluation_is_exact():
    def body():
        run, loss = built("convnet", 8)
        count = lambda s: {
            "right": (run.model(s.x).argmax(1) == s.y).sum(),
            "loss": F.cross_entropy(run.model(s.x), s.y, reduction="sum"),
        }
        first = run.evaluate(count)
        list(run.steps(loss, 2))
        second = run.evaluate(count, batch_size=30)
        assert run.model.training
        return first, second, run.model, run.digest()

    first, second, model, ending = body()
    x, y = MODELS["convnet"]()[2].tensors
    model.eval()
    assert second["right"] == (model(x).argmax(1) == y).sum().item() / len(y) != first["right"]
    for found in ddp.run_threads(3, body, 60.0):
        assert (found[0], found[1], found[3]) == (first, second, ending)


def test_batch_norm_merges_in_order():
    run, loss = built("convnet", 8)
    norm = run.model.norm
    means, before = [], norm.running_mean.clone()

    def watched(shard):
        value = loss(shard)
        assert norm.num_batches_tracked.item() == 1  # each shard begins with the same buffers
        means.append(norm.running_mean.clone())
        return value

    next(run.steps(watched, 1))
    assert norm.num_batches_tracked.item() == 1 and len(means) == 8
    assert core.allclose(norm.running_mean, sum(means[1:], means[0]) / 8) and not core.equal(norm.running_mean, before)


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(3, 4), norm(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.outer(self.norm(self.inner(x)))


def normed(norm, shards):
    """A run in float64, and its function."""
    rng = np.random.default_rng(5)
    data = TensorDataset(core.tensor(rng.standard_normal((20, 3))), core.tensor(rng.standard_normal((20, 2))))
    with drawing_from(PhiloxGenerator(6)):
        model = Normed(norm).double()
    optimizer = core.optim.SGD(model.parameters(), lr=0.3)
    run = ddp.Lockstep(model, optimizer, data, shards=shards, batch_size=12, seed=1)
    return run, lambda s: F.mse_loss(model(s.x), s.y)


def test_sync_batch_norm_is_the_norm_of_the_whole_batch():
    """In forward and backward, running statistics too; the batch of 8 after that of 12 has other shards."""
    runs = [normed(nn.BatchNorm1d, 1), normed(ddp.SyncBatchNorm, 4)]
    losses = [[step.loss for step in run.steps(loss, 4)] for run, loss in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    whole, cut = (run.model.state_dict() for run, _ in runs)
    for name in whole:
        assert np.allclose(whole[name].numpy(), cut[name].numpy(), rtol=1e-7), name
    for found in ddp.run_threads(3, lambda: sum(s.loss for s in _all_steps(*normed(ddp.SyncBatchNorm, 4))), 60.0):
        assert found == sum(losses[1])


def _all_steps(run, loss):
    return list(run.steps(loss, 4))


def test_sync_batch_norm_in_some_shards_only():
    def body():
        run, loss = normed(ddp.SyncBatchNorm, 4)
        skips = lambda s: loss(s) if s.number != 2 else run.model.outer(run.model.inner(s.x)).square().mean()
        with pytest.raises(
            ddp.errors.DDPError, match="expected all shards to go through the same SyncBatchNorm layers"
        ):
            next(run.steps(skips, 1))
        assert run.step == 0

    body()
    ddp.run_threads(2, body, 30.0)
    assert not [t for t in threading.enumerate() if t.name.startswith("shard")]


def test_an_error_in_one_of_the_shards_that_wait_for_each_other():
    run, loss = normed(ddp.SyncBatchNorm, 4)
    before = run.digest()

    def failing(shard):
        value = loss(shard)
        if shard.number == 3:
            raise KeyError("mine")
        return value

    with pytest.raises(KeyError, match="mine"):
        next(run.steps(failing, 1))
    assert run.digest() == before and not [t for t in threading.enumerate() if t.name.startswith("shard")]
    again, its_loss = normed(ddp.SyncBatchNorm, 4)
    assert next(run.steps(loss, 1)).loss == next(again.steps(its_loss, 1)).loss


def test_large_buffers_go_the_way_of_gradients(monkeypatch):
    """… with the same bits."""
    expected = [alone(name, 8) for name in ("convnet", "syncnet")]
    monkeypatch.setattr(buffers, "TOLD_BYTES", 0)
    for workers in (1, 3):
        body = lambda: [trained(name, 8) for name in ("convnet", "syncnet")]
        assert ddp.run_threads(workers, body, 60.0) == [expected] * workers


def test_buffers_that_some_shards_change():
    """Each counts by its samples among those that changed it; who nobody changed stays."""
    run, _, _ = line(samples=11, batch_size=7, shards=3)  # shards of 3, 2 and 2 samples
    for name in ("a", "b", "c"):
        run.model.register_buffer(name, core.tensor([1.0, 2.0], dtype=core.float64))

    def body():
        again = ddp.Lockstep(run.model, run.optimizer, run._source.dataset, shards=3, batch_size=7)

        def noted(shard):
            run.model.a += shard.number + 1
            if shard.number == 1:
                run.model.b *= 3
            return squares(run)(shard)

        next(again.steps(noted, 1))
        return [getattr(run.model, name).tolist() for name in ("a", "b", "c")]

    expected = [[1 + 13 / 7, 2 + 13 / 7], [3.0, 6.0], [1.0, 2.0]]  # 13 = 1·3 + 2·2 + 3·2
    assert [pytest.approx(e) for e in expected] == body()


def test_scheduler_moves_on_once_a_step():
    run, loss = built("gpt", 8)
    rates = [run.scheduler.get_last_lr()[0] for _ in run.steps(loss, 5)]
    assert rates == pytest.approx([0.005, 0.0075, 0.01, 0.01, 0.01])


# -- state


def test_saved_by_three_resumed_by_any_number_in_the_middle_of_an_epoch(tmp_path):
    def first():
        run, loss = built("convnet", 8)
        list(run.steps(loss, 2))
        run.save(tmp_path / "run.pth")

    ddp.run_threads(3, first, 60.0)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pth"]

    def body():
        run, loss = built("convnet", 8)
        assert run.resume(tmp_path / "run.pth") and run.step == 2
        numbers = [step.number for step in run.steps(loss, STEPS)]
        return numbers, run.digest()

    for workers in (1, 2, 5):
        assert ddp.run_threads(workers, body, 60.0) == [([3, 4], alone("convnet", 8)[0])] * workers
    assert not built("convnet", 8)[0].resume(tmp_path / "none.pth")
    MODELS["convnet"]()[0].load_state_dict(core.load(tmp_path / "run.pth")["model"])  # the model alone


def test_all_begin_with_the_values_of_the_first():
    def body():
        run, loss = built("gpt", 8)
        if ddp.get_rank():
            nn.init.zeros_(run.model.up.weight)
        return [list(run.steps(loss, STEPS))[-1].number, run.digest()]

    assert ddp.run_threads(2, body, 60.0) == [[STEPS, alone("gpt", 8)[0]]] * 2


def test_states_that_do_not_fit(tmp_path):
    run, _, _ = line(seed=1)
    state = run.state_dict()
    with pytest.raises(CoreError, match="expected a state of the same run, got seed 1, not 2"):
        line(seed=2)[0].load_state_dict(state)
    about = json.loads(state["lockstep"])
    about["fingerprint"]["threads"] = "7"
    with pytest.raises(
        ddp.FingerprintError, match=r"expected the same threads here and in the state(.|\n)*threads 1(.|\n)*threads 7"
    ):
        run.load_state_dict({**state, "lockstep": json.dumps(about)})
    model = {name: t.clone() for name, t in state["model"].items()}
    model["w"][0] += 1
    with pytest.raises(CoreError, match=r"expected the digest .* the state is damaged"):
        run.load_state_dict({**state, "model": model})


def test_digest():
    a = np.array([1.0, np.nan, -0.0], np.float32)
    other_nan = a.copy()
    other_nan.view(np.uint32)[1] ^= 1 << 31
    same = [("x", a), ("y", {"b": [1, 2.0], "a": None})]
    assert digest(same) == digest([("x", other_nan), ("y", {"a": None, "b": [1, 2.0]})])
    for changed in (np.array([1.0, np.nan, 0.0], np.float32), a.astype(np.float64), a.reshape(1, 3)):
        assert digests([("x", changed)]) != digests([("x", a)])
    assert digest([("x", 1)]) != digest([("x", 1.0)]) != digest([("z", 1.0)])


# -- what does not agree


def test_workers_that_compute_otherwise():
    def body():
        run, _, _ = line()
        if ddp.get_rank() == 1:
            run._fingerprint = {**run._fingerprint, "numpy": "1.0"}
        with pytest.raises(
            ddp.FingerprintError, match=r"rank [01]: Lockstep: expected the same numpy here and on rank [01]"
        ):
            next(run.steps(squares(run), 1))

    ddp.run_threads(2, body, 20.0)


def test_workers_that_diverge():
    def body():
        run, _, _ = line(digest_every=1)
        with pytest.raises(ddp.DivergenceError, match="expected the same state on all members after step 2"):
            for step in run.steps(squares(run), 4):
                if step.number == 1 and ddp.get_rank() == 1:
                    with core.no_grad():
                        run.model.w[0] = 7.0

    ddp.run_threads(2, body, 20.0)


def test_integer_buffers_must_agree():
    run, _, _ = line()
    run.model.register_buffer("seen", core.tensor(0))
    run = ddp.Lockstep(run.model, run.optimizer, run._source.dataset, shards=4, batch_size=4)

    def counted(shard):
        run.model.seen += shard.number
        return squares(run)(shard)

    with pytest.raises(ddp.DivergenceError, match="expected integer buffers that every shard changes alike"):
        next(run.steps(counted, 1))
    assert run.step == 0 and run.model.seen.item() == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shards": 5}, "expected 1 <= shards <= batch_size, got 5 shards of a batch of 4"),
        ({"batch_size": 20, "drop_last": True}, "expected a dataset with a whole batch, got 10 samples"),
    ],
)
def test_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        line(**options)


def test_functions_that_give_no_loss():
    run, _, _ = line()
    with pytest.raises(TypeError, match=r"expected fn\(shard\) to give a scalar loss with a graph, got \(1,\)"):
        next(run.steps(lambda shard: shard.y, 1))


# -- logs


def test_log_has_each_step_once(tmp_path):
    path = tmp_path / "run.jsonl"
    logs = [Log(path, {"seed": 0}) for _ in range(3)]
    for number in range(1, 8):
        for i, log in enumerate(logs):
            log.add({"step": number, "loss": number / 3}, write=i == number % 3)
    logs[0].add({"step": 7, "loss": 7 / 3}, write=True)  # redone
    head, steps = read(path)
    assert head == {"lockstep": 1, "seed": 0} and list(steps) == list(range(1, 8))
    with open(path, "a") as file:
        file.write('{"step": 8, "lo')  # the leader died here
    logs[1].add({"step": 8, "loss": 0.5}, write=True)
    assert read(path)[1][8]["loss"] == 0.5
    for log in logs:  # the leader died before it wrote the last one
        log.add({"step": 9, "loss": 0.25}, write=False)
        log.finish()
    assert list(read(path)[1]) == list(range(1, 10))
    Log(tmp_path / "elsewhere", {}).finish()
    assert not (tmp_path / "elsewhere").exists()
    Log(path, {"seed": 1}).add({"step": 1, "loss": 1.0}, write=True)
    assert read(path) == ({"lockstep": 1, "seed": 1}, {1: {"step": 1, "loss": 1.0}})


def test_verify_names_the_first_difference(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in "abc"]
    for path, rate in zip(paths, (0.1, 0.1, 0.2)):
        run, _, _ = line(log=path, digest_every=2, log_parameters=True)
        run.optimizer.param_groups[0]["lr"] = rate
        list(run.steps(squares(run), 5))
    assert verify(paths[0], paths[1]) is None
    found = verify(paths[0], paths[2])
    assert (found.step, found.what) == (2, "parameter w")
    assert verify_main(paths[:2]) == 0 and "steps 1 to 5 agree: 5 losses, 3 digests" in capsys.readouterr().out
    done = subprocess.run(
        [sys.executable, "-m", "launch", "verify", paths[0], paths[2]],
        capture_output=True,
        text=True,
        env=jobs.environment(),
    )
    assert done.returncode == 1 and done.stdout.startswith("step 2: parameter w differs: ")
    assert verify_main([paths[0], str(tmp_path / "none")]) == 2
