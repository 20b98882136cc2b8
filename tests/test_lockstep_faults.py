"""Lockstep through deaths: whoever is killed, stopped or replaced, and when, the bits are those of one undisturbed worker.

Each row is a job of `ddprun --elastic` whose workers come to a bad end at a planned place (`ddp.lockstep.faults`).
LOCKSTEP_SOAK=1 adds long ones.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from ddp.chaos import plan
from ddp.lockstep.faults import ACTS, PHASES, Faults
from ddp.lockstep.log import read
from ddp.lockstep.register import Place, Register
from ddp.verify import verify
from tests import jobs

PROGRAM = str(jobs.PROGRAMS / "lockstep_models.py")
SAMPLES = 100


class Run:
    """A finished job: its status and output, its log, and how long each fault kept the others from their next step."""

    def __init__(
        self, directory, events=(), workers="1:4", options=(), model="convnet", steps=8, args=(), timeout_s=60
    ):
        self.directory = directory
        directory.mkdir()
        acted = directory / "acted"
        acted.mkdir()
        self.log = directory / "log.jsonl"
        env = {**jobs.environment(), "LOCKSTEP_LOG": str(self.log)}
        if events:
            env["LOCKSTEP_CHAOS"] = json.dumps({"directory": str(acted), "events": list(events)})
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "launch",
            "--elastic",
            workers,
            *options,
            PROGRAM,
            model,
            str(steps),
            "8",
            *args,
        ]
        self.done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s)
        self.status, self.output = self.done.returncode, self.done.stdout + self.done.stderr
        words = [line.split() for line in self.done.stdout.splitlines()]
        self.steps = [(int(w[2]), float(w[3]), w[5]) for w in words if w[1:2] == ["step"]]
        at = {number: moment for number, moment, _ in self.steps}
        self.faults = faults = {int(each.name.partition("-")[2]): float(each.read_text()) for each in acted.iterdir()}
        self.acted = len(faults)
        # until the first step that began after the fault is done
        later = {number: events[number]["step"] + 2 for number in faults}
        self.recovery_s = [at[later[n]] - moment for n, moment in faults.items() if later[n] in at]

    @property
    def members(self):
        """At the last step."""
        return self.steps[-1][2]

    def agrees_with(self, other):
        ends = [max(read(each.log)[1]) for each in (self, other)]
        found = verify(other.log, self.log)
        assert found is None and ends[0] == ends[1], f"{found}, last steps {ends}\n{self.output}"
        assert self.status == 0, self.output
        return True


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """One worker, undisturbed, by (model, steps)."""
    found = {}

    def get(model="convnet", steps=8):
        if (model, steps) not in found:
            found[model, steps] = Run(tmp_path_factory.mktemp("calm") / "run", workers="1:1", model=model, steps=steps)
        return found[model, steps]

    return get


def kill(phase, place=1, step=3):
    return {"step": step, "phase": phase, "place": place, "act": "kill"}


ROWS = {
    "data": [kill("data")],
    "forward": [kill("forward")],
    "backward": [kill("backward")],
    "exchange": [kill("exchange")],
    "reduce": [kill("reduce")],
    "gather": [kill("gather")],
    "update": [kill("update")],
    "applied": [kill("applied")],
    "the coordinator": [kill("gather", place=0)],
    "two in one step": [kill("reduce", place=0), kill("reduce", place=2)],
    "the whole batch": [kill("sync"), kill("sync", place=0, step=5)],
    "another while they recover": [kill("reduce", place=3), kill("recover", place=1)],
    "all but one": [kill("exchange", place=0, step=2), kill("backward", place=1), kill("update", place=0, step=5)],
}


@pytest.mark.parametrize("name", ROWS)
def test_killed(name, tmp_path, calm):
    model = "syncnet" if name == "the whole batch" else "convnet"
    run = Run(tmp_path / "run", ROWS[name], model=model, args=("--samples", str(tmp_path)))
    assert run.agrees_with(calm(model))
    assert run.acted == len(ROWS[name]) and len(run.members.split(",")) == 4 - run.acted
    assert max(run.recovery_s) < 5  # about 0.1 on an idle machine
    assert [number for number, _, _ in run.steps] == sorted({number for number, _, _ in run.steps})
    check_samples(tmp_path)


def check_samples(directory):
    """Whoever computed a shard, and however often: the same samples; and each sample once an epoch."""
    shards = {}
    for path in directory.iterdir():
        if path.is_file():
            for line in path.read_text().splitlines():
                step, shard, indices = line.split()
                assert shards.setdefault((int(step), int(shard)), indices) == indices
    for epoch in range(2):
        seen = [int(i) for (step, _), indices in shards.items() if step // 3 == epoch for i in indices.split(",")]
        assert sorted(seen) == list(range(SAMPLES))


def test_stopped_for_longer_than_a_heartbeat(tmp_path, calm):
    stop = {"step": 3, "phase": "reduce", "place": 1, "act": "stop"}
    run = Run(tmp_path / "run", [stop], workers="1:3", model="gpt", steps=20, args=("--pause", "0.2"))
    assert run.agrees_with(calm("gpt", 20))
    assert run.members == "0,2" and "the others went on without this worker" in run.output


def test_slow_is_not_dead(tmp_path, calm):
    run = Run(tmp_path / "run", [{**kill("gather"), "act": "delay"}], workers="1:2")
    assert run.agrees_with(calm()) and run.members == "0,1"


PAUSED = {"steps": 40, "args": ("--pause", "0.05"), "options": ("--replace",), "workers": "1:3"}


def test_replaced(tmp_path, calm):
    run = Run(tmp_path / "run", [kill("gather", place=0)], **PAUSED)
    assert run.agrees_with(calm(steps=40)) and run.members == "1,2,3"


@pytest.mark.parametrize("place", [0, 2])  # who gives the state, who gets it
def test_killed_while_one_joins(place, tmp_path, calm):
    joins = [{**kill("join", place), "step": step} for step in ([0] if place else range(4, 40))][: 1 if place else None]
    events = [kill("gather", place=1), *joins]
    run = Run(tmp_path / "run", events[: 2 if place else 3], **PAUSED)
    assert run.agrees_with(calm(steps=40)) and len(run.members.split(",")) == 3


def test_killed_while_saving_then_resumed_by_others(tmp_path, calm):
    save = ("--save", str(tmp_path / "run.pth"), "2")
    first = Run(tmp_path / "first", [kill("save", place=0, step=4)], workers="1:2", steps=5, args=save)
    assert first.status == 0 and first.members == "1"
    second = Run(tmp_path / "second", workers="1:3", steps=8, args=save)
    assert [number for number, _, _ in second.steps] == [5, 6, 7, 8]
    assert second.agrees_with(calm()) and "digest" in second.output


def test_fewer_than_the_least(tmp_path):
    run = Run(tmp_path / "run", [kill("data")], workers="2:2", steps=2000, args=("--pause", "0.01"))
    assert run.status == 137 and "worker 1" in run.output and "was killed by signal 9 (SIGKILL)" in run.output


def test_a_job_of_fixed_size_ends_and_says_what_would_not(tmp_path):
    chaos = json.dumps({"directory": str(tmp_path), "events": [kill("exchange", place=1)]})
    done = subprocess.run(
        jobs.command("ddprun", 2, "lockstep_models.py", "convnet", 8, 8), env={**jobs.environment(), "LOCKSTEP_CHAOS": chaos},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 137
    assert "rank 1 died" in done.stderr and "started by ddprun --elastic MIN:MAX it goes on" in done.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        (["--elastic", "3:2"], "expected MIN:MAX, as in 1:4, got '3:2'"),
        (["--elastic", "1:2", "-n", "3"], "expected -n between them, got 3"),
        (["--replace"], "expected --elastic MIN:MAX with it, got none"),
        (["--elastic", "1:2", "--bind", "cores"], "expected workers on this host, not bound to cores"),
    ],
)
def test_arguments_of_ddprun(options, message):
    done = subprocess.run(
        [sys.executable, "-m", "launch", *options, PROGRAM], capture_output=True, text=True, env=jobs.environment()
    )
    assert done.returncode == 2 and message in done.stderr


def test_dry_run_of_an_elastic_job():
    done = jobs.run([sys.executable, "-m", "launch", "--elastic", "1:2", "--dry-run", PROGRAM])
    assert "# 2 workers, goes on with 1 or more" in done.stdout and "LOCKSTEP_ELASTIC=1:2:1:" in done.stdout


def test_chaos_compares_two_runs(tmp_path):
    argv = [
        "chaos",
        "--seed",
        "1",
        "--workers",
        "3",
        "--kills",
        "2",
        "--delays",
        "1",
        "--no-replace",
        "--",
        PROGRAM,
        "convnet",
        "8",
        "8",
    ]
    done = jobs.run([sys.executable, "-m", "launch", *argv])
    assert "chaos: the same bits after 8 steps" in done.stdout


def test_chaos_of_a_script_that_trains_otherwise(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print('hello')")
    argv = [sys.executable, "-m", "launch", "chaos", "--", str(script)]
    done = subprocess.run(argv, capture_output=True, text=True, env=jobs.environment(), timeout=60)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"chaos: expected a script that trains with ddp.Lockstep, got {script}" in done.stderr


@pytest.mark.skipif(not os.environ.get("LOCKSTEP_SOAK"), reason="takes minutes; set LOCKSTEP_SOAK=1")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["syncnet", "gpt"])
def test_soak(model, tmp_path, calm):
    steps = 600
    phases = [phase for phase in PHASES if phase != "save" and (model == "syncnet" or phase != "sync")]
    events = plan(seed=7, kills=140, stops=4, delays=6, steps=steps, workers=4, phases=phases)
    began = time.monotonic()
    run = Run(
        tmp_path / "run",
        events,
        options=("--replace",),
        model=model,
        steps=steps,
        args=("--pause", "0.3"),
        timeout_s=1700,
    )
    assert run.agrees_with(calm(model, steps))
    times = sorted(run.recovery_s)
    acted = {act: sum(events[number]["act"] == act for number in run.faults) for act in ACTS}
    joins = len({worker for _, _, members in run.steps for worker in members.split(",")}) - 4
    print(
        f"{model}: {acted} of {len(events)} and {joins} joins in {time.monotonic() - began:.0f} s, workers to {run.members}"
    )
    assert acted["kill"] + acted["stop"] + joins >= 100
    print(f"recovery: {times[len(times) // 2]:.3f} s median, {times[-1]:.3f} s worst")


# -- parts


def test_register_is_written_once(tmp_path):
    one, other = Register(tmp_path), Register(tmp_path)
    assert one.latest() is None
    assert one.propose(0, [0, 1, 2]) == [0, 1, 2] == other.propose(0, [0, 1])
    assert other.propose(1, [2]) == [2] == one.propose(1, [0, 1])
    assert one.latest() == (1, [2]) and len(list(tmp_path.iterdir())) == 2


def test_place_from_env():
    assert Place.from_env({}) is None
    assert Place.from_env({"LOCKSTEP_ELASTIC": "3:4:1:/tmp/a:b"}) == Place(3, 4, 1, "/tmp/a:b")
    with pytest.raises(ValueError, match="expected WORKER:STARTED:LEAST:REGISTER, got LOCKSTEP_ELASTIC='x'"):
        Place.from_env({"LOCKSTEP_ELASTIC": "x"})


def test_faults_act_once_and_spare_the_last(tmp_path):
    faults = Faults(str(tmp_path), [{"step": 2, "phase": "data", "place": 5, "act": "delay"}])
    for phase, step, place, members in [("update", 2, 1, 4), ("data", 1, 1, 4), ("data", 2, 0, 4), ("data", 2, 0, 1)]:
        faults.at(phase, step, place, members)
    assert not list(tmp_path.iterdir())
    began = time.monotonic()
    faults.at("data", 2, 1, 4)
    faults.at("data", 2, 1, 4)
    assert 0.3 <= time.monotonic() - began < 0.6 and len(list(tmp_path.iterdir())) == 1


def test_plan_is_a_function_of_the_seed():
    one = plan(seed=7, kills=5, stops=1, delays=2, steps=20, workers=4)
    assert one == plan(seed=7, kills=5, stops=1, delays=2, steps=20, workers=4) != plan(8, 5, 1, 2, 20, 4)
    assert sorted(e["act"] for e in one) == ["delay"] * 2 + ["kill"] * 5 + ["stop"]
    assert len({e["step"] for e in one}) == len(one)
