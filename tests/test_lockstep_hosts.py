"""Lockstep jobs that grow: workers from other launchers and other hosts, a host that is lost; and workers that die at once.

The hosts are network namespaces of this machine (root and iproute2 needed), see tests.hosts.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from ddp.lockstep.log import read
from ddp.lockstep.register import DeskRegister, store_port
from ddp.verify import verify
from launch.desk import AtDesk, running_at
from tests import jobs
from tests.hosts import ADDRESSES, finish, hosts, key  # noqa: F401  # fixtures

pytestmark = pytest.mark.timeout(90)

PROGRAM = str(jobs.PROGRAMS / "lockstep_models.py")
STEPS = 30
DDPRUN = [sys.executable, "-m", "launch"]


def trained(log, *options, pause=0.05, steps=STEPS):
    """The command, and its environment."""
    return [*DDPRUN, *options, PROGRAM, "convnet", str(steps), "8", "--pause", str(pause)], {"LOCKSTEP_LOG": str(log)}


def start(command, env, **kwargs):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env={**jobs.environment(), **env}, **pipes, **kwargs)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The log of one worker, undisturbed."""
    log = tmp_path_factory.mktemp("calm") / "log.jsonl"
    command, env = trained(log, "--elastic", "1:1", pause=0)
    assert finish(start(command, env))[0][0] == 0
    return log


def same(calm, log):
    assert verify(calm, log) is None and max(read(log)[1]) == max(read(calm)[1])
    return True


def wait_for(text, process):
    """The output up to the line with it."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"no {text!r} in {''.join(lines)}{process.stderr.read()}")


def test_workers_are_added_to_a_running_job(tmp_path, calm, key):  # noqa: F811
    log, port = tmp_path / "log.jsonl", jobs.free_port()
    command, env = trained(
        log, "--elastic", "1:4", "-n", "2", "--rdzv", f"127.0.0.1:{port}", "--key-file", key, pause=0.15
    )
    first = start(command, env)
    wait_for("step 3 ", first)
    more = start(trained(log, "--join", f"127.0.0.1:{port}", "--key-file", key, "-n", "2", pause=0.15)[0], env)
    found = finish(first, more)
    assert [status for status, _, _ in found] == [0, 0], found
    assert "members 0,1,2,3" in found[0][1] and same(calm, log)


def test_a_job_waits_for_its_least_number(tmp_path, calm, key):  # noqa: F811
    """… and a worker more than the most is refused."""
    log, port = tmp_path / "log.jsonl", jobs.free_port()
    join = ["--join", f"127.0.0.1:{port}", "--key-file", key]
    command, env = trained(log, "--elastic", "2:2", "-n", "1", "--rdzv", f"127.0.0.1:{port}", "--key-file", key)
    first = start(command, env)
    second = start(*trained(log, *join))
    assert "members 0,1" in wait_for("step 1 ", first)
    ((status, _, err),) = finish(start(*trained(log, *join)))
    assert status == 2 and "expected at most 2 workers, got 2 and 1 more; see --elastic MIN:MAX there" in err
    assert [status for status, _, _ in finish(first, second)] == [0, 0] and same(calm, log)


def test_nobody_joins_without_the_key(tmp_path, key):  # noqa: F811
    port = jobs.free_port()
    first = start(
        *trained(
            tmp_path / "log", "--elastic", "1:2", "-n", "1", "--rdzv", f"127.0.0.1:{port}", "--key-file", key, pause=0.2
        )
    )
    try:
        wait_for("step 1 ", first)
        other = tmp_path / "other"
        other.write_text("cd" * 32)
        other.chmod(0o600)
        ((status, _, err),) = finish(
            start(*trained(tmp_path / "log", "--join", f"127.0.0.1:{port}", "--key-file", str(other)))
        )
        assert status == 2 and "expected a desk that has the key of --key-file, got none" in err
        assert running_at(("127.0.0.1", port), 5.0)[1:] == (1, 1)
    finally:
        first.send_signal(signal.SIGINT)
        finish(first)


def test_nobody_to_join(tmp_path, key):  # noqa: F811
    options = ["--join", f"127.0.0.1:{jobs.free_port()}", "--key-file", key, "--rdzv-timeout", "0.5"]
    ((status, _, err),) = finish(start(*trained(tmp_path / "log", *options)))
    assert status == 1 and "expected a running job within 0.5 s" in err


def test_the_desk_gives_each_number_once(tmp_path, monkeypatch, key):  # noqa: F811
    port, secret = jobs.free_port(), bytes.fromhex("ab" * 32)
    monkeypatch.setenv("LOCKSTEP_KEY_FILE", key)
    counts = ["ab" * 16, "2", "1", "9"]
    process = start(
        [sys.executable, "-m", "ddp.lockstep.desk", "127.0.0.1", str(port), *counts], {"LOCKSTEP_KEY_FILE": key}
    )
    try:
        store = store_port("127.0.0.1", port, 10.0)
        numbers = AtDesk(("127.0.0.1", port), secret)
        assert [numbers.take(3), numbers.take(1), numbers.take(1)] == [2, 5, 6] and numbers.joined() == set()
        one, other = (DeskRegister("127.0.0.1", port, 5.0) for _ in range(2))
        assert one.latest() is None and one.address(1) is None
        assert one.propose(0, [0, 1, 2]) == [0, 1, 2] == other.propose(0, [0, 1])
        assert other.propose(1, [2]) == [2] and one.latest() == (1, [2]) and numbers.joined() == {0, 1, 2}
        one.publish(1, "tcp://127.0.0.1:1")
        assert other.address(1) == "tcp://127.0.0.1:1" and store != port
        process.kill()
        process.communicate()
        with pytest.raises(
            ConnectionError, match=r"expected an answer of the job's desk at .*resume the run from a checkpoint"
        ):
            one.propose(2, [2])
    finally:
        process.kill()
        process.communicate()


def test_a_host_is_lost(tmp_path, calm, hosts, key):  # noqa: F811
    """Two workers on each of two hosts; the cable is cut in the middle: the desk's side goes on, the other side says why it does not."""
    log = tmp_path / "log.jsonl"
    where = f"{ADDRESSES[0]}:29500"
    command, env = trained(log, "--elastic", "2:4", "-n", "2", "--rdzv", where, "--key-file", key, pause=0.1)
    first = hosts.start(0, "env", *(f"{k}={v}" for k, v in env.items()), *command)
    wait_for("step 2 ", first)
    there = tmp_path / "there.jsonl"  # its own disk
    command, env = trained(there, "--join", where, "--key-file", key, "-n", "2", pause=0.1)
    second = hosts.start(1, "env", *(f"{k}={v}" for k, v in env.items()), *command)
    wait_for("members 0,1,2,3", first)
    time.sleep(0.3)
    hosts.cut()
    began = time.monotonic()
    out = wait_for("members 0,1\n", first)
    assert time.monotonic() - began < 10 and "members 0,1,2,3" in out
    (status_0, _, err_0), (status_1, _, err_1) = finish(first, second)
    assert status_0 == 0, err_0
    assert status_1 != 0 and "expected an answer of the job's desk" in err_1
    assert same(calm, log)


def test_who_dies_at_once_is_not_replaced_for_ever(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os\nos.kill(os.getpid(), 11)\n")
    began = time.monotonic()
    ((status, _, err),) = finish(start([*DDPRUN, "--elastic", "1:1", "--replace", str(script)], {}))
    pauses = [float(p) for p in re.findall(r"in a row before it was let in, so another comes in (\S+) s", err)]
    assert status == 128 + 11 and pauses == [0.25, 0.5, 1, 2, 4] and time.monotonic() - began < 30
    assert "not replaced: 6 in a row were killed before they were let in" in err


def test_a_script_without_lockstep_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print('hello')\n")
    ((status, out, err),) = finish(start([*DDPRUN, "--elastic", "1:2", str(script)], {}))
    assert (
        status == 0
        and out.count("hello") == 2
        and "expected a script that trains with ddp.Lockstep, got none that did" in err
    )


def test_workers_that_never_come_to_the_desk(tmp_path, key):  # noqa: F811
    """… do not keep it waiting for them."""
    script = tmp_path / "script.py"
    for text, expected in (("print('hello')", 0), ("raise SystemExit(3)", 3)):
        script.write_text(text)
        options = ["--elastic", "1:2", "--rdzv", f"127.0.0.1:{jobs.free_port()}", "--key-file", key]
        assert finish(start([*DDPRUN, *options, str(script)], {}))[0][0] == expected


@pytest.mark.parametrize("shared", [False, True])
def test_who_was_let_in_is_replaced_at_once(shared, tmp_path, calm, key):  # noqa: F811
    desk = ["--rdzv", f"127.0.0.1:{jobs.free_port()}", "--key-file", key] if shared else []
    log = tmp_path / "log.jsonl"
    events = [{"step": step, "phase": "data", "place": 0, "act": "kill"} for step in range(2, 26, 4)]
    (tmp_path / "events").mkdir()
    chaos = json.dumps({"directory": str(tmp_path / "events"), "events": events})
    command, env = trained(log, "--elastic", "1:2", "--replace", *desk, pause=0.2)
    ((status, _, err),) = finish(start(command, {**env, "LOCKSTEP_CHAOS": chaos}))
    assert status == 0 and same(calm, log) and len(os.listdir(tmp_path / "events")) > 2
    assert "in a row" not in err


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ends_well", [True, False])
def test_who_comes_when_the_run_has_ended(ends_well, shared, tmp_path, calm, key):  # noqa: F811
    """… ends quietly; but if the run failed it says that nobody is left."""
    desk = ["--rdzv", f"127.0.0.1:{jobs.free_port()}", "--key-file", key] if shared else []
    log = tmp_path / "log.jsonl"
    chaos = json.dumps(
        {"directory": str(tmp_path), "events": [{"step": STEPS - 1, "phase": "data", "place": 0, "act": "kill"}]}
    )
    command, env = trained(log, "--elastic", "1:2", "--replace", *desk, pause=0.01)
    fails = [] if ends_well else ["--save", str(tmp_path / "none" / "run.pth"), str(STEPS)]
    ((status, _, err),) = finish(start([*command, *fails], {**env, "LOCKSTEP_CHAOS": chaos}))
    if ends_well:
        assert status == 0 and same(calm, log), err
        assert "Lockstep: worker 2 came when the run had ended: nothing left to do" in err
        assert "Traceback" not in err and "exited with status" not in err
    else:
        assert status == 1 and "expected a member that lives, got [1], who are all gone" in err, err
