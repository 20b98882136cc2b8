"""`launch` as tables: arguments, plans as golden data, lines of output, and runs with real processes.

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
import types
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ddp.env import FLAVOURS
from launch import cli, doctor, output, secret, supervisor, witness
from launch.backends import LAUNCHERS, load_launcher, mpirun
from launch.backends.base import Plan, Process, Session
from launch.backends.mpijob import yaml
from launch.cli import main
from launch.cores import shares, usable_cores
from launch.hostfile import Host
from launch.job import Job, job_from_args
from launch.output import Lines
from tests.jobs import HURRIED_DDPRUN

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
    for name in (
        "LOCKSTEP_JOB",
        "LOCKSTEP_KEY_FILE",
        "LOCKSTEP_RESTART",
        "OMP_NUM_THREADS",
        "NO_COLOR",
        "PYTHONUNBUFFERED",
    ):
        monkeypatch.delenv(name, raising=False)


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


# -- arguments --------------------------------------------------------------------------------------------------------

JOBS = {
    "a script": (["{file}"], {"size": 1, "program": ("{file}",)}),
    "-n": (["-n", "4", "{file}", "--lr", "0.1"], {"size": 4, "program": ("{file}",), "args": ("--lr", "0.1")}),
    "torchrun's": (["--nproc_per_node=3", "{file}"], {"size": 3, "program": ("{file}",)}),
    "torchrun's, dashes": (["--nproc-per-node", "3", "{file}"], {"size": 3, "program": ("{file}",)}),
    "auto": (["-n", "auto", "{file}"], {"size": len(usable_cores()), "program": ("{file}",)}),
    "a module": (["-n", "2", "-m", "pack.age", "-m"], {"size": 2, "program": ("-m", "pack.age"), "args": ("-m",)}),
    "the script's own": (
        ["{file}", "-n", "5", "--dry-run", "--", "-h"],
        {"args": ("-n", "5", "--dry-run", "--", "-h")},
    ),
    "dry run": (["--dry-run", "{file}"], {"dry_run": True, "args": ()}),
    "a host of several": (
        ["--nodes=2", "--node-rank", "1", "--rdzv", "a:7", "--key-file", "k", "{file}"],
        {"nodes": 2, "node_rank": 1, "master_addr": "a", "master_port": 7, "key_file": "k", "launcher": "local"},
    ),
    "torchrun's hosts": (
        "--nnodes=2 --node_rank=0 --rdzv_backend c10d --rdzv_id x --rdzv_endpoint=a --key-file k {file}".split(),
        {"nodes": 2, "node_rank": 0, "master_addr": "a", "master_port": 29500, "name": "x"},
    ),
    "torchrun's master": (
        "--nnodes 2 --node_rank 0 --master_addr 10.0.0.1 --master_port 7 --key-file k {file}".split(),
        {"master_addr": "10.0.0.1", "master_port": 7},
    ),
    "master without a port": (["--master-addr", "a", "{file}"], {"master_addr": "a", "master_port": 29500}),
    "torchrun's standalone": (["--standalone", "--nnodes=1", "{file}"], {"nodes": 1}),
    "restarts": (["--restarts", "3", "{file}"], {"restarts": 3}),
    "torchrun's restarts": (["--max_restarts=3", "{file}"], {"restarts": 3}),
    "tee": (["--log-dir", "/l", "{file}"], {"log_dir": "/l", "shown": None}),
    "files": (["--log-dir", "/l", "--output", "files", "{file}"], {"log_dir": "/l", "shown": ()}),
    "ranks": (["-n", "4", "--ranks", "0,3", "{file}"], {"shown": (0, 3)}),
    "timeline": (["--timeline", "/l/o.json", "--progress", "{file}"], {"timeline": "/l/o.json", "progress": True}),
    "bind": (["--bind", "cores", "{file}"], {"bind": True}),
    "no bind": (["--bind", "none", "{file}"], {"bind": False}),
    "mpirun": (
        ["--launcher", "mpirun", "--launcher-args", "--output tag -x 'A B'", "{file}"],
        {"launcher": "mpirun", "launcher_args": ("--output", "tag", "-x", "A B")},
    ),
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
    "no nodes": (["--nodes", "0", "x.py"], "1 or more, got '0'"),
    "elastic nodes": (["--nodes", "1:2", "x.py"], "1 or more, got '1:2'"),
    "node rank": (["--nodes", "2", "--node-rank", "2", "{file}"], "less than --nodes 2, got 2"),
    "hosts without the rest": (["--nodes", "2", "{file}"], "--node-rank and --rdzv HOST:PORT and --key-file as well"),
    "hosts without a key": (
        "--nodes 2 --node-rank 0 --rdzv a:1 {file}".split(),
        r"expected --key-file as .*ddprun keygen",
    ),
    "two endpoints": (["--rdzv", "a:1", "--master-port", "2", "{file}"], "one way to name the endpoint"),
    "port": (["--rdzv", "a:0", "x.py"], "1 to 65535, got '0'"),
    "no host": (["--rdzv", ":1", "x.py"], "name or an IPv4 address, got ':1'"),
    "IPv6": (["--rdzv", "::1:80", "x.py"], "IPv4 address, got '::1:80'"),
    "standalone": (["--standalone", "--nodes", "2", "{file}"], "one host, got --nodes 2"),
    "patience": (["--rdzv-timeout", "nan", "x.py"], "seconds, more than 0, got 'nan'"),
    "steps of who comes and goes": (["--elastic", "1:2", "--progress", "{file}"], "expected ranks that stay"),
    "a timeline of who comes and goes": (["--elastic", "1:2", "--timeline", "o", "{file}"], "expected ranks that stay"),
    "files nowhere": (["--output", "files", "{file}"], "add --log-dir"),
    "prefix and files": (["--output", "prefix", "--log-dir", "l", "{file}"], "leave one of the two out"),
    "ranks of nothing": (["--output", "files", "--log-dir", "l", "--ranks", "0", "{file}"], "use --output tee"),
    "no such rank": (["-n", "2", "--ranks", "0,2", "{file}"], "below 2, got 2"),
    "not ranks": (["--ranks", "0-2", "x.py"], "as in 0,3, got '0-2'"),
    "mpirun's output": (["--launcher", "mpirun", "--ranks", "0", "{file}"], "got --launcher mpirun; .*--launcher-args"),
    "unknown launcher": (["--launcher", "qsub", "x.py"], "'qsub'.*local.*ssh.*mpirun.*srun.*mpijob"),
    "ssh without hosts": (["--launcher", "ssh", "{file}"], "--hostfile as well"),
    "srun with a hostfile": (
        ["--launcher", "srun", "--hostfile", "h", "{file}"],
        "--launcher ssh or mpirun with it, got srun",
    ),
    "no hostfile": (["--hostfile", "nowhere", "{file}"], "--hostfile: expected a readable file"),
    "mpijob without an image": (["--launcher", "mpijob", "x.py"], "--image as well"),
    "mpijob, uneven": (
        "--launcher mpijob --image i --nodes 2 -n 3 x.py".split(),
        "as many ranks for each of 2 workers, got 3",
    ),
    "image alone": (["--image", "i", "{file}"], "--launcher mpijob with it, got local"),
    "bound by mpirun": (["--launcher", "mpirun", "--bind", "cores", "{file}"], "--launcher local or ssh with it"),
    "a host for mpirun": ("--launcher mpirun --node-rank 0 {file}".split(), "one command for all hosts with mpirun"),
    "nodes for mpirun": ("--launcher mpirun --nodes 2 {file}".split(), "from --hostfile"),
    "unknown option": (["--nnode", "2", "x.py"], "--nnode"),
}


@pytest.mark.parametrize("args, fields", JOBS.values(), ids=JOBS)
def test_job(args, fields, tmp_path):
    file = tmp_path / "x.py"
    file.touch()
    job = job_from_args([arg.format(file=file) for arg in args], environ={})
    for name, value in fields.items():
        if isinstance(value, tuple):
            value = tuple(part.format(file=file) if isinstance(part, str) else part for part in value)
        assert getattr(job, name) == value


@pytest.mark.parametrize("args, message", MISTAKES.values(), ids=MISTAKES)
def test_mistake(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.py").touch()
    with pytest.raises(SystemExit) as error:
        main([arg.format(file="there.py") for arg in args])
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


MPI_ENV = {
    "LOCKSTEP_JOB": "ab" * 16,
    "LOCKSTEP_KEY_FILE": "/dev/fd/7",
    "LOCKSTEP_RESTART": "0",
    "PYTHONUNBUFFERED": "1",
}
HOSTS = (Host("a", 2), Host("me@b", 1))
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=5")


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
        "LOCKSTEP_RESTART": "0",
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(size),
        "ROLE_NAME": "default",
        "GROUP_WORLD_SIZE": "1",
        "TORCHELASTIC_RUN_ID": "ab" * 16,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if threads:
        env |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return env


MPIJOB = """\
# Needs the Secret lockstep-key, made once by: \
ddprun keygen key && kubectl create secret generic lockstep-key --from-file=key
apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata:
  name: lockstep
spec:
  slotsPerWorker: 4
  runPolicy:
    cleanPodPolicy: Running
    backoffLimit: 3
  mpiReplicaSpecs:
    Launcher:
      replicas: 1
      restartPolicy: Never
      template:
        spec:
          containers:
            - name: launcher
              image: "hub.io/i:1"
              volumeMounts:
                - name: key
                  mountPath: /run/lockstep
                  readOnly: true
              env:
                - name: LOCKSTEP_JOB
                  value: lockstep
                - name: LOCKSTEP_KEY_FILE
                  value: /run/lockstep/key
                - name: PYTHONUNBUFFERED
                  value: "1"
              command:
                - mpirun
                - "-n"
                - "8"
                - "-x"
                - LOCKSTEP_JOB
                - "-x"
                - LOCKSTEP_KEY_FILE
                - "-x"
                - PYTHONUNBUFFERED
                - python3
                - a.py
          volumes:
            - name: key
              secret:
                secretName: lockstep-key
                defaultMode: 256
    Worker:
      replicas: 2
      restartPolicy: Never
      template:
        spec:
          containers:
            - name: worker
              image: "hub.io/i:1"
              volumeMounts:
                - name: key
                  mountPath: /run/lockstep
                  readOnly: true
          volumes:
            - name: key
              secret:
                secretName: lockstep-key
                defaultMode: 256
"""
CHOOSE = "(set OMP_NUM_THREADS to choose another number)"
PLANS = {
    "one": (
        Job(size=1, program=("a.py",), python="py", cores=(0, 1, 2, 3)),
        Plan(
            (Process(0, ("py", "a.py"), golden_env(0, 1, "4"), prefixed=False),),
            (f"1 rank on 4 cores, 4 threads for each {CHOOSE}",),
        ),
    ),
    "two, a module with arguments": (
        Job(size=2, program=("-m", "p.m"), args=("--lr", "a b"), python="py", cores=(0, 1, 2, 3, 4)),
        Plan(
            tuple(Process(r, ("py", "-m", "p.m", "--lr", "a b"), golden_env(r, 2, "2")) for r in (0, 1)),
            (f"2 ranks on 5 cores, 2 threads for each {CHOOSE}",),
        ),
    ),
    "more ranks than cores": (
        Job(size=3, program=("a.py",), python="py", cores=(0,)),
        Plan(
            tuple(Process(r, ("py", "a.py"), golden_env(r, 3, "1")) for r in (0, 1, 2)),
            (f"3 ranks on 1 core, 1 thread for each {CHOOSE}",),
        ),
    ),
    "the user's threads": (
        Job(size=1, program=("a.py",), python="py", cores=(0, 1, 2, 3), user_threads="3"),
        Plan(
            (Process(0, ("py", "a.py"), golden_env(0, 1, None), prefixed=False),),
            ("1 rank on 4 cores, OMP_NUM_THREADS=3 as you set it",),
        ),
    ),
    "bound": (
        Job(size=2, program=("a.py",), python="py", cores=(4, 6, 5), bind=True),
        Plan(
            tuple(Process(r, ("py", "a.py"), golden_env(r, 2, "1"), cores=((4,), (6,))[r]) for r in (0, 1)),
            (f"2 ranks on 3 cores, each bound to its own, 1 thread for each {CHOOSE}",),
        ),
    ),
    "too few to bind": (
        Job(size=2, program=("a.py",), python="py", cores=(0,), bind=True),
        Plan(
            tuple(Process(r, ("py", "a.py"), golden_env(r, 2, "1")) for r in (0, 1)),
            (f"2 ranks on 1 core, too few to bind each to its own, 1 thread for each {CHOOSE}",),
        ),
    ),
    "output": (
        Job(size=1, program=("a.py",), python="py", log_dir="/l", shown=()),
        Plan(
            (Process(0, ("py", "a.py"), golden_env(0, 1, "1") | {"LOCKSTEP_RECORD_DIR": "/l"}, prefixed=False),),
            (f"1 rank on 1 core, 1 thread for each {CHOOSE}",),
            log_dir="/l",
            shown=(),
        ),
    ),
    "ssh": (
        Job(
            size=3,
            program=("a.py",),
            args=("--lr", "a b"),
            python="py",
            directory="/my work",
            exports=(("PATH", "/bin:/my bin"),),
            launcher="ssh",
            hostfile="hosts",
            hosts=HOSTS,
            bind=True,
            log_dir="/l",
            shown=(0, 2),
            name="x",
            timeline="/l/o.json",
            progress=True,
        ),
        Plan(
            tuple(
                Process(
                    rank,
                    (
                        *SSH,
                        host.name,
                        "cd '/my work' && exec env 'PATH=/bin:/my bin' LOCKSTEP_RESTART=0 "
                        f"py -m launch -n {host.slots} --nodes 2 --node-rank {node} --rdzv a:29500 --rdzv-timeout 600 "
                        "--key-file - --job x --bind cores --output tee --log-dir /l --ranks 0,2 "
                        "--timeline /l/o.json --progress a.py --lr 'a b'",
                    ),
                    {},
                    name=f"host {host.name}",
                    prefixed=False,
                    commanded=True,
                )
                for node, (rank, host) in enumerate(zip((0, 2), HOSTS))
            ),
            ("3 ranks on 2 hosts of hosts, by ssh",),
        ),
    ),
    "mpirun": (
        Job(
            size=2,
            program=("a.py",),
            args=("b",),
            python="py",
            exports=(("PATH", "/bin"),),
            launcher="mpirun",
            launcher_args=("--output", "tag"),
            hostfile="hosts",
            timeline="/l/o.json",
        ),
        Plan(
            (
                Process(
                    0,
                    (
                        *"mpirun -n 2 --hostfile hosts -x LOCKSTEP_JOB -x LOCKSTEP_KEY_FILE -x LOCKSTEP_RESTART".split(),
                        *"-x LOCKSTEP_TIMELINE -x PYTHONUNBUFFERED -x PATH --output tag".split(),
                        *("py", "-IS", witness.__file__, "/dev/fd", "py", "a.py", "b"),
                    ),
                    MPI_ENV | {"LOCKSTEP_TIMELINE": "/l/o.json"} | mpirun.KEEPALIVE,
                    name="mpirun",
                    prefixed=False,
                ),
            ),
            ("2 ranks by mpirun",),
            witnessed="/dev/fd",
        ),
    ),
    "srun": (
        Job(
            size=4,
            program=("a.py",),
            python="py",
            launcher="srun",
            nodes=2,
            name="x",
            launcher_args=("-p", "gpu"),
            master_addr="h",
            master_port=7,
        ),
        Plan(
            (
                Process(
                    0,
                    (
                        *"srun --ntasks=4 --label --kill-on-bad-exit=1 --export=ALL --nodes=2 --job-name=x".split(),
                        *"-p gpu py a.py".split(),
                    ),
                    {**MPI_ENV, "MASTER_ADDR": "h", "MASTER_PORT": "7"},
                    name="srun",
                    prefixed=False,
                ),
            ),
            ("4 ranks by srun",),
        ),
    ),
    "mpijob": (
        Job(size=8, program=("a.py",), launcher="mpijob", nodes=2, image="hub.io/i:1", restarts=3),
        Plan((), manifest=MPIJOB),
    ),
}


@pytest.mark.parametrize("job, plan", PLANS.values(), ids=PLANS)
def test_plan(job, plan):
    assert load_launcher(job.launcher).plan(job, SESSION) == plan


def test_plan_of_one_host_of_several():
    """Ranks count on through hosts of different sizes."""
    job = Job(size=2, program=("a.py",), python="py", nodes=3, node_rank=1, restarts=4, name="x")
    session = replace(SESSION, master_addr="10.0.0.1", ranks=(4, 2, 1), restart=3)
    plan = load_launcher("local").plan(job, session)
    told = {
        "WORLD_SIZE": "7",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "3",
        "ROLE_WORLD_SIZE": "7",
        "MASTER_ADDR": "10.0.0.1",
        "LOCKSTEP_RESTART": "3",
        "TORCHELASTIC_RUN_ID": "x",
        "TORCHELASTIC_RESTART_COUNT": "3",
        "TORCHELASTIC_MAX_RESTARTS": "4",
    }
    for local_rank, process in enumerate(plan.processes):
        rank = str(4 + local_rank)
        assert process.rank == int(rank) and process.prefixed
        env = golden_env(local_rank, 2, "1") | told | {"RANK": rank, "ROLE_RANK": rank}
        assert process.env == env
    assert plan.notes == (f"node 1 of 3, from rank 4 of 7: 2 ranks on 1 core, 1 thread for each {CHOOSE}",)


@pytest.mark.parametrize(
    "cores, ranks, shared",
    [((0, 1), 2, ((0,), (1,))), ((0, 2, 1, 3), 2, ((0, 2), (1, 3))), ((0, 1, 2), 2, ((0,), (1,))), ((0,), 2, ((), ()))],
)
def test_shares_of_cores(cores, ranks, shared):
    assert shares(cores, ranks) == shared


def test_yaml():
    value = {"a": {}, "b": [1, "on", "a: b", [1, {"c": "d"}]], "e": {"f": [{"g": 1, "h": [True]}]}}
    lines = ["a: {}", "b:", "  - 1", '  - "on"', '  - "a: b"', "  - - 1", "    - c: d", "e:", "  f:"]
    assert yaml(value).splitlines() == [*lines, "    - g: 1", "      h:", "        - true"]


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


# -- commands ---------------------------------------------------------------------------------------------------------


def test_a_command_is_called_with_what_follows(monkeypatch):
    called = []
    monkeypatch.setitem(cli.SUBCOMMANDS, "keygen", "launch.secret:told")
    monkeypatch.setattr(secret, "told", called.append, raising=False)
    assert main(["keygen", "-x", "y"]) == 0
    assert called == [["-x", "y"]]


def test_a_command_that_is_a_job(monkeypatch, capsys):
    monkeypatch.setitem(cli.JOBS, "tune", ("ddp.__main__", "--tune"))
    assert main(["tune", "-n", "2", "--dry-run", "--", "--max", "1"]) == 0
    assert capsys.readouterr().out.count("-m ddp.__main__ --tune --max 1\n") == 2


def test_a_command_that_is_not_installed(monkeypatch, capsys):
    monkeypatch.setitem(cli.SUBCOMMANDS, "chaos", "ddp.no_such_module:main")
    assert main(["chaos"]) == 2
    assert "chaos: expected the module ddp.no_such_module, got none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, program",
    [
        (["bench", "-n", "2", "--max-mb", "1"], "-m ddp.bench --max-mb 1"),
        (["bench", "-n2", "--max-mb=1", "-n", "3"], "-m ddp.bench --max-mb=1 -n 3"),
        (["--tune", "-n", "2"], "-m ddp.bench --tune"),
    ],
)
def test_what_ddprun_does_not_know_is_the_commands(argv, program, capsys):
    argv[1:1] = ["--dry-run"]
    assert main(argv) == 0
    assert capsys.readouterr().out.count(f"{program}\n") == 2


def test_help_of_a_command_that_is_a_job(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["tune", "-h"])
    assert ended.value.code == 0 and "--max-mb" in capsys.readouterr().out


@pytest.mark.parametrize("argv", (["./doctor"], ["-n", "1", "doctor"], ["-n1", "doctor", "x"]))
def test_a_script_of_a_commands_name(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("doctor").write_text("")
    assert main(["--dry-run", *argv]) == 0
    assert re.search(r"(\./)?doctor( x)?\n$", capsys.readouterr().out)


# -- the doctor -------------------------------------------------------------------------------------------------------


def test_doctor(capsys):
    """This machine runs the tests, so it is well."""
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= len(doctor.CHECKS)
    assert all(re.match(r"OK      \S|note    \S", line) for line in lines)
    for word in ("Python 3.", "with CURVE", "MPI", "/dev/shm", "open files", "cores", "127.0.0.1", "name"):
        assert any(word in line for line in lines), word


def test_doctor_with_a_problem(monkeypatch, capsys):
    def broken():
        yield doctor.Finding(doctor.PROBLEM, "it is broken", "mend it")
        yield doctor.Finding(doctor.NOTE, "else it is well")

    monkeypatch.setattr(doctor, "CHECKS", (broken,))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out == "problem it is broken; mend it\nnote    else it is well\n"


PROBES = {
    "it says": ("say(x=1)", {"x": 1}),
    "it raises": ("import no_such_library", {"error": "ModuleNotFoundError: No module named 'no_such_library'"}),
    "it crashes": ("import os; os.abort()", {"error": "exit status -6"}),
    "it hangs": ("import time; time.sleep(100)", {"error": "no answer within 0.5 s"}),
}


@pytest.mark.parametrize("code, answer", PROBES.values(), ids=PROBES)
def test_doctor_asks(code, answer, monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_S", 0.5 if "hangs" in answer.get("error", "") or "sleep" in code else DEADLINE_S)
    assert doctor._probe(code) == answer


SAME_MPI = [
    ("Open MPI v5.0.11", "mpiexec (Open MPI) 5.0.11\n", True),
    ("Open MPI v4.1.4", "mpiexec (OpenRTE) 4.1.4\n", True),
    ("Open MPI v5.0.11", "mpiexec (OpenRTE) 4.1.4\n", False),
    ("MPICH Version:      4.2.3", "HYDRA build details:\n    Version:    4.2.3\n", True),
    ("MPICH Version:      4.2.3", "mpiexec (Open MPI) 4.2.3\n", False),
]


@pytest.mark.parametrize("library, mpiexec, same", SAME_MPI)
def test_doctor_compares_mpis(library, mpiexec, same):
    assert doctor._same_mpi(library, mpiexec) == same


def test_doctor_tries_an_endpoint(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", ())
    assert main(["doctor", "--rdzv", f"127.0.0.1:{cli._free_port()}"]) == 0
    assert re.match(r"note    127.0.0.1:\d+ does not answer here and now: .*--key-file PATH", capsys.readouterr().out)


def test_doctors_meet(tmp_path):
    key, endpoint = tmp_path / "key", f"127.0.0.1:{cli._free_port()}"
    assert main(["keygen", str(key)]) == 0
    argv = [sys.executable, "-m", "launch", "doctor", "--nodes", "2", "--rdzv", endpoint, "--key-file", str(key)]
    with subprocess.Popen([*argv, "--node-rank", "1"], stdout=subprocess.PIPE, text=True) as other:
        ended = subprocess.run([*argv, "--node-rank", "0"], capture_output=True, text=True, timeout=DEADLINE_S)
        out, _ = other.communicate(timeout=DEADLINE_S)
    assert ended.returncode == other.returncode == 0
    assert f"OK      all 2 hosts met at {endpoint}\n" in ended.stdout
    assert re.search(r"OK      node 0's clock is [+-]0\.\d\d\d s from ours\n", out)


def test_doctor_reads_recordings(monkeypatch, capsys):
    reader = types.ModuleType("ddp.doctor")
    reader.diagnose = lambda paths: f"read {paths}"
    monkeypatch.setattr(doctor, "find_spec", lambda name: True)
    monkeypatch.setattr(doctor, "import_module", lambda name: {"ddp.doctor": reader}[name])
    assert main(["doctor", "a.json", "b.json"]) == 0
    assert capsys.readouterr().out == "read ['a.json', 'b.json']\n"
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert main(["doctor", "a.json"]) == 2
    assert "expected the module ddp.doctor" in capsys.readouterr().err


def test_doctor_finds_no_recording(monkeypatch, capsys):
    def diagnose(paths):
        raise ValueError(f"no record in {paths}")

    monkeypatch.setattr(doctor, "import_module", lambda name: types.SimpleNamespace(diagnose=diagnose))
    monkeypatch.setattr(doctor, "find_spec", lambda name: True)
    assert main(["doctor", "a.json"]) == 2
    assert capsys.readouterr().err == "ddprun: doctor: no record in ['a.json']\n"
