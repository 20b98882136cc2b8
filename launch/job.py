"""From arguments to a `Job`: what the user asked for, checked, with nothing started and nothing chosen yet.

Contract: mistakes end as argparse's do, with a message on stderr and status 2. All that stands after the script belongs
to the script. torchrun's names for what it has, too, are understood.

How many ranks `-n` means: with one command on each host (`--nodes`), as many on this host; hosts may differ. Where one
command starts the whole job (`--hostfile`, mpirun, srun, an MPIJob), as many in all, as with mpirun and srun themselves.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ddp.errors import WorldError
from launch import values
from launch.backends import LAUNCHERS
from launch.cores import usable_cores
from launch.hostfile import Host, read_hosts, seat
from launch.values import MASTER_PORT

# Each of these libraries starts a thread per core unless told otherwise, in every rank.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What other hosts get of this environment, besides our own variables and the working directory.
EXPORTED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
# For --key-file: the key is the first line of standard input, and the run ends when that does. See `backends.ssh`.
KEY_FROM_STDIN = "-"


@dataclass(frozen=True)
class Job:
    """One program, `size` times."""

    size: int
    program: tuple[str, ...]  # ("train.py",) or ("-m", "package.module"), as Python takes it
    args: tuple[str, ...] = ()  # the program's own
    python: str = sys.executable
    as_torch: bool = False  # the program imports torch and means us
    cpu_devices: int | None = None  # as_torch: the CPU stands in for so many GPUs; 0: one for each rank of a host
    name: str = ""  # for people and schedulers
    # this host
    cores: tuple[int, ...] = (0,)  # that this process may use, to be divided among the ranks
    bind: bool = False  # each rank to its share of them
    user_threads: str = ""  # the user's own OMP_NUM_THREADS; empty if we choose
    directory: str = ""
    exports: tuple[tuple[str, str], ...] = ()  # of EXPORTED, what is set here
    # several hosts
    nodes: int = 1
    node_rank: int = 0
    master_addr: str = ""
    master_port: int = 0  # 0: we choose
    key_file: str = ""  # the user's own; empty: a new key for this run; or KEY_FROM_STDIN
    meeting_timeout_s: float = 600.0
    # who starts the ranks
    launcher: str = "local"  # a row of launch.backends.LAUNCHERS
    launcher_args: tuple[str, ...] = ()  # for mpirun or srun, as they are
    hostfile: str = ""
    hosts: tuple[Host, ...] = ()  # with as many slots as ranks
    image: str = ""
    inline_secret: bool = False
    # what is seen of it, and what happens when it fails
    restarts: int = 0
    restarted: int = 0  # so often before we began: LOCKSTEP_RESTART here
    log_dir: str = ""  # for files rank-0.out, rank-0.err, and rank-0.json if it fails; empty: none
    timeline: str = ""  # file for the timeline of all ranks; empty: none
    progress: bool = False  # rank 0 counts steps
    shown: tuple[int, ...] | None = None  # ranks whose lines we show; None: all
    dry_run: bool = False
    # workers that may come and go
    elastic: tuple[int, int] | None = None  # how few and how many
    replace: bool = False  # those that are killed
    join: bool = False  # these are for a job that runs already, whose desk is at master_addr:master_port


def job_from_args(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Job:
    parser = _parser()
    found = parser.parse_args(argv)
    try:
        return _checked(found, environ)
    except WorldError as error:
        parser.error(str(error))


def own_options(argv: Sequence[str]) -> int:
    """How many of the arguments are options of ddprun and their values: up to "--", or to an option that it has not."""
    known = _parser()._option_string_actions
    for i, arg in enumerate(argv):
        if arg == "--" or (arg.startswith("--") and arg.partition("=")[0] not in known):
            return i
    return len(argv)


def _checked(found: argparse.Namespace, environ: Mapping[str, str]) -> Job:
    launcher = found.launcher or ("ssh" if found.hostfile else "local")
    cores = usable_cores()
    address, port = (
        found.join or found.rdzv or (found.master_addr, found.master_port or (MASTER_PORT if found.master_addr else 0))
    )
    hosts = read_hosts(found.hostfile) if found.hostfile and launcher == "ssh" else ()
    most = found.elastic[1] if found.elastic else 0
    size = len(cores) if found.n == "auto" else found.n or most or sum(host.slots for host in hosts) or 1
    restarted = environ.get("LOCKSTEP_RESTART", "")
    job = Job(
        size=size,
        program=("-m", found.script) if found.module else (found.script,),
        args=tuple(found.args),
        as_torch=found.as_torch,
        cpu_devices=found.cpu_devices,
        name=found.job,
        cores=cores,
        bind=found.bind == "cores",
        user_threads=environ.get("OMP_NUM_THREADS", ""),
        directory=os.getcwd(),
        exports=tuple((name, environ[name]) for name in EXPORTED if environ.get(name)),
        nodes=found.nodes,
        node_rank=found.node_rank or 0,
        master_addr=address,
        master_port=port,
        key_file=found.key_file,
        meeting_timeout_s=found.rdzv_timeout,
        launcher=launcher,
        launcher_args=tuple(shlex.split(found.launcher_args)),
        hostfile=found.hostfile,
        hosts=seat(hosts, size, found.hostfile) if hosts else (),
        image=found.image,
        inline_secret=found.inline_secret,
        restarts=found.restarts,
        restarted=int(restarted) if restarted.isascii() and restarted.isdigit() else 0,
        log_dir=os.path.abspath(found.log_dir) if found.log_dir else "",
        shown=() if found.output == "files" else found.ranks,
        timeline=os.path.abspath(found.timeline) if found.timeline else "",
        progress=found.progress,
        dry_run=found.dry_run,
        elastic=(1, size) if found.join else found.elastic,
        replace=found.replace,
        join=bool(found.join),
    )
    _check_elastic(job, found)
    _check_program(job)
    _check_output(job, found)
    _check_hosts(job, found)
    _check_launcher(job)
    return job


# -- rules for several arguments at a time ----------------------------------------------------------------------------


def _check_program(job: Job) -> None:
    script = job.program[0]
    if job.cpu_devices is not None and not job.as_torch:
        raise WorldError("--cpu: expected --as-torch with it, for a script that asks torch for GPUs, got none")
    if script != "-m" and job.launcher != "mpijob" and not os.path.isfile(script):
        raise WorldError(
            f"script: expected an existing file, got {script!r}; looked in {os.getcwd()}; a module is started with -m"
        )


def _check_elastic(job: Job, found: argparse.Namespace) -> None:
    if job.replace and not job.elastic:
        raise WorldError("--replace: expected --elastic MIN:MAX with it, got none; --restarts N starts all ranks again")
    if job.join and (found.elastic or found.rdzv):
        raise WorldError(
            "--join: expected neither --elastic nor --rdzv with it, which are for who starts the job, got one"
        )
    if job.elastic and (job.launcher != "local" or job.nodes > 1 or job.bind):
        raise WorldError(
            "--elastic: expected workers on this host, not bound to cores, got several hosts, --bind or another launcher; "
            "other hosts come by ddprun --join HOST:PORT"
        )
    if job.elastic and job.master_addr and not job.key_file:
        raise WorldError(
            f"{'--join' if job.join else '--rdzv'}: expected --key-file KEY as well, got none; make a key with ddprun keygen"
        )
    shared = job.master_addr and not job.join  # then others may come
    if job.elastic and not (1 if shared else job.elastic[0]) <= job.size <= job.elastic[1]:
        raise WorldError(f"--elastic {job.elastic[0]}:{job.elastic[1]}: expected -n between them, got {job.size}")


def _check_output(job: Job, found: argparse.Namespace) -> None:
    if found.output in ("files", "tee") and not job.log_dir:
        raise WorldError(f"--output {found.output}: expected a directory for the files, got none; add --log-dir DIR")
    if found.output == "prefix" and job.log_dir:
        raise WorldError("--log-dir: expected --output files or tee with it, got prefix; leave one of the two out")
    if found.output == "files" and found.ranks is not None:
        raise WorldError("--ranks: expected output that is shown, got --output files; use --output tee")
    if (found.output or found.ranks or job.log_dir) and job.launcher not in ("local", "ssh"):
        raise WorldError(
            f"--output, --log-dir, --ranks: expected ranks that ddprun starts, got --launcher {job.launcher}; "
            f"give {job.launcher} its own options: --launcher-args='…'"
        )
    if (job.timeline or job.progress) and (job.elastic or job.launcher == "mpijob"):
        raise WorldError(
            "--timeline, --progress: expected ranks that stay, and can write here, got --elastic or --launcher mpijob"
        )
    if job.nodes == 1 and (absent := [rank for rank in found.ranks or () if rank >= job.size]):
        raise WorldError(f"--ranks: expected ranks below {job.size}, got {absent[0]}; ranks count from 0")


def _check_hosts(job: Job, found: argparse.Namespace) -> None:
    if found.rdzv and (found.master_addr or found.master_port):
        raise WorldError("--rdzv: expected one way to name the endpoint, got --master-addr or --master-port as well")
    if found.standalone and job.nodes > 1:
        raise WorldError(f"--standalone: expected one host, got --nodes {job.nodes}; leave one of the two out")
    if not job.node_rank < job.nodes:
        raise WorldError(
            f"--node-rank: expected less than --nodes {job.nodes}, got {job.node_rank}; hosts count from 0"
        )
    if job.launcher != "local":
        if found.node_rank is not None:
            raise WorldError(
                f"--node-rank: expected one command for all hosts with {job.launcher}, got a host's number"
            )
    elif job.nodes > 1:
        needs = {
            "--node-rank": found.node_rank is not None,
            "--rdzv HOST:PORT": job.master_addr,
            "--key-file": job.key_file,
        }
        if missing := [name for name, given in needs.items() if not given]:
            raise WorldError(
                f"--nodes {job.nodes}: expected {' and '.join(missing)} as well, got none; run on each host: "
                f"ddprun --nodes {job.nodes} --node-rank K --rdzv FIRST_HOST:{MASTER_PORT} --key-file KEY …, "
                f"and make the key once with ddprun keygen"
            )


def _check_launcher(job: Job) -> None:
    for option, given, launchers in (
        ("--hostfile", job.hostfile, ("ssh", "mpirun")),
        ("--launcher-args", job.launcher_args, ("mpirun", "srun")),
        ("--image", job.image, ("mpijob",)),
        ("--inline-secret", job.inline_secret, ("mpijob",)),
        ("--bind cores", job.bind, ("local", "ssh")),
    ):
        if given and job.launcher not in launchers:
            raise WorldError(f"{option}: expected --launcher {' or '.join(launchers)} with it, got {job.launcher}")
    if job.bind and not hasattr(os, "sched_setaffinity"):
        raise WorldError(f"--bind cores: expected a system that binds processes to cores, got {sys.platform}")
    for launcher, option, given in (("ssh", "--hostfile", job.hostfile), ("mpijob", "--image", job.image)):
        if job.launcher == launcher and not given:
            raise WorldError(f"--launcher {launcher}: expected {option} as well, got none")
    if job.launcher in ("ssh", "mpirun") and job.nodes > 1:
        raise WorldError(f"--nodes: expected the hosts of {job.launcher} from --hostfile, got a number")
    if job.launcher == "ssh" and job.key_file:
        raise WorldError("--key-file: expected none with --hostfile, where each run gets a key of its own over ssh")
    if job.launcher == "mpijob" and job.size % job.nodes:
        raise WorldError(
            f"-n: expected as many ranks for each of {job.nodes} workers, got {job.size}; change -n or --nodes"
        )


# -- the arguments ----------------------------------------------------------------------------------------------------


def _elastic(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    if not (least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
        raise argparse.ArgumentTypeError(f"expected MIN:MAX, as in 1:4, got {text!r}")
    return int(least), int(most)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddprun",
        description="Start a script several times, as the ranks of one job.",
        epilog="Examples: ddprun -n 4 train.py --lr 0.1; on each of two hosts, K being 0 and 1: ddprun --nodes 2 "
        "--node-rank K --rdzv host0:29500 --key-file key -n 4 train.py; ddprun --hostfile hosts train.py. "
        "Other commands: ddprun {keygen,doctor,bench,tune,chaos,verify} --help; a script of that name is ./doctor.",
        usage="ddprun [-n N | -n auto] [options] {script.py | -m module} [arguments of the script ...]",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        *("-n", "--nproc-per-node", "--nproc_per_node"),
        type=values.count,
        dest="n",
        metavar="N",
        help='how many ranks, on this host or, where one command starts all hosts, in all; "auto" is one for each core '
        "(default: 1, or all slots of the hostfile)",
    )
    add("-m", "--module", action="store_true", help="the script is a module, as in python -m")
    add(
        "--as-torch",
        action="store_true",
        help="the script is written for PyTorch: its torch and torchvision are Lockstep",
    )
    add(
        "--cpu",
        action="store_const",
        const=0,
        dest="cpu_devices",
        help="with --as-torch: where the script asks for GPUs (cuda:K, .to(rank), nccl) it gets the CPU, one GPU for each "
        "rank of a host, or for each core if there is one rank; autocast of the GPU computes in float32",
    )
    add(
        *("--cpu-devices", "--cpu_devices"),
        type=values.positive,
        metavar="N",
        help="--cpu, and the script sees N GPUs, for one that starts a process for each",
    )
    add("--dry-run", action="store_true", help="print the environment and commands, and start nothing")
    add(
        "--bind", choices=("cores", "none"), default="none", help="cores: each rank runs on its share of the cores only"
    )
    add("--job", "--rdzv-id", "--rdzv_id", default="", metavar="NAME", help="a name for the job, the same on all hosts")
    add(
        *("--restarts", "--max-restarts", "--max_restarts"),
        type=values.natural,
        default=0,
        metavar="N",
        help="after a failure start all ranks again, so often; LOCKSTEP_RESTART tells them how often it has been",
    )

    add(
        "--elastic",
        type=_elastic,
        metavar="MIN:MAX",
        help="for ddp.Lockstep: start MAX workers (or -n), and go on as long as MIN of them are left",
    )
    add("--replace", action="store_true", help="with --elastic: start another worker for one that is killed")
    add(
        "--join",
        type=values.endpoint,
        metavar="HOST:PORT",
        help="start N more workers, on this host, for a job that runs already: --elastic MIN:MAX --rdzv HOST:PORT there",
    )

    add = parser.add_argument_group("what is shown").add_argument
    add(
        "--output",
        choices=("prefix", "files", "tee"),
        help="show the ranks' lines behind a prefix, write them to files, or both (default: prefix; tee with --log-dir)",
    )
    add(
        *("--log-dir", "--log_dir"),
        default="",
        metavar="DIR",
        help="for the files rank-0.out, rank-0.err, … and, when the job fails, rank-0.json, … for `ddprun doctor DIR`",
    )
    add("--ranks", type=values.ranks, metavar="0,3", help="show the lines of these ranks only; files get all")
    add("--progress", action="store_true", help="rank 0 shows how many steps it has made, and how fast")
    add(
        "--timeline",
        default="",
        metavar="OUT.json",
        help="what each rank computed, sent and waited for, for ui.perfetto.dev: a file of all ranks, when they have ended",
    )

    add = parser.add_argument_group("several hosts: the same command on each").add_argument
    add("--nodes", "--nnodes", type=values.positive, default=1, metavar="N", help="how many hosts")
    add("--node-rank", "--node_rank", type=values.natural, metavar="K", help="which of them this is, from 0")
    add(
        *("--rdzv", "--rdzv-endpoint", "--rdzv_endpoint"),
        type=values.endpoint,
        metavar="HOST:PORT",
        help="where node 0 listens, as the others reach it; TCP, and further ports that the system chooses",
    )
    add("--master-addr", "--master_addr", default="", metavar="HOST", help="the same, in two words")
    add("--master-port", "--master_port", type=values.port, default=0, metavar="PORT", help=f"(default: {MASTER_PORT})")
    add("--key-file", default="", metavar="PATH", help="the job's key, on every host; made by: ddprun keygen PATH")
    add(
        "--rdzv-timeout",
        type=values.seconds,
        default=600.0,
        metavar="S",
        help="how long to wait for a host (default: 600)",
    )
    add("--rdzv-backend", "--rdzv_backend", choices=("c10d", "static"), help="torchrun's; there is only one way here")
    add("--standalone", action="store_true", help="torchrun's: one host, which is the default")

    add = parser.add_argument_group("several hosts: one command for all").add_argument
    add(
        "--hostfile",
        default="",
        metavar="FILE",
        help="lines `host slots=4`: start the ranks there by ssh, or by mpirun",
    )
    add("--launcher", choices=tuple(LAUNCHERS), help="who starts the ranks (default: local; ssh with --hostfile)")
    add(
        "--launcher-args",
        default="",
        metavar="ARGS",
        help="further arguments of mpirun or srun: --launcher-args='-x A'",
    )
    add("--image", default="", help="mpijob: the container's image, with Python, Lockstep and the script in it")
    add("--inline-secret", action="store_true", help="mpijob: print a Secret with a new key as well")

    parser.add_argument("script", metavar="script.py or module", help="what each rank runs")
    args = parser.add_argument(
        "args", nargs=argparse.REMAINDER, metavar="arguments", help="all that follows is the script's"
    )
    args.required = False  # argparse would name it too when the script is missing
    return parser
