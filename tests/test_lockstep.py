"""Lockstep: the same bits for any number of workers, on threads, ZeroMQ and MPI; exact samples, losses and evaluation; state and logs.

What happens when workers die is in test_lockstep_faults.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

import core
import core.nn as nn
import core.nn.functional as F
import ddp
from core.errors import CoreError
from core.utils.data import Dataset, TensorDataset
from ddp.lockstep.digest import digest, digests
from ddp.lockstep.log import Log, read
from ddp.lockstep.shards import Cut, Source
from ddp.verify import main as verify_main
from ddp.verify import verify
from tests import jobs

sys.path.insert(0, str(jobs.PROGRAMS))
from lockstep_models import MODELS, built

STEPS = 4  # an epoch, whose last batch is short, and one more


def trained(name, shards, steps=STEPS, **options):
    run, loss = built(name, shards, **options)
    losses = [step.loss for step in run.steps(loss, steps)]
    return run.digest(), losses


@pytest.fixture(scope="module")
def alone():
    """(digest, losses) by (model, V), of one worker."""
    return {(name, shards): trained(name, shards) for name in MODELS for shards in (8, 16)}


@pytest.mark.parametrize(
    "name, shards, workers",
    [
        *[("convnet", 8, w) for w in range(2, 9)],
        *[("convnet", 16, w) for w in (3, 6, 7, 16)],
        *[("gpt", 8, w) for w in (2, 3, 5)],
        ("gpt", 16, 7),
    ],
)
def test_same_bits_on_threads(name, shards, workers, alone):
    for found in ddp.run_threads(workers, lambda: trained(name, shards), 60.0):
        assert found == alone[name, shards]


@pytest.mark.parametrize(
    "launcher, workers, name",
    [
        ("ddprun", 2, "gpt"),
        ("ddprun", 3, "convnet"),
        pytest.param("mpiexec", 2, "convnet", marks=jobs.needs_mpi),
        pytest.param("mpiexec", 3, "gpt", marks=jobs.needs_mpi),
    ],
)
def test_same_bits_between_processes(launcher, workers, name, alone):
    done = jobs.run(jobs.command(launcher, workers, "lockstep_models.py", name, STEPS, 8))
    assert f"digest {alone[name, 8][0]}" in done.stdout
    assert done.stdout.count("step") == STEPS  # one leader


def test_more_workers_than_shards(alone):
    assert ddp.run_threads(10, lambda: trained("convnet", 8), 60.0) == [alone["convnet", 8]] * 10


def test_another_v_is_another_rounding(alone):
    assert alone["convnet", 8][0] != alone["convnet", 16][0]
    assert np.allclose(alone["gpt", 8][1][0], alone["gpt", 16][1][0], rtol=0.1)


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


def test_scheduler_moves_on_once_a_step():
    run, loss = built("gpt", 8)
    rates = [run.scheduler.get_last_lr()[0] for _ in run.steps(loss, 5)]
    assert rates == pytest.approx([0.005, 0.0075, 0.01, 0.01, 0.01])


# -- state


def test_resume_in_the_middle_of_an_epoch(tmp_path, alone):
    run, loss = built("convnet", 8)
    list(run.steps(loss, 2))
    run.save(tmp_path / "run.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["run.pth"]

    def body():
        run, loss = built("convnet", 8)
        assert run.resume(tmp_path / "run.pth") and run.step == 2
        numbers = [step.number for step in run.steps(loss, STEPS)]
        return numbers, run.digest()

    assert ddp.run_threads(3, body, 60.0) == [([3, 4], alone["convnet", 8][0])] * 3
    assert not run.resume(tmp_path / "none.pth")
    MODELS["convnet"]()[0].load_state_dict(core.load(tmp_path / "run.pth")["model"])  # the model alone


def test_all_begin_with_the_values_of_the_first(alone):
    def body():
        run, loss = built("gpt", 8)
        if ddp.get_rank():
            nn.init.zeros_(run.model.up.weight)
        return [list(run.steps(loss, STEPS))[-1].number, run.digest()]

    assert ddp.run_threads(2, body, 60.0) == [[STEPS, alone["gpt", 8][0]]] * 2


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
