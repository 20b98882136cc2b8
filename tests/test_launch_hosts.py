"""`launch` on several hosts: hostfiles, keys, the meeting of launchers, and runs, with a fake ssh and with real mpirun.

The hosts are addresses of this machine's loopback; two that have networks of their own are in test_launch_netns.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ddp.errors import DeadlineError, WorldError
from launch import meeting, secret
from launch.cli import main
from launch.hostfile import Host, parse_hosts, seat
from launch.meeting import Agreement, Guest, meet
from tests import jobs
from tests.jobs import environment, is_open_mpi, needs_mpi, processes_with

pytestmark = pytest.mark.timeout(60)

DEADLINE_S = 30.0
DDPRUN = [sys.executable, "-m", "launch"]
KEY = bytes(range(32))


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


# -- hostfiles --------------------------------------------------------------------------------------------------------

HOSTFILES = {
    "a host": ("a", (Host("a", 1),)),
    "slots": ("a slots=4\nb slots=2\n", (Host("a", 4), Host("b", 2))),
    "comments": ("# rack\n\n  a   slots=4 # by the window\n#b\n", (Host("a", 4),)),
    "a user": ("me@a.b-c slots=2", (Host("me@a.b-c", 2),)),
    "an address": ("10.0.0.1", (Host("10.0.0.1"),)),
}
BAD_HOSTFILES = {
    "empty": ("# nobody\n", "f: expected a host on each line, got none"),
    "no number": ("a\nb slots=x", "f:2: expected slots=N with N of 1 or more .*got 'slots=x'"),
    "no slots": ("a slots=0", "f:1: .*got 'slots=0'"),
    "another word": ("\na max-slots=2", "f:2: .*got 'max-slots=2'"),
    "twice": ("a\nme@a", "f:2: expected each host once, got 'a' again"),
    "an option of ssh": ("-oProxyCommand=x", "f:1: expected host or user@host"),
    "an option behind a user": ("me@-x", "f:1: expected host or user@host"),
    "a shell's word": ("a;b", "f:1: expected host or user@host, got 'a;b'"),
}


@pytest.mark.parametrize("text, hosts", HOSTFILES.values(), ids=HOSTFILES)
def test_hostfile(text, hosts):
    assert parse_hosts(text, "f") == hosts


@pytest.mark.parametrize("text, message", BAD_HOSTFILES.values(), ids=BAD_HOSTFILES)
def test_bad_hostfile(text, message):
    with pytest.raises(WorldError, match=message):
        parse_hosts(text, "f")


def test_hosts_are_filled_in_their_order():
    hosts = (Host("a", 4), Host("b", 2), Host("c", 1))
    assert seat(hosts, 7, "f") == hosts
    assert seat(hosts, 5, "f") == (Host("a", 4), Host("b", 1))
    assert seat(hosts, 3, "f") == (Host("a", 3),)
    with pytest.raises(WorldError, match="at most the 7 slots of f, got 8"):
        seat(hosts, 8, "f")


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keygen(tmp_path, capsys):
    path = tmp_path / "key"
    assert main(["keygen", str(path)]) == 0
    assert path.stat().st_mode & 0o777 == 0o600 and re.fullmatch("[0-9a-f]{64}\n", path.read_text())
    key = path.read_text()
    assert secret.read_key(str(path)).hex() == key.strip()
    assert main(["keygen", str(path)]) == 2
    out, err = capsys.readouterr()
    assert "expected to make a new file" in err and key.strip() not in out + err
    assert path.read_text() == key and os.listdir(tmp_path) == ["key"]


BAD_KEYS = {
    "short": ("ab", 0o600, "64 hexadecimal digits"),
    "long": ("a" * 65, 0o600, "64 hexadecimal digits"),
    "not hexadecimal": ("x" * 64, 0o600, "64 hexadecimal digits"),
    "for others' eyes": ("a" * 64, 0o640, "got mode 0640; chmod 600"),
}


@pytest.mark.parametrize("text, mode, message", BAD_KEYS.values(), ids=BAD_KEYS)
def test_bad_key(text, mode, message, tmp_path):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(WorldError, match=message):
        secret.read_key(str(path))


def test_no_key(tmp_path):
    with pytest.raises(WorldError, match=r"expected a readable key file, .*keygen"):
        secret.read_key(str(tmp_path / "none"))


def test_each_run_derives_another_key():
    keys = {secret.derived_key(KEY, "a"), secret.derived_key(KEY, "b"), secret.derived_key(KEY[::-1], "a"), KEY}
    assert len(keys) == 4 and {len(key) for key in keys} == {32}


# -- the meeting ------------------------------------------------------------------------------------------------------


def gather(*guests: Guest, keys=(), timeout_s: float = 10.0) -> list[object]:
    """What each guest's `meet` returns or raises."""
    endpoint, found = ("127.0.0.1", jobs.free_port()), [None] * len(guests)

    def one(i: int) -> None:
        try:
            found[i] = meet(guests[i], endpoint, keys[i] if keys else KEY, timeout_s)
        except (WorldError, DeadlineError) as error:
            found[i] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(guests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    return found


def test_all_agree():
    found = gather(Guest(3, 2, 1, "x"), Guest(3, 0, 4, "x", restart=2), Guest(3, 1, 2, "x", restart=1))
    assert len({agreed.job for agreed in found}) == 1 and re.fullmatch("[0-9a-f]{32}", found[0].job)
    assert all((agreed.ranks, agreed.restart) == ((4, 2, 1), 2) for agreed in found)
    assert all(abs(agreed.skew_s) < 1.0 for agreed in found)
    again = gather(Guest(1, 0, 4, "x"))
    assert again[0] == Agreement((4,), 0, again[0].job) and again[0].job != found[0].job


CONTRADICTIONS = {
    "sizes": ((Guest(2, 0, 1, ""), Guest(3, 1, 1, "")), "expected --nodes 2 on all hosts, got 3 from node 1"),
    "jobs": ((Guest(2, 0, 1, "a"), Guest(2, 1, 1, "b")), "expected --job 'a' on all hosts, got 'b' from node 1"),
    "node ranks": (
        (Guest(3, 0, 1, ""), Guest(3, 1, 1, ""), Guest(3, 1, 1, "")),
        "expected each --node-rank once, got 1 from two hosts",
    ),
}


@pytest.mark.parametrize("guests, message", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_contradiction_is_told_to_node_0_and_who_came(guests, message):
    found = gather(*guests, timeout_s=3.0)
    assert isinstance(found[0], WorldError) and re.search(message, str(found[0]))
    assert any("told by node 0" in str(error) for error in found[1:])


def test_who_does_not_come_is_named():
    found = gather(Guest(4, 0, 1, ""), Guest(4, 2, 1, ""), timeout_s=1.0)
    assert isinstance(found[0], DeadlineError) and "all 4 hosts within 1 s, missing: nodes 1, 3;" in str(found[0])
    assert "told by node 0" in str(found[1]) and "missing: nodes 1, 3;" in str(found[1])
    (alone,) = gather(Guest(2, 1, 1, ""), timeout_s=0.5)
    assert isinstance(alone, DeadlineError) and "missing: node 0;" in str(alone)


def test_who_has_another_key_is_not_heard():
    found = gather(Guest(2, 0, 1, ""), Guest(2, 1, 1, ""), keys=(KEY, KEY[::-1]), timeout_s=1.0)
    assert all(isinstance(error, DeadlineError) for error in found)
    assert all(re.search(r"refused or hung up: [1-9]", str(error)) for error in found)


def test_strangers_neither_hold_up_nor_get_in(monkeypatch):
    monkeypatch.setattr(meeting, "STRANGERS", 4)
    endpoint, found = ("127.0.0.1", jobs.free_port()), []
    host = threading.Thread(target=lambda: found.append(meet(Guest(2, 0, 3, ""), endpoint, KEY, 10.0)))
    host.start()
    wires = []

    def connect() -> bool:
        try:
            wires.append(socket.create_connection(endpoint, timeout=5.0))
            return True
        except ConnectionRefusedError:
            return False

    wait_for(connect, "the door to open")
    wires[0].sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(meeting.LINE_LIMIT))
    for _ in range(10):  # more than there is room for, and silent
        connect()
    agreed = meet(Guest(2, 1, 1, ""), endpoint, KEY, 10.0)
    host.join(DEADLINE_S)
    for wire in wires:
        wire.close()
    assert agreed.ranks == (3, 1) and found[0].job == agreed.job


def test_a_message_counts_once():
    """What was overheard opens no second conversation: the seal covers the number that node 0 drew for the first."""
    table = meeting._Table(Guest(2, 0, 1, ""), ("127.0.0.1", 1), KEY, 1.0, None)
    line = table._sealed({"guest": 1}, "guest", "number 1")[:-1]
    assert table._opened(line, "guest", "number 1") == {"guest": 1}
    for sender, number in (("guest", "number 2"), ("node 0", "number 1")):
        with pytest.raises(ConnectionError):
            table._opened(line, sender, number)
    with pytest.raises(ConnectionError):
        table._opened(line.replace(b"1}", b"2}"), "guest", "number 1")


def test_an_order_to_end_ends_the_meeting():
    for node_rank in (0, 1):
        ear, mouth = os.pipe()
        os.close(mouth)
        with pytest.raises(WorldError, match="the order to end"):
            meet(Guest(2, node_rank, 1, ""), ("127.0.0.1", jobs.free_port()), KEY, 10.0, ear)
        os.close(ear)


def test_an_address_of_another_host():
    with pytest.raises(WorldError, match=r"expected to listen there, got: .*give an address of this host"):
        meet(Guest(2, 0, 1, ""), ("192.0.2.1", 29500), KEY, 1.0)
    with pytest.raises(WorldError, match="can be resolved"):
        meet(Guest(2, 1, 1, ""), ("no.such.host.invalid", 29500), KEY, 1.0)


# -- the same command on each host ------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY.hex())
    path.chmod(0o600)
    return str(path)


def start(node: int, port: int, key_file: str, *args: str) -> subprocess.Popen[str]:
    argv = ["--nodes", "2", "--node-rank", str(node), "--rdzv", f"127.0.0.1:{port}", "--key-file", key_file, *args]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*DDPRUN, *argv], text=True, env=environment(), **pipes)


def finish(*processes: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    try:
        return [(*process.communicate(timeout=DEADLINE_S), process.returncode)[::-1] for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_two_hosts_of_different_sizes(key_file):
    port = jobs.free_port()
    nodes = start(0, port, key_file, "-n", "2", "-m", "ddp"), start(1, port, key_file, "-m", "ddp")
    for node, (status, err, out) in enumerate(finish(*nodes)):
        assert status == 0, err
        ranks = ([0, 1], [2])[node]
        said = [f"[{r}] rank {r} of 3, over zmq, started by ddprun: all ranks add up" for r in ranks]
        assert sorted(out.splitlines()) == said
        assert f"ddprun: node {node} of 2, from rank {ranks[0]} of 3: " in err
        assert KEY.hex() not in out + err


def test_two_hosts_restart_together(key_file, tmp_path):
    """Rank 1 fails in the first run; both hosts end, meet again as another job, and all is well."""
    script = tmp_path / "script.py"
    script.write_text("""
import os, sys, ddp
restart = os.environ["LOCKSTEP_RESTART"]
assert restart == os.environ["TORCHELASTIC_RESTART_COUNT"] == str(ddp.world_from_env().restart)
print(os.environ["LOCKSTEP_JOB"], open(os.environ["LOCKSTEP_KEY_FILE"]).read(), flush=True)
ddp.init_process_group(timeout=20)
if restart == "0" and ddp.get_rank() == 1:
    os._exit(3)
ddp.barrier()
print("done", restart)
""")
    port = jobs.free_port()
    (status_0, err_0, out_0), (status_1, err_1, out_1) = finish(
        *(start(node, port, key_file, "--restarts", "1", str(script)) for node in (0, 1))
    )
    assert (status_0, status_1) == (0, 0), err_0 + err_1
    assert "ddprun: rank 1 exited with status 3: restart 1 of 1 in 1 s" in err_1
    assert "ddprun: rank 0 exited with status 1: restart 1 of 1 in 1 s" in err_0
    seen = [line.split()[1:] for line in (out_0 + out_1).splitlines()]
    assert seen.count(["done", "1"]) == 2
    runs = {tuple(words) for words in seen if words[0] != "done"}
    assert len(runs) == len({job for job, _ in runs}) == len({key for _, key in runs}) == 2
    assert KEY.hex() not in {key for _, key in runs}


# -- one command for all hosts ----------------------------------------------------------------------------------------


@pytest.fixture
def fake_ssh(tmp_path, monkeypatch):
    """An ssh that runs the line in a shell of this machine, with nothing of this environment; its log has what it was told."""
    log = tmp_path / "ssh.log"
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f"""#!{sys.executable}
import os, sys
*options, host, line = sys.argv[1:]
with open({str(log)!r}, "a") as file:
    print(host, line, file=file)
if host == "refused":
    sys.exit("ssh: connect to host refused port 22: Connection refused") or 255
os.execve("/bin/sh", ["sh", "-c", line], {{"HOME": "/root", "OMPI_COMM_WORLD_RANK": ""}})
""")
    program.chmod(0o755)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return log


def hosts(tmp_path: Path, text: str) -> str:
    path = tmp_path / "hosts"
    path.write_text(text)
    return str(path)


def test_ssh(fake_ssh, tmp_path):
    file = hosts(tmp_path, "127.0.0.1 slots=2\nme@127.0.0.2 slots=2\n")
    argv = [*DDPRUN, "--hostfile", file, "-n", "3", "-m", "ddp"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    said = [f"[{r}] rank {r} of 3, over zmq, started by ddprun: all ranks add up" for r in range(3)]
    assert sorted(done.stdout.splitlines()) == said
    lines = fake_ssh.read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == ["127.0.0.1", "me@127.0.0.2"]
    assert not re.search("[0-9a-f]{64}", fake_ssh.read_text())
    assert all(line.split()[1:3] == ["cd", str(tmp_path)] for line in lines)


def test_ssh_says_who_failed_and_ends_the_rest(fake_ssh, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, sys, time\nif os.environ['RANK'] == '1': sys.exit('no luck')\ntime.sleep(1)")
    file = hosts(tmp_path, "127.0.0.1\n127.0.0.2\n")
    done = subprocess.run(
        [*DDPRUN, "--hostfile", file, str(script)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 1
    assert "[1] no luck" in done.stderr
    assert re.search(
        r"ddprun: host 127\.0\.0\.2 \(pid \d+\) exited with status 1 after .* s; host 127\.0\.0\.1 stopped", done.stderr
    )
    wait_for(lambda: not processes_with(str(script)), "the end of all ranks")


def test_ssh_that_does_not_connect(fake_ssh, tmp_path):
    file = hosts(tmp_path, "127.0.0.1\nrefused\n")
    done = subprocess.run(
        [*jobs.HURRIED_DDPRUN, "--hostfile", file, "-m", "ddp"], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 1
    assert "host refused (pid" in done.stderr and "Connection refused" in done.stderr


def test_ssh_restarts(fake_ssh, tmp_path):
    """The hosts are told how often it has been, and get a new key and a new port."""
    script = tmp_path / "script.py"
    script.write_text("""
import os, sys
restart = os.environ["LOCKSTEP_RESTART"]
print(restart, os.environ["LOCKSTEP_JOB"], open(os.environ["LOCKSTEP_KEY_FILE"]).read(), flush=True)
sys.exit(restart == "0")
""")
    argv = [*DDPRUN, "--hostfile", hosts(tmp_path, "127.0.0.1\n127.0.0.2\n"), "--restarts", "1", str(script)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
    runs = sorted({tuple(line.split()[1:]) for line in done.stdout.splitlines()})
    assert [run[0] for run in runs] == ["0", "1"]
    assert len({key for _, _, key in runs}) == len({job for _, job, _ in runs}) == 2
    assert re.search(r"host 127\.0\.0\.\d exited with status 1: restart 1 of 1 in 1 s", done.stderr)
    assert not any(key in fake_ssh.read_text() for _, _, key in runs)


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGKILL, -9)], ids=["SIGTERM", "kill -9"])
def test_ssh_signals_and_the_end_of_the_connection(number, status, fake_ssh, tmp_path):
    """SIGTERM goes to all ranks, which may still speak; and no rank outlives the connection."""
    script = tmp_path / "script.py"
    script.write_text("""
import os, signal, sys, time
def leave(number, _):
    print("got", number, flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(1000)""")
    file = hosts(tmp_path, "127.0.0.1 slots=2\n127.0.0.2\n")
    argv = [*DDPRUN, "--hostfile", file, str(script)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert sorted(process.stdout.readline() for _ in range(3)) == [f"[{r}] ready\n" for r in range(3)]
            process.send_signal(number)
            assert process.wait(DEADLINE_S) == status
            rest = process.stdout.read()
            assert number == signal.SIGKILL or sorted(rest.splitlines()) == [f"[{r}] got 15" for r in range(3)]
        finally:
            process.kill()
    wait_for(lambda: not processes_with(str(script)), "the end of all ranks")


@needs_mpi
def test_mpirun(tmp_path, monkeypatch):
    """mpirun starts the ranks; their key is a private file while they run, and gone afterwards."""
    script = tmp_path / "script.py"
    script.write_text("""
import os, ddp
world = ddp.world_from_env()
info = os.stat(world.key_file), os.stat(os.path.dirname(world.key_file))
assert [part.st_mode & 0o777 for part in info] == [0o600, 0o700]
ddp.init_process_group("zmq")
ddp.barrier()
print(f"rank {world.rank} of {world.size} by {world.launcher}, restart {world.restart}\\n", end="")
ddp.destroy_process_group()
""")
    oversubscribed = ["--launcher-args=--oversubscribe"] if is_open_mpi() else []
    argv = [*DDPRUN, "--launcher", "mpirun", "-n", "2", *oversubscribed, str(script)]
    env = environment() | {"HOME": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, env=env)
    assert done.returncode == 0, done.stderr
    by = "openmpi" if is_open_mpi() else "mpich"
    assert sorted(filter(None, done.stdout.splitlines())) == [f"rank {r} of 2 by {by}, restart 0" for r in (0, 1)]
    assert not list(tmp_path.glob(".lockstep-*"))


FAKE_HYDRA = """#!/bin/sh
if [ "$1" = --version ]; then echo "HYDRA build details:"; else printf "%s " "$@"; fi
"""


def test_mpirun_of_mpich(tmp_path):
    """Hydra knows no -x, and its own form of hosts only."""
    (tmp_path / "mpirun").write_text(FAKE_HYDRA)
    (tmp_path / "mpirun").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    file = hosts(tmp_path, "a slots=2\nb\n")
    argv = [str(tmp_path / "python"), "-m", "launch", "--launcher", "mpirun", "--hostfile", file, "-n", "3"]
    done = subprocess.run(
        [*argv, "--launcher-args=-l", "-m", "ddp"], capture_output=True, text=True, timeout=DEADLINE_S,
        env=environment() | {"PYTHONPATH": os.pathsep.join(filter(None, [str(jobs.ROOT), *sys.path]))},
    )  # fmt: skip
    assert done.stdout.startswith("-n 3 -hosts a:2,b:1 -l "), done.stderr
    assert done.stdout.rstrip().endswith("-m ddp")


def test_mpijob_with_a_new_secret(capsys):
    argv = ["--launcher", "mpijob", "--image", "i", "--inline-secret", "--job", "x", "train.py"]
    assert main(argv) == 0
    head, _, rest = capsys.readouterr().out.partition("\n---\n")
    assert re.fullmatch(
        'apiVersion: v1\nkind: Secret\nmetadata:\n  name: x-key\ntype: Opaque\nstringData:\n  key: "[0-9a-f]{64}"', head
    )
    assert rest.startswith("apiVersion: kubeflow.org/v2beta1\nkind: MPIJob\nmetadata:\n  name: x\n")
    assert main(["--dry-run", *argv]) == 0
    assert not re.search("[0-9a-f]{64}", capsys.readouterr().out)
    assert main(["--launcher", "mpijob", "--image", "i", "--job", "Not_DNS", "train.py"]) == 2
