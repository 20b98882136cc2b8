"""`launch` as tables, with nothing started: arguments, plans as golden data, lines of output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch import output, witness
from launch.backends import LAUNCHERS, load_launcher, mpirun
from launch.backends.base import Plan, Process, Session
from launch.backends.mpijob import yaml
from launch.cli import main
from launch.cores import shares, usable_cores
from launch.hostfile import Host
from launch.job import Job, job_from_args
from launch.output import Lines

pytestmark = [pytest.mark.timeout(40), pytest.mark.usefixtures("no_world")]

DEADLINE_S = 20.0


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
def test_plan(job, plan, monkeypatch):
    monkeypatch.setattr(mpirun, "is_hydra", lambda program: False)  # whatever this machine has; Hydra's is in test_launch_hosts
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


def test_dry_run_starts_nothing(capsys, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert main(["--dry-run", "-n", "2", str(path), "--lr", "0.1"]) == 0
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
