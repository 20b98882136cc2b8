"""Lockstep under `mpirun --with-ft ulfm`: processes die, the others shrink the communicator and go on, with the bits of one worker."""

import json
import re
import subprocess
import sys
from functools import cache

import pytest

from ddp.lockstep.log import read
from ddp.verify import verify
from tests import jobs

pytestmark = pytest.mark.timeout(90)

PROGRAM = str(jobs.PROGRAMS / "lockstep_models.py")
STEPS = 8


@cache
def why_not():
    """Empty where MPI survives deaths."""
    if jobs.mpiexec() is None:
        return "needs mpi4py and mpiexec (pip install 'lockstep-ddp[mpi-local]')"
    tried = [jobs.mpiexec(), "--with-ft", "ulfm", "-n", "1", "true"]
    done = subprocess.run(tried, capture_output=True, text=True, env=jobs.environment(), timeout=30)
    return "" if done.returncode == 0 else f"needs an MPI with ULFM (Open MPI 5): {done.stderr.strip()[:200]}"


def train(directory, workers, events=(), model="convnet", options=("--with-ft", "ulfm")):
    """(finished process, log, how many faults acted)"""
    acted = directory / f"acted-{workers}"
    acted.mkdir()
    log = directory / f"log-{workers}.jsonl"
    env = {**jobs.environment(), "LOCKSTEP_LOG": str(log)}
    if events:
        env["LOCKSTEP_CHAOS"] = json.dumps({"directory": str(acted), "events": list(events)})
    mpiexec, *ranks = jobs.mpi_ranks(workers)
    argv = [mpiexec, *options, *ranks, sys.executable]
    done = subprocess.run(
        [*argv, "-W", "error", PROGRAM, model, str(STEPS), "8"],
        env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done, log, len(list(acted.iterdir()))


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    @cache
    def get(model):
        done, log, _ = train(tmp_path_factory.mktemp("calm"), 1, model=model)
        assert done.returncode == 0, done.stderr
        return log

    return get


def kill(phase, place=1, step=3):
    return {"step": step, "phase": phase, "place": place, "act": "kill"}


ROWS = {
    "data": [kill("data")],
    "reduce": [kill("reduce", place=0)],
    "gather": [kill("gather", place=2)],
    "update": [kill("update", place=3)],
    "two in one step": [kill("reduce", place=0), kill("reduce", place=2)],
    "another while they recover": [kill("reduce", place=3), kill("recover", place=1)],
    "all but one": [kill("exchange", place=0, step=2), kill("backward"), kill("update", place=0, step=5)],
    "after the last step": [kill("applied", place=0, step=STEPS - 1)],
    "the last step": [kill("gather", place=1, step=STEPS - 1)],
}


@pytest.mark.parametrize("name", ROWS)
def test_killed(name, tmp_path, calm):
    if reason := why_not():
        pytest.skip(reason)
    done, log, acted = train(tmp_path, 4, ROWS[name])
    assert acted == len(ROWS[name]) and verify(calm("convnet"), log) is None, done.stdout + done.stderr
    assert max(read(log)[1].items()) == max(read(calm("convnet"))[1].items())
    members = re.findall(r"members (\S+)", done.stdout)[-1]
    assert len(members.split(",")) == 4 - (acted if name != "after the last step" else 0)
    assert "Traceback" not in done.stderr, done.stderr


def test_in_the_middle_of_a_forward(tmp_path, calm):
    if reason := why_not():
        pytest.skip(reason)
    done, log, acted = train(tmp_path, 3, [kill("sync"), kill("backward", step=4)], model="syncnet")
    assert acted == 2 and verify(calm("syncnet"), log) is None, done.stdout + done.stderr


@jobs.needs_mpi
def test_plain_mpi_says_what_would_go_on(tmp_path):
    done, log, acted = train(tmp_path, 2, [kill("reduce")], options=())
    assert acted == 1 and done.returncode != 0 and max(read(log)[1]) == 3
    assert "the first death ends this job; mpirun --with-ft ulfm (Open MPI 5) goes on" in done.stderr
