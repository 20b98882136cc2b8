"""`launch` with real processes on this host: runs, signals and other ends, restarts, files of output.

Every wait has a deadline. A run that is given up is killed with SIGKILL, and then `launch.guard` leaves nothing behind.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch import cli, secret, supervisor
from launch.cli import main
from launch.cores import shares, usable_cores
from tests.jobs import HURRIED_DDPRUN

pytestmark = [pytest.mark.timeout(40), pytest.mark.usefixtures("no_world")]

DEADLINE_S = 20.0
# What runs the tests (nohup, `&` in a script) may ignore SIGINT and SIGHUP; a child inherits it, and ddprun obeys it.
START = """
import signal, sys
from launch.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
DDPRUN = [sys.executable, "-c", START + "sys.exit(main())"]


@pytest.fixture
def script(tmp_path):
    """Writes a script whose names os, sys, time, signal, subprocess and `rank` are there already."""

    def write(body: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(f"import os, signal, subprocess, sys, time\nrank = int(os.environ['RANK'])\n{body}\n")
        return str(path)

    return write


def ddprun(*args: str, hurried: bool = False, **options) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, "timeout": DEADLINE_S, **options}
    command = HURRIED_DDPRUN if hurried else [sys.executable, "-m", "launch"]
    return subprocess.run([*command, *args], capture_output=True, **options)


@contextmanager
def running(*args: str, command=DDPRUN, **options):
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([*command, *args], **options) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_of(process: subprocess.Popen[bytes], count: int) -> list[str]:
    return sorted(process.stdout.readline().decode().strip() for _ in range(count))


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"  # ended; whoever inherited it has not looked yet


# -- runs -------------------------------------------------------------------------------------------------------------

RUNS = {  # script, ranks -> exit status, lines of stdout sorted, what stderr says
    "hello": ("print('hello', rank)", 3, 0, ["[0] hello 0", "[1] hello 1", "[2] hello 2"], r"^ddprun: 3 ranks on"),
    "one has no prefix": ("print('hello', end='')", 1, 0, ["hello"], ""),
    "status": ("sys.exit(7 * rank)", 2, 7, [], r"ddprun: rank 1 \(pid \d+\) exited with status 7 after \d+\.\d s"),
    "status of one": ("sys.exit(5)", 1, 5, [], r"rank 0 \(pid \d+\) exited with status 5 after \d+\.\d s\n$"),
    "exception": (
        "if rank: raise ValueError('no such luck')",
        2,
        1,
        [],
        r"(?s)\[1\] ValueError: no such luck\n.*last lines of rank 1 on stderr were:\n"
        r"    Traceback.*\n    ValueError: no such luck\n$",
    ),
    "killed": (
        "if rank: os.kill(os.getpid(), signal.SIGKILL)",
        2,
        137,
        [],
        r"rank 1 \(pid \d+\) was killed by signal 9 \(SIGKILL\) after \d+\.\d s(; rank 0 stopped)?\n$",
    ),
    "an early end is fine": ("time.sleep(0.3 * rank)\nprint(rank)", 2, 0, ["[0] 0", "[1] 1"], ""),
    "to its own stream": ("print(rank, file=sys.stderr)", 2, 0, [], r"(?m)^\[0\] 0$"),
    "not UTF-8": ("os.write(2, b'\\xff\\xfe\\n')", 2, 0, [], r"\[0\] \\xff\\xfe"),
    "last state of a bar": (
        "for i in range(100): print(f'\\r{i:3}%', end='')\nprint()",
        2,
        0,
        ["[0]  99%", "[1]  99%"],
        "",
    ),
    "standard input": ("print(sys.stdin.read())", 2, 0, ["[0] typed", "[1] "], ""),
    "its own session": ("assert os.getpid() == os.getpgid(0) == os.getsid(0)", 2, 0, [], ""),
    "threads": (
        "print({os.environ[n] for n in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')})",
        2,
        0,
        [f"[{rank}] {{'{max(1, len(usable_cores()) // 2)}'}}" for rank in (0, 1)],
        r"^ddprun: 2 ranks on \d+ cores?, \d+ threads? for each",
    ),
    "nested": (
        "sys.exit(subprocess.run([sys.executable, '-m', 'launch', '-m', 'x']).returncode if rank == 0 else 0)",
        2,
        2,
        [],
        r"\[0\] ddprun: expected to be started outside of any job, got the environment of rank 0 of 2",
    ),
}


@pytest.mark.parametrize("body, size, status, out, err", RUNS.values(), ids=RUNS)
def test_run(body, size, status, out, err, script):
    ended = ddprun("-n", str(size), script(body), stdin=None, input=b"typed")
    stderr = ended.stderr.decode(errors="backslashreplace")
    assert ended.returncode == status, stderr
    assert sorted(ended.stdout.decode().splitlines()) == out
    assert re.search(err, stderr), stderr


def test_module_with_arguments(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "mod.py").write_text("import os, sys\nprint(os.environ['RANK'], sys.argv[1:])")
    ended = ddprun("-n", "2", "-m", "pack.mod", "-n", "a b", cwd=tmp_path)
    assert ended.returncode == 0
    assert sorted(ended.stdout.decode().splitlines()) == ["[0] 0 ['-n', 'a b']", "[1] 1 ['-n', 'a b']"]


def test_the_users_threads(script, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    ended = ddprun("-n", "2", script("print(os.environ['OMP_NUM_THREADS'])"))
    assert sorted(ended.stdout.decode().splitlines()) == ["[0] 3", "[1] 3"]
    assert b"OMP_NUM_THREADS=3 as you set it" in ended.stderr


def test_much_output_neither_blocks_nor_mixes(script):
    body = """
lines = (str(rank) * 99 + '\\n') * 100
for _ in range(500): sys.stdout.write(lines); sys.stderr.write(lines)"""
    ended = ddprun("-n", "2", script(body))  # 10 MB on each of the two
    assert ended.returncode == 0
    for shown in (ended.stdout, ended.stderr.partition(b"\n")[2]):
        lines = shown.splitlines()
        assert len(lines) == 100_000
        assert set(lines) == {b"[0] " + b"0" * 99, b"[1] " + b"1" * 99}


def test_a_rank_that_cannot_start():
    plan = "Plan((Process(0, ('sleep', '100'), {}), Process(1, ('/no/such/python', 'a.py'), {})))"
    run = f"import sys; from launch.supervisor import *; sys.exit(run({plan}).status)"
    ended = subprocess.run([sys.executable, "-c", run], capture_output=True, timeout=DEADLINE_S)
    assert ended.returncode == 126
    assert (
        ended.stderr
        == b"ddprun: rank 1 did not start: expected to run /no/such/python, got No such file or directory\n"
    )


def test_nobody_reads(script):
    with running("-n", "2", script("while True: print(rank); time.sleep(0.01)")) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 128 + signal.SIGPIPE


# -- the end ----------------------------------------------------------------------------------------------------------


# A run with a moment of patience where the user has seconds: arguments are the number of ranks and the script.
HASTY = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from launch.backends.base import Plan, Process
from launch.supervisor import Patience, run
size, script = int(sys.argv[1]), sys.argv[2]
processes = [Process(r, (sys.executable, script), {"RANK": str(r)}, prefixed=size > 1) for r in range(size)]
sys.exit(run(Plan(tuple(processes)), patience=Patience(0.3, 0.3, 0.3, 0.3)).status)
"""
HASTE = [sys.executable, "-c", HASTY]


def test_the_first_failure_stops_the_rest(script):
    """With the patience that users have: a rank that notices ends by itself, one that sleeps gets SIGTERM after 4 s."""
    body = """
if rank == 1: sys.exit(3)
if rank == 2: sys.exit('rank 2: rank 1 is gone') if time.sleep(0.5) is None else 0
time.sleep(1000)"""
    began = time.monotonic()
    ended = ddprun("-n", "3", script(body))
    assert ended.returncode == 3
    assert 4.0 < time.monotonic() - began < 7.0
    stderr = ended.stderr.decode()
    assert "[2] rank 2: rank 1 is gone" in stderr
    assert re.search(r"rank 1 \(pid \d+\) exited with status 3 after \d\.\d s; ranks 0, 2 stopped\n$", stderr)


def test_stubborn_ranks_are_killed(script):
    body = """
signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))
print('ready', flush=True)
while not rank or not os.path.exists(sys.argv[0] + '.go'): time.sleep(0.01)
sys.exit(9)"""
    path = script(body)
    with running("2", path, command=HASTE) as process:
        assert lines_of(process, 2) == ["[0] ready", "[1] ready"]
        Path(path + ".go").touch()
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 9
    assert out == b"[0] no\n"
    assert b"rank 1" in err and err.endswith(b"; rank 0 stopped\n")


# A launcher that is asked to start a rank of number 3, which does what the first argument says, and then does the second itself.
OTHER_LAUNCHER = """
import sys
from launch import witness
from launch.backends.base import Plan, Process
from launch.supervisor import Patience, run
rank = [sys.executable, "-IS", witness.__file__, sys.argv[1], sys.executable, "-c", sys.argv[2]]
body = f'''
import os, subprocess, time
rank = subprocess.Popen({rank!r}, env={{'OMPI_COMM_WORLD_RANK': '3'}}, stdout=subprocess.PIPE, start_new_session=True)
rank.stdout.readline()
{sys.argv[3]}
'''
process = Process(0, (sys.executable, "-c", body), {}, name="mpirun", prefixed=False)
sys.exit(run(Plan((process,), witnessed=sys.argv[1]), patience=Patience(0.3, 0.3, 0.3, 0.3)).status)
"""
WAITS = "import signal, sys, time; signal.signal(10, lambda *_: sys.exit()); print('ready', flush=True); time.sleep(99)"
SAYS_ITS_STATUS = "raise SystemExit(rank.wait())"
WITNESSED = {  # what the rank does, what the launcher does, the status, the summary
    "waits for ever": ("raise SystemExit(7)", "time.sleep(99)", 7, r"exited with status 7 after .*; mpirun stopped"),
    "killed": (
        "import os; os.kill(os.getpid(), 9)",
        SAYS_ITS_STATUS,
        137,
        r"was killed by .*SIGKILL.*mpirun exited .*",
    ),
    "all is well": ("raise SystemExit()", SAYS_ITS_STATUS, 0, ""),
    "a signal": (WAITS, f"os.killpg(rank.pid, 10); {SAYS_ITS_STATUS}", 0, ""),
    "ends ranks and says 0": (WAITS, "os.killpg(rank.pid, 15); rank.wait()", 1, ""),
}


@pytest.mark.parametrize("rank, launcher, status, says", WITNESSED.values(), ids=WITNESSED)
def test_a_rank_that_another_launcher_starts_is_witnessed(rank, launcher, status, says, tmp_path):
    command = [sys.executable, "-c", OTHER_LAUNCHER, str(tmp_path), rank, launcher]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == status, ended.stderr
    if says:
        assert re.search(rf"ddprun: rank 3 \(pid \d+ on {re.escape(socket.gethostname())}\) {says}\n", ended.stderr)
    else:
        ends_early = "ddprun: mpirun exited with status 0 before rank 3 had ended; see what it says above\n"
        assert ended.stderr == (ends_early if status else "")


READY = "print('ready', os.getpid(), flush=True)\nwhile True: time.sleep(0.01)"
GENTLE = """
def leave(number, _):
    print('got', number, flush=True)
    if number not in (signal.SIGUSR1, signal.SIGUSR2): sys.exit(0)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, leave)
"""
SIGNALS = {
    "SIGINT": (GENTLE, [signal.SIGINT], 130, "SIGINT"),
    "SIGTERM": (GENTLE, [signal.SIGTERM], 143, "SIGTERM"),
    "SIGHUP": (GENTLE, [signal.SIGHUP], 129, "SIGHUP"),
    "SIGUSR1 ends nothing": (GENTLE, [signal.SIGUSR1, signal.SIGTERM], 143, "SIGTERM"),
    "SIGUSR2 ends nothing": (GENTLE, [signal.SIGUSR2, signal.SIGTERM], 143, "SIGTERM"),
}


@pytest.mark.parametrize("body, numbers, status, name", SIGNALS.values(), ids=SIGNALS)
def test_signals_are_passed_on(body, numbers, status, name, script):
    with running("-n", "2", script(body + READY)) as process:
        pids = [int(line.split()[-1]) for line in lines_of(process, 2)]
        for number in numbers:
            process.send_signal(number)
            assert lines_of(process, 2) == [f"[0] got {number}", f"[1] got {number}"]
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == status
    assert re.search(rf"ddprun: ended by signal \d+ \({name}\) after \d+\.\d s; ranks 0, 1 stopped\n$", err.decode())
    assert all(gone(pid) for pid in pids)


def test_one_process_gets_signals_too(script):
    with running(script(READY)) as process:
        lines_of(process, 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143


def test_a_second_interrupt_kills_at_once(script):
    body = "signal.signal(signal.SIGINT, lambda *_: print('no', flush=True))\n" + READY
    with running("-n", "2", script(body)) as process:
        pids = [int(line.split()[-1]) for line in lines_of(process, 2)]
        process.send_signal(signal.SIGINT)
        assert lines_of(process, 2) == ["[0] no", "[1] no"]
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    assert all(gone(pid) for pid in pids)


def test_patience_after_a_signal_ends(script):
    body = "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\n" + READY
    with running("2", script(body), command=HASTE) as process:
        lines_of(process, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143


def test_an_ignored_signal_stays_ignored(script):
    """As under nohup."""
    nohup = [sys.executable, "-c", START + "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nsys.exit(main())"]
    body = "assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN\n" + READY
    with running("-n", "2", script(body), command=nohup) as process:
        lines_of(process, 2)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 143


FAMILY = """
child = subprocess.Popen(['sleep', '1000'])
print(os.getpid(), child.pid, flush=True)
"""
ENDS = {
    "all well": ("", None, 0),
    "failure": ("while rank == 0: time.sleep(0.01)\nsys.exit(3)", None, 3),
    "SIGTERM": ("while True: time.sleep(0.01)", signal.SIGTERM, 143),
    "kill -9": ("while True: time.sleep(0.01)", signal.SIGKILL, -9),
}


@pytest.mark.parametrize("size", (1, 2))
@pytest.mark.parametrize("body, number, status", ENDS.values(), ids=ENDS)
def test_nothing_is_left(body, number, status, size, script):
    """Neither ranks nor their children, nor the guard."""
    with running(str(size), script(FAMILY + body.replace("rank == 0", f"rank < {size - 1}")), command=HASTE) as process:
        pids = [int(pid) for line in lines_of(process, size) for pid in line.split()[-2:]]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if number:
            process.send_signal(number)
        assert process.wait(DEADLINE_S) == status
        for pid in (*pids, *map(int, children)):
            wait_for(lambda pid=pid: gone(pid), f"the end of process {pid}")


def test_shared_memory_is_not_left(script):
    """Python's resource tracker is a child of the rank, and must outlive the workers that share its pipe."""
    body = """
import multiprocessing
from multiprocessing.shared_memory import SharedMemory
if __name__ == '__main__':
    memory = SharedMemory(create=True, size=10)
    worker = multiprocessing.get_context('spawn').Process(target=time.sleep, args=(1000,))
    worker.start()
    print(memory.name, worker.pid, flush=True)
    worker.join()"""
    with running(script(body)) as process:
        name, pid = process.stdout.readline().decode().split()
        assert Path("/dev/shm", name).exists()
        process.kill()
        wait_for(lambda: gone(int(pid)), "the end of the worker")
        wait_for(lambda: not Path("/dev/shm", name).exists(), "the end of the shared memory")


def test_a_daemon_does_not_hold_us(script):
    """It has left its process group, is not ours to kill, and still has our pipe."""
    body = "print(subprocess.Popen(['sleep', '1000'], start_new_session=True).pid)"
    ended = subprocess.run([*HASTE, "2", script(body)], capture_output=True, timeout=DEADLINE_S)
    try:
        assert ended.returncode == 0
    finally:
        for line in ended.stdout.splitlines():
            os.kill(int(line.split()[-1]), signal.SIGKILL)


# -- the secret -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", (secret.job_key, secret.key_in_private_file))
def test_a_key_can_be_read_again_and_goes_with_its_run(make):
    with make(bytes(range(32))) as (path, fds):
        assert {bytes.fromhex(Path(path).read_text()) for _ in range(2)} == {bytes(range(32))}
        if not fds:
            assert [os.stat(place).st_mode & 0o777 for place in (path, Path(path).parent)] == [0o600, 0o700]
    assert not Path(path).exists()


def test_the_secret_is_only_where_it_belongs(script, tmp_path):
    body = f"""
path = os.environ['LOCKSTEP_KEY_FILE']
first, again = open(path).read(), open(path).read()
assert first == again and len(bytes.fromhex(first)) == 32
try: os.write(os.open(path, os.O_RDWR), b'0')
except PermissionError: pass
else: raise AssertionError('a rank can change the key')
names = [f'/proc/{{pid}}/{{name}}' for pid in (os.getpid(), os.getppid()) for name in ('cmdline', 'environ')]
seen = b''.join(open(name, 'rb').read() for name in names)
assert b'LOCKSTEP_JOB' in seen and first.encode() not in seen
open({str(tmp_path)!r} + f'/key{{rank}}', 'w').write(first)
print(os.environ['LOCKSTEP_JOB'], os.environ['MASTER_PORT'])
sys.exit(9 if rank else 0)"""
    ended = ddprun("-n", "2", script(body))
    assert ended.returncode == 9, ended.stderr
    jobs = [line.split()[1:] for line in ended.stdout.decode().splitlines()]
    assert jobs[0] == jobs[1] and re.fullmatch("[0-9a-f]{32}", jobs[0][0]) and int(jobs[0][1]) > 1023
    key = (tmp_path / "key0").read_text()
    assert key == (tmp_path / "key1").read_text()
    assert key.encode() not in ended.stdout + ended.stderr


# -- on a terminal ----------------------------------------------------------------------------------------------------


def on_terminal(expected: bytes, *args: str) -> None:
    """Runs with a terminal for stdout, until it has shown what is expected."""
    ours, theirs = pty.openpty()
    try:
        with running(*args, stdout=theirs, stderr=subprocess.DEVNULL) as process:
            os.close(theirs)
            shown, deadline = b"", time.monotonic() + DEADLINE_S
            while expected not in shown:
                assert select.select([ours], [], [], max(0, deadline - time.monotonic()))[0], shown
                shown += os.read(ours, 4096)
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 143
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    "no_color, expected",
    [("", b"\x1b[K\x1b[33m[1]\x1b[0m  50%\r"), ("1", b"\x1b[K[1]  50%\r")],
    ids=["colour", "plain"],
)
def test_a_bar_moves_at_once(no_color, expected, script, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    on_terminal(expected, "-n", "2", script("print(' 50%', end='\\r')\nwhile True: time.sleep(0.01)"))


def test_one_process_has_the_terminal_itself(script):
    on_terminal(b"prompt> True", script("print('prompt>', sys.stdout.isatty(), end='')\nwhile True: time.sleep(0.01)"))


# -- restarts ---------------------------------------------------------------------------------------------------------


def test_restarts(script):
    """Each run is a new job with a new key; the last one's status is ours."""
    body = """
print(os.environ['LOCKSTEP_RESTART'], os.environ['LOCKSTEP_JOB'], open(os.environ['LOCKSTEP_KEY_FILE']).read())
sys.exit(5 + int(os.environ['LOCKSTEP_RESTART']))"""
    run = (
        f"from launch import cli; cli.LONGEST_PAUSE_S = 0.01; sys.exit(cli.main(['--restarts', '2', {script(body)!r}]))"
    )
    ended = subprocess.run([sys.executable, "-c", f"import sys; {run}"], capture_output=True, timeout=DEADLINE_S)
    assert ended.returncode == 7
    runs = [line.split() for line in ended.stdout.decode().splitlines()]
    assert [number for number, _, _ in runs] == ["0", "1", "2"]
    assert len({job for _, job, _ in runs}) == len({key for _, _, key in runs}) == 3
    told = [line for line in ended.stderr.decode().splitlines() if "restart" in line]
    assert told == [
        "ddprun: rank 0 exited with status 5: restart 1 of 2 in 0.01 s",
        "ddprun: rank 0 exited with status 6: restart 2 of 2 in 0.01 s",
    ]


def test_pauses_grow(monkeypatch):
    """1, 2, 4 … seconds, and not more than a minute."""
    pauses = []
    monkeypatch.setattr(cli.time, "sleep", pauses.append)
    monkeypatch.setattr(cli, "_run_once", lambda *_: supervisor.Outcome(3, "rank 0 exited with status 3"))
    assert main(["--restarts", "8", "-m", "x"]) == 3
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_no_restart_after_success(script):
    body = "print(os.environ['LOCKSTEP_RESTART'])\nsys.exit(0 if os.environ['LOCKSTEP_RESTART'] == '1' else 3)"
    ended = ddprun("--restarts", "5", script(body), hurried=True)
    assert (ended.returncode, ended.stdout) == (0, b"0\n1\n")


def test_no_restart_after_a_signal_to_us(script):
    with running("--restarts", "5", "-n", "2", script(READY)) as process:
        lines_of(process, 2)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143 and b"restart" not in err


def test_a_signal_while_we_pause(script):
    with running("--restarts", "5", script("sys.exit(3)")) as process:
        wait_for(lambda: b"restart 1 of 5" in process.stderr.readline(), "the announcement")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130


def test_restarts_are_counted_on(script, monkeypatch):
    """Where somebody else (Slurm's requeue, ssh's ddprun) has restarted us already."""
    monkeypatch.setenv("LOCKSTEP_RESTART", "4")
    ended = ddprun("--restarts", "1", script("print(os.environ['LOCKSTEP_RESTART'])\nsys.exit(3)"), hurried=True)
    assert ended.stdout == b"4\n5\n"


# -- files, and some ranks only ---------------------------------------------------------------------------------------

SPEAK = "print('out', rank)\nos.write(2, b'err %d\\xff\\r\\n' % rank)"
SHOWN = {
    "tee": (["--log-dir", "{dir}"], ["[0] out 0", "[1] out 1"], True),
    "tee, in so many words": (["--output", "tee", "--log-dir", "{dir}"], ["[0] out 0", "[1] out 1"], True),
    "files": (["--output", "files", "--log-dir", "{dir}"], [], True),
    "one rank": (["--ranks", "1"], ["[1] out 1"], False),
    "one rank, files of all": (["--ranks", "1", "--log-dir", "{dir}"], ["[1] out 1"], True),
}


@pytest.mark.parametrize("args, shown, files", SHOWN.values(), ids=SHOWN)
def test_output(args, shown, files, script, tmp_path):
    place = tmp_path / "a" / "b"
    ended = ddprun("-n", "2", *(arg.format(dir=place) for arg in args), script(SPEAK))
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.decode().splitlines()) == shown
    assert sorted(re.findall(rb"\[(\d)\] err", ended.stderr)) == [b"%d" % int(line[1]) for line in shown]
    assert place.exists() == files
    if files:
        kept = {path.name: path.read_bytes() for path in place.iterdir()}
        assert kept == {f"rank-{r}.out": b"out %d\n" % r for r in (0, 1)} | {
            f"rank-{r}.err": b"err %d\xff\r\n" % r for r in (0, 1)
        }


def test_one_rank_with_files_has_no_prefix(script, tmp_path):
    ended = ddprun("--log-dir", str(tmp_path), script(SPEAK))
    assert ended.stdout == b"out 0\n" == (tmp_path / "rank-0.out").read_bytes()


def test_the_cause_is_shown_though_its_output_is_not(script, tmp_path):
    body = "time.sleep(0.2 * (1 - rank))\nsys.exit(f'no luck {rank}' if rank else 0)"
    ended = ddprun("-n", "2", "--output", "files", "--log-dir", str(tmp_path), script(body))
    assert ended.returncode == 1
    assert ended.stderr.endswith(b"the last lines of rank 1 on stderr were:\n    no luck 1\n")


def test_a_failed_jobs_flight_recordings_are_beside_its_output(script, tmp_path):
    (tmp_path / "rank-0.json").write_text("of a run before")
    body = "import core, ddp\nddp.init_process_group()\nddp.barrier()\nassert not rank\nddp.barrier()"
    ended = ddprun("-n", "2", "--log-dir", str(tmp_path), script(body))
    assert ended.returncode == 1
    assert ended.stderr.endswith(b"by the last calls of all ranks: ddprun doctor %s\n" % bytes(tmp_path))
    told = subprocess.run(
        [sys.executable, "-m", "launch", "doctor", str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert told.stdout.startswith("rank 1 is at fault: it raised AssertionError"), told
    ended = ddprun("-n", "2", "--log-dir", str(tmp_path), script("print(rank)"))
    assert not list(tmp_path.glob("*.json")) and b"doctor" not in ended.stderr


def test_flight_recordings_of_each_failure_stay_apart(script, tmp_path):
    body = "import core, ddp\nddp.init_process_group()\nddp.barrier()\nassert not rank, os.environ['LOCKSTEP_RESTART']\nddp.barrier()"
    assert ddprun("-n", "2", "--restarts", "1", "--log-dir", str(tmp_path), script(body)).returncode == 1
    for folder, restart in ((tmp_path / "before-restart-1", "0"), (tmp_path, "1")):
        assert f"AssertionError: {restart}" in (folder / "rank-1.json").read_text()
        assert {path.name for path in folder.glob("*.json")} == {"rank-0.json", "rank-1.json"}


def test_files_begin_anew_and_go_on_through_restarts(script, tmp_path):
    path = script("print(os.environ['LOCKSTEP_RESTART'])\nsys.exit(os.environ['LOCKSTEP_RESTART'] == '0')")
    for _ in range(2):
        assert ddprun("--restarts", "1", "--log-dir", str(tmp_path), path, hurried=True).returncode == 0
        assert (tmp_path / "rank-0.out").read_bytes() == b"0\n1\n"


def test_no_place_for_files(script, tmp_path):
    ended = ddprun("--log-dir", script("print('ran')"), script("print('ran')"))
    assert ended.returncode == 126 and b"--log-dir: expected a directory" in ended.stderr and not ended.stdout


@pytest.mark.skipif(len(usable_cores()) < 2, reason="one core cannot be shared out")
def test_bind(script):
    ended = ddprun("-n", "2", "--bind", "cores", script("print(sorted(os.sched_getaffinity(0)))"))
    cores = shares(usable_cores(), 2)
    assert sorted(ended.stdout.decode().splitlines()) == [f"[{rank}] {sorted(cores[rank])}" for rank in (0, 1)]
    assert b"each bound to its own" in ended.stderr
