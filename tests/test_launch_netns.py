"""Two hosts with networks of their own (`tests.hosts`): they train, are cut off, and lose ranks.

What the runs find is the transport's; that both launchers end and say so is ours.
"""
# ruff: noqa: F811  (fixtures)

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosts import ADDRESSES, BITS_PER_S, DEADLINE_S, DELAY_S, Hosts, far_hosts, finish, hosts, key  # noqa: F401
from tests.jobs import is_open_mpi, needs_mpi, processes_with

pytestmark = pytest.mark.timeout(60)

RANKS_DEADLINE_S = 2.0


def test_two_hosts(hosts, key):
    for node, (status, out, err) in enumerate(
        finish(*(hosts.ddprun(node, key, "-n", "2", "-m", "ddp") for node in (0, 1)))
    ):
        assert status == 0, err
        said = [f"[{r}] rank {r} of 4, over zmq, started by ddprun: all ranks add up" for r in (2 * node, 2 * node + 1)]
        assert sorted(out.splitlines()) == said


PEERS = """
import socket, sys, time
host, size = sys.argv[1], 4 << 20
if sys.argv[2:]:
    with socket.create_connection((host, 29600)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for count in [1] * 5 + [size] * 3:
            began, left = time.perf_counter(), count
            peer.sendall(bytes(count))
            peer.recv(1)
            print(count, time.perf_counter() - began)
else:
    with socket.create_server((host, 29600)) as server:
        print("open", flush=True)
        peer, _ = server.accept()
        with peer:
            for count in [1] * 5 + [size] * 3:
                while count > 0:
                    count -= len(peer.recv(min(count, 1 << 16)))
                peer.sendall(b"x")
"""


def test_the_far_cable_has_its_rate_and_its_delay(far_hosts):
    server = far_hosts.start(1, sys.executable, "-c", PEERS, ADDRESSES[1])
    assert server.stdout.readline() == "open\n"
    (_, out, err), _ = finish(far_hosts.start(0, sys.executable, "-c", PEERS, ADDRESSES[1], "client"), server)
    times = [(int(count), float(s)) for count, s in map(str.split, out.splitlines())]
    assert len(times) == 8, err
    there_and_back_s = min(s for count, s in times if count == 1)
    carried_s = min(s for count, s in times if count > 1) - there_and_back_s
    assert 2 * DELAY_S <= there_and_back_s < 4 * DELAY_S
    assert 0.5 * BITS_PER_S < 8 * times[-1][0] / carried_s < 1.1 * BITS_PER_S


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
    """ddprun on the first host, which starts a rank on each by mpirun, whose daemon goes to the other host."""
    agent = tmp_path / "agent"
    agent.write_text(AGENT.replace("NAME", hosts.names[1]))
    agent.chmod(0o755)
    if is_open_mpi():
        mpi = f"--prtemca plm_ssh_agent {agent} --host {','.join(f'{a}:1' for a in ADDRESSES)} --mca pml ob1 --mca btl self,tcp"
        for name in ("time", "intvl", "probes"):  # lost after 2 s
            mpi += f" --prtemca oob_tcp_keepalive_{name} 1"
    else:
        mpi = f"-launcher ssh -launcher-exec {agent} -hosts {','.join(f'{a}:1' for a in ADDRESSES)} -localhost {ADDRESSES[0]}"
    ddprun = [sys.executable, "-m", "launch", "--launcher", "mpirun", "-n", "2", f"--launcher-args={mpi}", *program]
    # Open MPI tells hosts apart by their names
    return hosts.start(0, "unshare", "--uts", "sh", "-c", f"hostname lockstep-a; exec {shlex.join(ddprun)}")


@needs_mpi
def test_mpirun_between_hosts(hosts, tmp_path):
    """MPI carries the data."""
    ((status, out, err),) = finish(by_mpirun(hosts, tmp_path, "-m", "ddp"))
    assert status == 0, err
    assert sorted(out.split("\n"))[-2:] == [
        f"rank {r} of 2, over mpi, started by {'openmpi' if is_open_mpi() else 'mpich'}: all ranks add up"
        for r in (0, 1)
    ]


SCRIPT = f"""
import os, core, ddp
ddp.init_process_group(timeout={RANKS_DEADLINE_S})
numbers = core.zeros(1000)
ddp.barrier()
print(f"rank {{ddp.get_rank()}} {{os.getpid()}}\\n", end="", flush=True)  # in one piece: mpirun mixes the ranks' pieces
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


MPIRUN_SAYS = {
    "kill -9": r"ddprun: rank 1 \(pid {pid} on lockstep-b\) was killed by signal 9 \(SIGKILL\) after .* s; mpirun",
    "SIGSTOP": r"rank 0: gave up: .*within 2 s[\s\S]*ddprun: (rank 0|mpirun) \(pid .*\) exited with status 1",
    "the cable": r"lost communication[\s\S]*on node lockstep-b[\s\S]*ddprun: mpirun exited with status 0 before rank 0 had ended",
}


@needs_mpi
@pytest.mark.parametrize("fault, said", MPIRUN_SAYS.items(), ids=MPIRUN_SAYS)
def test_a_fault_under_mpirun_is_named_within_the_deadline(fault, said, hosts, tmp_path):
    """mpirun itself names the rank in some cases only; a cut cable it notices before the ranks do, and ends with status 0."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    if fault == "the cable":
        if not is_open_mpi():
            pytest.skip(
                "MPICH's UCX takes two namespaces for one machine, and the memory it shares for the way between them"
            )
        script.write_text(script.read_text().replace(f"timeout={RANKS_DEADLINE_S}", f"timeout={2 * DEADLINE_S}"))
    run = by_mpirun(hosts, tmp_path, str(script))
    pids: dict[int, int] = {}
    while len(pids) < 2:
        _, rank, pid = run.stdout.readline().split()
        pids[int(rank)] = int(pid)
    began = time.monotonic()
    FAULTS[fault][0](hosts, pids[1])
    ((status, _, err),) = finish(run)
    assert status != 0 and re.search(said.replace("{pid}", str(pids[1])), err), err
    assert time.monotonic() - began < RANKS_DEADLINE_S + 5.0
    _wait_for_the_end_of(str(script))


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
    _wait_for_the_end_of(str(script))


def _wait_for_the_end_of(script: str) -> None:
    ends = time.monotonic() + DEADLINE_S
    while processes_with(script) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not processes_with(script)
