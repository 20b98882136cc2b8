"""Two hosts with networks of their own: namespaces of this machine, joined by a cable (veth) that can be cut.

Needs root and `ip` (iproute2). What the runs find is the transport's; that both launchers end and say so is ours.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.jobs import environment, needs_mpi, processes_with

pytestmark = pytest.mark.timeout(60)

DEADLINE_S = 30.0
RANKS_DEADLINE_S = 2.0
ADDRESSES = ("10.87.0.1", "10.87.0.2")


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True, timeout=DEADLINE_S)


def why_not() -> str:
    """Empty where namespaces can be made."""
    if not shutil.which("ip"):
        return "needs ip: apt install iproute2"
    name = f"lockstep-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode == 0:
        ip("netns", "del", name)
        return ""
    return f"needs the right to make network namespaces: {made.stderr.strip()}"


@dataclass(frozen=True)
class Hosts:
    names: tuple[str, str]
    cables: tuple[str, str]

    def start(self, node: int, *command: str) -> subprocess.Popen[str]:
        argv = ["ip", "netns", "exec", self.names[node], *command]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(argv, text=True, env=environment(), **pipes)

    def ddprun(self, node: int, key: str, *args: str) -> subprocess.Popen[str]:
        where = ["--nodes", "2", "--node-rank", str(node), "--rdzv", f"{ADDRESSES[0]}:29500", "--key-file", key]
        return self.start(node, sys.executable, "-m", "launch", *where, *args)

    def cut(self) -> None:
        ip("-n", self.names[0], "link", "set", self.cables[0], "down")


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(reason)
    made = Hosts(*(tuple(f"{kind}{os.getpid()}{node}" for node in "ab") for kind in ("lockstep-", "ls")))
    try:
        for name in made.names:
            ip("netns", "add", name)
        ip(
            "-n",
            made.names[0],
            "link",
            "add",
            made.cables[0],
            "type",
            "veth",
            "peer",
            made.cables[1],
            "netns",
            made.names[1],
        )
        for name, cable, address in zip(made.names, made.cables, ADDRESSES):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", cable, "up")
        yield made
    finally:
        for name in made.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture
def key(tmp_path) -> str:
    path = tmp_path / "key"
    path.write_text("ab" * 32)
    path.chmod(0o600)
    return str(path)


def finish(*processes: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of each."""
    try:
        texts = [process.communicate(timeout=DEADLINE_S) for process in processes]
        return [(process.returncode, *text) for process, text in zip(processes, texts)]
    finally:
        for process in processes:
            process.kill()


def test_two_hosts(hosts, key):
    for node, (status, out, err) in enumerate(
        finish(*(hosts.ddprun(node, key, "-n", "2", "-m", "ddp") for node in (0, 1)))
    ):
        assert status == 0, err
        said = [f"[{r}] rank {r} of 4, over zmq, started by ddprun: all ranks add up" for r in (2 * node, 2 * node + 1)]
        assert sorted(out.splitlines()) == said


def test_a_host_that_cannot_be_reached(hosts, key):
    """Both launchers say who is missing, before any rank starts."""
    hosts.cut()
    (status_0, _, err_0), (status_1, _, err_1) = finish(
        *(hosts.ddprun(node, key, "--rdzv-timeout", "1", "-m", "ddp") for node in (0, 1))
    )
    assert (status_0, status_1) == (1, 1)
    assert "node 0: meeting at 10.87.0.1:29500 (10.87.0.1): expected all 2 hosts within 1 s, missing: node 1;" in err_0
    assert "node 1: meeting at 10.87.0.1:29500: expected all 2 hosts within 1 s, missing: node 0;" in err_1


AGENT = """#!/bin/sh
# What mpirun calls instead of ssh: agent [options] host command
while [ "${1#-}" != "$1" ]; do shift; done
shift
exec ip netns exec NAME unshare --uts sh -c "hostname lockstep-b; $*"
"""


def by_mpirun(hosts: Hosts, tmp_path: Path, *program: str) -> subprocess.Popen[str]:
    """ddprun on the first host, which starts a rank on each by Open MPI, whose daemon goes to the other host."""
    agent = tmp_path / "agent"
    agent.write_text(AGENT.replace("NAME", hosts.names[1]))
    agent.chmod(0o755)
    mpi = f"--prtemca plm_ssh_agent {agent} --host {','.join(f'{a}:1' for a in ADDRESSES)} --mca pml ob1 --mca btl self,tcp"
    ddprun = [sys.executable, "-m", "launch", "--launcher", "mpirun", "-n", "2", f"--launcher-args={mpi}", *program]
    # Open MPI tells hosts apart by their names
    return hosts.start(0, "unshare", "--uts", "sh", "-c", f"hostname lockstep-a; exec {shlex.join(ddprun)}")


@needs_mpi
def test_mpirun_between_hosts(hosts, tmp_path):
    """Open MPI carries the data."""
    ((status, out, err),) = finish(by_mpirun(hosts, tmp_path, "-m", "ddp"))
    assert status == 0, err
    assert sorted(out.split("\n"))[-2:] == [
        f"rank {r} of 2, over mpi, started by openmpi: all ranks add up" for r in (0, 1)
    ]


SCRIPT = f"""
import os, core, ddp
ddp.init_process_group(timeout={RANKS_DEADLINE_S})
numbers = core.zeros(1000)
ddp.barrier()
print(os.getpid(), flush=True)
while True:
    ddp.all_reduce(numbers)
"""
LATE = "DeadlineError: rank {me}: .*rank {other}"
FAULTS = {  # what happens to rank 1 -> what the ranks say, and the status of its host
    "kill -9": (
        lambda hosts, pid: os.kill(pid, signal.SIGKILL),
        "PeerLostError: rank 0: .*rank 1",
        "was killed by signal 9",
    ),
    "SIGSTOP": (lambda hosts, pid: os.kill(pid, signal.SIGSTOP), LATE.format(me=0, other=1), ""),
    "the cable": (lambda hosts, pid: hosts.cut(), LATE.format(me=0, other=1), LATE.format(me=1, other=0)),
}


# Of a death Open MPI itself speaks first: its daemon of the rank, its connection of the host, or its runtime of neither.
MPIRUN_SAYS = {
    signal.SIGKILL: r"rank 1 .*exited on\s+signal 9|unexpectedly disconnected[\s\S]*Peer host: +lockstep-b|in Socket closed",
    signal.SIGSTOP: "gave up: .*within 2 s",
}


@needs_mpi
@pytest.mark.parametrize("number, said", MPIRUN_SAYS.items())
def test_a_fault_under_mpirun_is_named_within_the_deadline(number, said, hosts, tmp_path):
    """Of a cable that is cut only the ranks hear in time: mpirun itself waits for the other daemon for many minutes."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("print(", "print('rank', ddp.get_rank(), "))
    run = by_mpirun(hosts, tmp_path, str(script))
    pids: dict[int, int] = {}
    while len(pids) < 2:
        _, rank, pid = run.stdout.readline().split()
        pids[int(rank)] = int(pid)
    began = time.monotonic()
    os.kill(pids[1], number)
    ((status, _, err),) = finish(run)
    assert status != 0 and re.search(said, err), err
    assert time.monotonic() - began < RANKS_DEADLINE_S + 5.0


@pytest.mark.parametrize("fault, rank_0_says, host_1_says", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_within_the_deadline(fault, rank_0_says, host_1_says, hosts, key, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    runs = [hosts.ddprun(node, key, str(script)) for node in (0, 1)]
    pids = [int(run.stdout.readline().split()[-1]) for run in runs]
    began = time.monotonic()
    try:
        fault(hosts, pids[1])
        if host_1_says:
            (status_0, _, err_0), (status_1, _, err_1) = finish(*runs)
            assert status_1 != 0 and re.search(host_1_says, err_1), err_1
        else:  # it waits for a rank that does nothing: its user ends it
            ((status_0, _, err_0),) = finish(runs[0])
        assert status_0 == 1 and re.search(rank_0_says, err_0), err_0
        assert time.monotonic() - began < RANKS_DEADLINE_S + 5.0
    finally:
        for run in runs:
            run.kill()
            run.communicate(timeout=DEADLINE_S)
    ends = time.monotonic() + DEADLINE_S
    while processes_with(str(script)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not processes_with(str(script))
