"""`launch` as tables: arguments, plans as golden data, lines of output, and runs with real processes.

Every wait has a deadline. A run that is given up is killed with SIGKILL, and then `launch.guard` leaves nothing behind.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ddp.env import FLAVOURS
from launch import output, secret
from launch.backends import LAUNCHERS, load_launcher
from launch.backends.base import Plan, Process, Session
from launch.cli import main
from launch.job import Job, job_from_args, usable_cores
from launch.output import Lines

pytestmark = pytest.mark.timeout(40)

DEADLINE_S = 20.0
# What runs the tests (nohup, `&` in a script) may ignore SIGINT and SIGHUP; a child inherits it, and ddprun obeys it.
START = """
import signal, sys
from launch.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""
DDPRUN = [sys.executable, "-c", START + "sys.exit(main())"]


@pytest.fixture(autouse=True)
def no_world(monkeypatch):
    """The tests themselves may run under mpirun or ddprun."""
    for row in FLAVOURS:
        for name in (row.rank, row.size, row.local_rank):
            monkeypatch.delenv(name, raising=False)
    for name in ("LOCKSTEP_JOB", "LOCKSTEP_KEY_FILE", "OMP_NUM_THREADS", "NO_COLOR", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def script(tmp_path):
    """Writes a script whose names os, sys, time, signal, subprocess and `rank` are there already."""

    def write(body: str) -> str:
        path = tmp_path / "script.py"
        path.write_text(f"import os, signal, subprocess, sys, time\nrank = int(os.environ['RANK'])\n{body}\n")
        return str(path)

    return write


def ddprun(*args: str, **options) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, "timeout": DEADLINE_S, **options}
    return subprocess.run([sys.executable, "-m", "launch", *args], capture_output=True, **options)


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


# -- arguments --------------------------------------------------------------------------------------------------------

JOBS = {
    "a script": (["{file}"], {"size": 1, "program": ("{file}",)}),
    "-n": (["-n", "4", "{file}", "--lr", "0.1"], {"size": 4, "program": ("{file}",), "args": ("--lr", "0.1")}),
    "torchrun's": (["--nproc_per_node=3", "{file}"], {"size": 3, "program": ("{file}",)}),
    "torchrun's, dashes": (["--nproc-per-node", "3", "{file}"], {"size": 3, "program": ("{file}",)}),
    "auto": (["-n", "auto", "{file}"], {"size": usable_cores(), "program": ("{file}",)}),
    "a module": (["-n", "2", "-m", "pack.age", "-m"], {"size": 2, "program": ("-m", "pack.age"), "args": ("-m",)}),
    "the script's own": (
        ["{file}", "-n", "5", "--dry-run", "--", "-h"],
        {"args": ("-n", "5", "--dry-run", "--", "-h")},
    ),
    "dry run": (["--dry-run", "{file}"], {"dry_run": True, "args": ()}),
}

MISTAKES = {
    "nobody": (["-n", "0", "x.py"], "1 or more.*got '0'"),
    "negative": (["-n", "-2", "x.py"], "-n"),
    "negative, joined": (["-n=-2", "x.py"], "got '-2'"),
    "not a number": (["-n", "two", "x.py"], "1 or more.*got 'two'"),
    "no script": (["-n", "2"], "required: script.py or module"),
    "no module": (["-n", "2", "-m"], "required: script.py or module"),
    "no such file": (["nowhere.py"], r"existing file, got 'nowhere\.py'; looked in {cwd}"),
    "a directory": (["."], r"existing file, got '\.'"),
    "unknown option": (["--nnodes", "2", "x.py"], "--nnodes"),
}


@pytest.mark.parametrize("args, fields", JOBS.values(), ids=JOBS)
def test_job(args, fields, tmp_path):
    file = tmp_path / "x.py"
    file.touch()
    job = job_from_args([arg.format(file=file) for arg in args], environ={})
    for name, value in fields.items():
        if isinstance(value, tuple):
            value = tuple(part.format(file=file) for part in value)
        assert getattr(job, name) == value


@pytest.mark.parametrize("args, message", MISTAKES.values(), ids=MISTAKES)
def test_mistake(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(args)
    assert error.value.code == 2
    assert re.search(message.format(cwd=re.escape(os.getcwd())), capsys.readouterr().err)


NESTED = {
    "mpirun": ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "rank 1 of 2.*unset OMPI_COMM_WORLD_RANK"),
    "ddprun": ({"RANK": "0", "WORLD_SIZE": "1"}, "rank 0 of 1; .*without ddprun, or unset RANK WORLD_SIZE"),
    "srun": ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "rank 0 of 2"),
    "half a world": ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 alone"),
}


@pytest.mark.parametrize("environ, message", NESTED.values(), ids=NESTED)
def test_nested(environ, message, monkeypatch, capsys):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(["-m", "anything"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_an_interactive_slurm_step_is_no_job(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert main(["--dry-run", "-m", "anything"]) == 0


# -- plans ------------------------------------------------------------------------------------------------------------

SESSION = Session(job="ab" * 16, master_port=29500, key_file="/dev/fd/7")


def golden_env(rank: int, size: int, threads: str | None) -> dict[str, str]:
    env = {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "LOCKSTEP_JOB": "ab" * 16,
        "LOCKSTEP_KEY_FILE": "/dev/fd/7",
        "PYTHONUNBUFFERED": "1",
    }
    if threads:
        env |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return env


CHOOSE = "(set OMP_NUM_THREADS to choose another number)"
PLANS = {
    "one": (
        Job(size=1, program=("a.py",), python="py", cores=4),
        Plan(
            (Process(0, ("py", "a.py"), golden_env(0, 1, "4")),),
            (f"1 rank on 4 cores, 4 threads for each {CHOOSE}",),
        ),
    ),
    "two, a module with arguments": (
        Job(size=2, program=("-m", "p.m"), args=("--lr", "a b"), python="py", cores=5),
        Plan(
            tuple(Process(r, ("py", "-m", "p.m", "--lr", "a b"), golden_env(r, 2, "2")) for r in (0, 1)),
            (f"2 ranks on 5 cores, 2 threads for each {CHOOSE}",),
        ),
    ),
    "more ranks than cores": (
        Job(size=3, program=("a.py",), python="py", cores=1),
        Plan(
            tuple(Process(r, ("py", "a.py"), golden_env(r, 3, "1")) for r in (0, 1, 2)),
            (f"3 ranks on 1 core, 1 thread for each {CHOOSE}",),
        ),
    ),
    "the user's threads": (
        Job(size=1, program=("a.py",), python="py", cores=4, user_threads="3"),
        Plan(
            (Process(0, ("py", "a.py"), golden_env(0, 1, None)),),
            ("1 rank on 4 cores, OMP_NUM_THREADS=3 as you set it",),
        ),
    ),
}


@pytest.mark.parametrize("job, plan", PLANS.values(), ids=PLANS)
def test_plan(job, plan):
    assert load_launcher(job.launcher).plan(job, SESSION) == plan


def test_every_launcher_has_a_plan():
    assert {job.launcher for job, _ in PLANS.values()} == set(LAUNCHERS)
    for name in LAUNCHERS:
        assert load_launcher(name).name == name


def test_describe():
    plan = Plan((Process(1, ("/my py", "a.py", "it's", "*"), {"RANK": "1", "PLACE": "a b"}),), ("two notes", "here"))
    assert plan.describe().splitlines() == [
        "# two notes",
        "# here",
        "# rank 1",
        "env \\",
        "    RANK=1 \\",
        "    'PLACE=a b' \\",
        """    '/my py' a.py 'it'"'"'s' '*'""",
    ]


def test_a_shell_reads_what_describe_writes():
    show = "import os, sys; print(sys.argv[1:], os.environ['PLACE'])"
    args = ["it's", "$HOME", "a\nb", '"', ""]
    plan = Plan((Process(0, (sys.executable, "-c", show, *args), {"PLACE": "a b;c"}),))
    shown = subprocess.run(plan.describe(), shell=True, capture_output=True, text=True, timeout=DEADLINE_S)
    assert shown.stdout == f"{args} a b;c\n"


def test_dry_run_starts_nothing(script, capsys, tmp_path):
    path = script(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert main(["--dry-run", "-n", "2", path, "--lr", "0.1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"{path} --lr 0.1\n") == 2
    assert "LOCKSTEP_KEY_FILE=/dev/fd/N" in shown
    assert not re.search("[0-9a-f]{33}", shown)  # the job's name has 32, a key 64
    assert not (tmp_path / "ran").exists()


# -- lines ------------------------------------------------------------------------------------------------------------

LINES = {  # what arrives -> what is shown, before the end of the stream and after
    "a line": ([b"a\n"], b"> a\n", b""),
    "lines": ([b"a\n\nb\n"], b"> a\n> \n> b\n", b""),
    "in pieces": ([b"a", b"b", b"c\nd", b"\n"], b"> abc\n> d\n", b""),
    "not ended": ([b"a\nb"], b"> a\n", b"> b\n"),
    "nothing": ([], b"", b""),
    "not UTF-8": ([b"\xff\xfe\x00\n"], b"> \xff\xfe\x00\n", b""),
    "bar, last state": ([b"\r10%\r20%", b"\r30%\n", b"a\n"], b"> 30%\n> a\n", b""),
    "bar, return behind": ([b"10%\r20%\r", b"\na\n"], b"> 20%\n> a\n", b""),
    "bar, not ended": ([b"\r10%\r20%\r"], b"", b"> 20%\n"),
    "bar that clears itself": ([b"\r10%\r   \r", b"done\n"], b"> done\n", b""),
    "bar that clears itself last": ([b"\r10%\r   \r"], b"", b""),
    "CRLF": ([b"a\r\nb\r", b"\n\r\n"], b"> a\n> b\n> \n", b""),
    "too long": ([b"x" * 9, b"x" * 9, b"y\n"], b"> " + b"x" * 18 + b"\n> y\n", b""),
}

ON_A_TERMINAL = {
    "bar": ([b"\r10%\r20%", b"\r30%\n"], b"> 10%\r> 20%\r> 30%\n", b""),
    "bar, return behind": ([b"10%\r", b"\n"], b"> 10%\r> 10%\n", b""),
    "bar that clears itself": ([b"\r10%\r   \r"], b"> 10%\r>    \r", b""),
}


@pytest.mark.parametrize(
    "terminal, arrives, before, after",
    [(False, *row) for row in LINES.values()] + [(True, *row) for row in ON_A_TERMINAL.values()],
    ids=[*LINES, *(f"terminal, {name}" for name in ON_A_TERMINAL)],
)
def test_lines(terminal, arrives, before, after, monkeypatch):
    monkeypatch.setattr(output, "LINE_LIMIT", 16)
    lines = Lines(b"> ", terminal)
    assert b"".join(lines.feed(data) for data in arrives) == before
    assert lines.close() == after


def test_last_lines_are_kept():
    lines = Lines(b"> ", terminal=False)
    lines.feed(b"".join(b"%d\n" % i for i in range(30)) + b"y" * 5000 + b"\n")
    assert [*lines.last] == [b"%d" % i for i in range(11, 30)] + [b"y" * 1000]


def test_prefix():
    assert output.prefix(12, terminal=False, colour=False) == b"[12] "
    assert output.prefix(1, terminal=True, colour=False) == b"\x1b[K[1] "
    assert output.prefix(0, terminal=True, colour=True) == b"\x1b[K\x1b[36m[0]\x1b[0m "


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
        [f"[{rank}] {{'{max(1, usable_cores() // 2)}'}}" for rank in (0, 1)],
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
    run = f"from launch.supervisor import *; sys.exit(run({plan}))"
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
processes = [Process(rank, (sys.executable, sys.argv[2]), {"RANK": str(rank)}) for rank in range(int(sys.argv[1]))]
sys.exit(run(Plan(tuple(processes)), patience=Patience(0.3, 0.3, 0.3, 0.3)))
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


@pytest.mark.parametrize("make", (secret._key_in_memory, secret._key_in_private_file))
def test_a_key_can_be_read_again_and_goes_with_its_run(make):
    with make() as (path, fds):
        keys = {Path(path).read_text() for _ in range(2)}
        assert [len(bytes.fromhex(key)) for key in keys] == [32]
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
