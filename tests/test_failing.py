"""When a rank dies, the others end soon with an error that names it, and nothing is left behind."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests import jobs

LAUNCHERS = ["ddprun", pytest.param("mpiexec", marks=jobs.needs_mpi)]
ENDS_WITHIN_S = 5.0


def start(launcher, n, folder):
    """The job, and the process number of each rank, once all are in the middle of their work."""
    argv = jobs.command(launcher, n, "die.py", folder)
    with (folder / "log").open("w") as log:
        job = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=jobs.environment())
    until = time.monotonic() + 60
    while len(list(folder.glob("*.pid"))) < n:
        assert job.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < until, "ranks did not start: " + (folder / "log").read_text()
        time.sleep(0.02)
    return job, [int((folder / f"{r}.pid").read_text()) for r in range(n)]


def ended(job, folder):
    """The job's exit status and output; an error if it does not end in time or leaves processes."""
    try:
        status = job.wait(timeout=ENDS_WITHIN_S + 5)
    except subprocess.TimeoutExpired:
        job.kill()
        raise AssertionError("the job did not end: " + (folder / "log").read_text()) from None
    until = time.monotonic() + 2
    while jobs.processes_with(str(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not jobs.processes_with(str(folder))
    return status, (folder / "log").read_text()


def leftovers():
    """Shared memory and files of jobs of ours. (Sockets are abstract: they end with the processes.)"""
    return {p for folder in ("/dev/shm", tempfile.gettempdir()) for p in Path(folder).glob("*lockstep*")}


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("victim", [0, 1, 2])
def test_killed_worker(launcher, victim, tmp_path):
    before = leftovers()
    job, pids = start(launcher, 3, tmp_path)
    began = time.monotonic()
    os.kill(pids[victim], signal.SIGKILL)
    status, log = ended(job, tmp_path)
    assert time.monotonic() - began < ENDS_WITHIN_S
    assert status != 0
    if launcher == "ddprun":  # each survivor names the dead rank, and the launcher does
        for survivor in {0, 1, 2} - {victim}:
            assert f"rank {survivor}: all_reduce" in log and f"rank {victim} died" in log
        assert f"rank {victim} (pid {pids[victim]}) was killed by signal 9 (SIGKILL)" in log
        assert status == 128 + 9
    elif jobs.is_open_mpi():  # mpiexec ends the others and names it; MPICH's may name one of those that it has ended
        assert f"process rank {victim}" in log or f"rank {victim} " in log, log
    assert not leftovers() - before


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_control_c(launcher, tmp_path):
    before = leftovers()
    job, _ = start(launcher, 3, tmp_path)
    began = time.monotonic()
    job.send_signal(signal.SIGINT)
    status, _ = ended(job, tmp_path)
    assert time.monotonic() - began < ENDS_WITHIN_S
    assert status != 0
    assert not leftovers() - before


def test_exception_on_one_rank(tmp_path):
    """The others do not wait for a rank that raised: they name it, and what it raised."""
    program = tmp_path / "raises.py"
    program.write_text(
        "import core, ddp\n"
        "ddp.init_process_group(timeout=60)\n"
        "if ddp.get_rank() == 1: raise KeyError('lost my way')\n"
        "ddp.all_reduce(core.ones(3))\n"
    )
    done = subprocess.run(
        [*jobs.LAUNCHERS["ddprun"](3), str(program)], capture_output=True, text=True, timeout=30, env=jobs.environment()
    )
    assert done.returncode == 1
    for survivor in (0, 2):
        assert f"rank {survivor}: all_reduce #1" in done.stderr
    assert "rank 1 gave up: KeyError: 'lost my way'" in done.stderr
