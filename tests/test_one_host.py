"""Ranks that no launcher of ours started agree on a key, on one host, with their own user's processes only."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from ddp.env import World, world_from_env, world_of_script
from ddp.errors import DDPError, DeadlineError, PeerLostError, WorldError
from ddp.transport import one_host, open_transport
from ddp.transport.base import Deadline
from tests import jobs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract Unix sockets are Linux's")


@pytest.fixture
def port():
    """Nobody listens on it: it names the job's meeting point."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


def world(rank, size, port, host="127.0.0.1"):
    return World(rank, size, launcher="script", master_addr=host, master_port=port)


def meet(worlds, timeout_s=10.0):
    """What each rank, a thread, got or raised, and how long it took."""
    results = [None] * len(worlds)

    def rank(i):
        try:
            results[i] = one_host.agree(worlds[i], Deadline.after(timeout_s))
        except DDPError as error:
            results[i] = error

    threads = [threading.Thread(target=rank, args=(i,)) for i in range(len(worlds))]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert not any(t.is_alive() for t in threads)
    return results, time.monotonic() - start


# -- whole jobs -------------------------------------------------------------------------------------------------------

SPAWNED = """
import os, sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel as DDP

def main(rank, size, port):
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "localhost", port
    dist.init_process_group("gloo", rank=rank, world_size=size)
    model = DDP(torch.nn.Linear(2, 1))
    model(torch.full((1, 2), float(rank))).sum().backward()
    grads = [g for p in model.parameters() for g in p.grad.flatten().tolist()]
    secret = [v for v in os.environ.values() if len(v) == 64]
    os.write(1, f"rank {rank} {grads} {secret} {dist.get_node_local_rank()}\\n".encode())  # in one piece
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.spawn(main, args=(int(sys.argv[1]), sys.argv[2]), nprocs=int(sys.argv[1]))
"""

ALONE = """
import ddp, core
ddp.init_process_group()
x = core.full((3,), float(ddp.get_rank()))
ddp.all_reduce(x)
print(x.tolist(), ddp.get_world().local_rank, ddp.get_world().local_size)
"""


@pytest.mark.parametrize("size", [2, 4])
def test_spawned_ranks(size, port, tmp_path):
    path = tmp_path / "spawned.py"
    path.write_text(SPAWNED)
    done = jobs.run([sys.executable, "-m", "launch.as_torch", str(path), str(size), str(port)])
    mean = (size - 1) / 2
    assert sorted(done.stdout.splitlines()) == [f"rank {r} [{mean}, {mean}, 1.0] [] {r}" for r in range(size)]
    assert done.stderr == ""


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("told", ["torchrun", "rank and size"])
def test_ranks_with_torchruns_variables(size, told, port, tmp_path):
    """As torchrun starts them, or a loop in a shell."""
    ranks = []
    for rank in range(size):
        env = jobs.environment() | {"RANK": str(rank), "WORLD_SIZE": str(size)}
        env |= {"MASTER_ADDR": socket.gethostname() if told == "torchrun" else "127.0.0.1", "MASTER_PORT": str(port)}
        if told == "torchrun":
            env |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size), "TORCHELASTIC_RUN_ID": "none"}
        ranks.append(subprocess.Popen([sys.executable, "-c", ALONE], env=env, stdout=subprocess.PIPE, text=True))
    try:
        told = [each.communicate(timeout=60)[0] for each in ranks]
    finally:
        for each in ranks:
            each.kill()
    assert told == [f"{[sum(range(size)) * 1.0] * 3} {rank} {size}\n" for rank in range(size)]


def test_one_job_after_the_other(port):
    """A meeting leaves nothing behind, and jobs that have met do not stand in the way of others."""
    first, _ = meet([world(r, 2, port) for r in range(2)])
    second, _ = meet([world(r, 2, port) for r in range(2)])
    for (one, key), (other, same) in (first, second):
        assert one.job == other.job and key == same and len(key) == 32
    assert first[0][1] != second[0][1] and first[0][0].job != second[0][0].job


# -- who is missing ---------------------------------------------------------------------------------------------------


def test_without_rank_0_the_others_name_it(port):
    (error,), took = meet([world(1, 2, port)], 0.5)
    assert isinstance(error, DeadlineError) and error.rank == 0 and took < 2
    assert "rank 1: open: expected all 2 ranks to meet within 0.5 s, missing: 0;" in str(error)


def test_all_who_came_name_the_rank_that_did_not(port):
    errors, took = meet([world(0, 4, port), world(1, 4, port), world(3, 4, port)], 1.0)
    assert [type(e) for e in errors] == [DeadlineError] * 3 and [e.rank for e in errors] == [2] * 3 and took < 3
    assert "rank 0: open: expected all 4 ranks to meet within 1 s, missing: 2;" in str(errors[0])
    assert str(errors[2]).startswith("rank 3: open: told by rank 0: ")


def test_a_rank_that_ends_while_they_meet_is_named_at_once(port):
    code = f"""
from ddp.env import World
from ddp.transport import one_host
from ddp.transport.base import Deadline
one_host.agree(World(1, 4, master_addr="localhost", master_port={port}), Deadline.after(20))
"""
    rank_1 = subprocess.Popen([sys.executable, "-c", code], env=jobs.environment(), stderr=subprocess.PIPE)
    killer = threading.Timer(1.5, rank_1.kill)
    killer.start()
    errors, took = meet([world(0, 4, port), world(2, 4, port)], 20)
    rank_1.communicate()
    killer.join()
    assert [type(e) for e in errors] == [PeerLostError] * 2 and [e.rank for e in errors] == [1, 1] and took < 10
    assert "rank 1 ended while the ranks met" in str(errors[0]) and "told by rank 0" in str(errors[1])


# -- who is not let in ------------------------------------------------------------------------------------------------


def knock(port, text):
    """What rank 0's door answers to somebody of this user; an empty answer is a closed connection."""
    with one_host._socket() as client:
        client.settimeout(5)
        client.connect(one_host._name(world(1, 2, port)))
        if text is not None:
            client.send(text)
        with contextlib.suppress(OSError):
            return client.recv(4096)
    return b""


def until_open(port):
    for _ in range(500):
        with one_host._socket() as client:
            if client.connect_ex(one_host._name(world(1, 2, port))) == 0:
                return
        time.sleep(0.01)
    raise AssertionError("rank 0's door did not open")


@pytest.mark.parametrize("text", [b"", b"junk", b"[]", b'{"rank": 1}', b'{"rank": "x", "size": 2}', b"\xff" * 5000])
def test_what_is_no_hello_changes_nothing(text, port):
    results = []
    rank_0 = threading.Thread(target=lambda: results.extend(meet([world(0, 2, port)])[0]))
    rank_0.start()
    until_open(port)
    assert knock(port, text or None) == b""
    assert one_host.agree(world(1, 2, port), Deadline.after(10))[1]
    rank_0.join(30)
    assert isinstance(results[0], tuple)


def test_ranks_that_do_not_fit_are_told_so(port):
    results = []
    rank_0 = threading.Thread(target=lambda: results.extend(meet([world(0, 3, port)])[0]))
    rank_0.start()
    until_open(port)
    early = threading.Thread(target=lambda: results.extend(meet([world(1, 3, port)])[0]))
    early.start()
    time.sleep(0.3)
    for hello in ({"rank": 1, "size": 3}, {"rank": 1, "size": 2}, {"rank": 0, "size": 3}, {"rank": 3, "size": 3}):
        told = json.loads(knock(port, json.dumps(hello).encode()))
        again = " a second time" if hello["rank"] == 1 else ""
        assert told["error"] == "WorldError" and set(told) == {"error", "text", "rank"}
        assert f"got rank {hello['rank']} of {hello['size']}{again} (process {os.getpid()});" in told["text"]
    (twice, small), _ = meet([world(1, 3, port), world(1, 4, port)])
    assert isinstance(twice, WorldError) and isinstance(small, WorldError)
    assert one_host.agree(world(2, 3, port), Deadline.after(10))[1]
    rank_0.join(30)
    early.join(30)
    assert [type(each) for each in results] == [tuple, tuple] and results[0][1] == results[1][1]


def test_a_second_rank_0_names_the_first(port):
    rank_0 = threading.Thread(target=meet, args=([world(0, 2, port)], 3))
    rank_0.start()
    until_open(port)
    (error,), took = meet([world(0, 2, port)])
    assert isinstance(error, WorldError) and took < 2
    assert f"process {os.getpid()} of user {os.geteuid()} waits for its own; choose another MASTER_PORT" in str(error)
    rank_0.join(30)


OTHER_USER = """
import json, os, sys
from ddp.transport import one_host
from ddp.env import World
mine = os.geteuid()
name = one_host._name(World(1, 2, master_port={port}))  # that of the user who started us
os.setgid(65534); os.setuid(65534)
with one_host._socket() as s:
    s.settimeout(10)
    {act}
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@needs_root
def test_a_process_of_another_user_gets_nothing(port):
    rank_0 = threading.Thread(target=lambda: results.extend(meet([world(0, 2, port)])[0]))
    results = []
    rank_0.start()
    until_open(port)
    act = """s.connect(name)
    try:
        s.send(b'{"rank": 1, "size": 2}')
        print(s.recv(4096))
    except OSError:  # closed already
        print(b"")"""
    done = jobs.run([sys.executable, "-c", OTHER_USER.format(port=port, act=act)])
    assert done.stdout == "b''\n"
    assert one_host.agree(world(1, 2, port), Deadline.after(10))[1]  # and rank 0 still waits for the right one
    rank_0.join(30)
    assert isinstance(results[0], tuple)


@needs_root
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_of_another_user_in_rank_0s_place_is_refused(rank, port):
    act = "s.bind(name); s.listen(); print('here', flush=True); c = s.accept()[0]; sys.stdin.read()"
    squatter = subprocess.Popen(
        [sys.executable, "-c", OTHER_USER.format(port=port, act=act)],
        env=jobs.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert squatter.stdout.readline() == "here\n"
        (error,), took = meet([world(rank, 2, port)])
        assert isinstance(error, WorldError) and took < 5
        assert f"process {squatter.pid} of user 65534" in str(error) and "choose another MASTER_PORT" in str(error)
    finally:
        squatter.kill()
        squatter.communicate()


# -- where it is not for ----------------------------------------------------------------------------------------------

REFUSED = {
    "another host": (world(1, 2, 29500, "192.0.2.1"), r"ranks of several hosts \(MASTER_ADDR is '192.0.2.1'\)"),
    "an unknown host": (world(1, 2, 29500, "no.such.host.invalid"), "ranks of several hosts"),
    "several hosts": (World(1, 4, 1, 2, master_addr="127.0.0.1", master_port=29500), "ranks of several hosts"),
    "no address": (World(1, 2), "need MASTER_ADDR and MASTER_PORT"),
    "no port": (World(1, 2, master_addr="localhost"), "need MASTER_ADDR and MASTER_PORT"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_elsewhere_the_error_says_what_to_do(case):
    lonely, why = REFUSED[case]
    with pytest.raises(WorldError, match="expected the job's key file, got none; start with ddprun, .*" + why):
        open_transport("zmq", lonely, 1)
    assert one_host.placed(lonely) is lonely


def test_places_on_the_host():
    assert one_host.placed(world(2, 4, 29500)).local_rank == 2 and one_host.placed(world(2, 4, 29500)).local_size == 4
    keyed = World(2, 4, master_addr="127.0.0.1", master_port=29500, key_file="/k")
    assert one_host.placed(keyed) is keyed


def test_ranks_that_a_script_numbers_are_not_those_of_a_launcher():
    """A script that srun or mpirun started once may start ranks of its own."""
    step = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "5"}
    assert world_from_env(step).launcher == "slurm"
    assert world_of_script(2, 4, step) == World(2, 4, launcher="script", master_addr="localhost", master_port=5)
