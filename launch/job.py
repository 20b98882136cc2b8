"""From arguments to a `Job`: what the user asked for, checked, with nothing started and nothing chosen yet.

Contract: mistakes end as argparse's do, with a message on stderr and status 2. All that stands after the script belongs
to the script.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Each of these libraries starts a thread per core unless told otherwise, in every rank.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One program, `size` times."""

    size: int
    program: tuple[str, ...]  # ("train.py",) or ("-m", "package.module"), as Python takes it
    args: tuple[str, ...] = ()  # the program's own
    python: str = sys.executable
    cores: int = 1  # that this process may use, to be divided among the ranks
    user_threads: str = ""  # the user's own OMP_NUM_THREADS; empty if we choose
    launcher: str = "local"  # a row of launch.backends.LAUNCHERS
    as_torch: bool = False  # the program imports torch and means us
    dry_run: bool = False


def job_from_args(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Job:
    cores = usable_cores()
    parser = _parser()
    found = parser.parse_args(argv)
    if not found.module and not os.path.isfile(found.script):
        parser.error(
            f"script: expected an existing file, got {found.script!r}; looked in {os.getcwd()}; "
            f"a module is started with -m"
        )
    return Job(
        size=cores if found.n == "auto" else found.n,
        program=("-m", found.script) if found.module else (found.script,),
        args=tuple(found.args),
        cores=cores,
        user_threads=environ.get("OMP_NUM_THREADS", ""),
        as_torch=found.as_torch,
        dry_run=found.dry_run,
    )


def usable_cores() -> int:
    """Cores that this process may run on, which a container or taskset may have made fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddprun",
        description="Start a script several times on this host, as the ranks of one job.",
        epilog="Example: ddprun -n 4 train.py --lr 0.1",
        usage="ddprun [-n N | -n auto] [--as-torch] [--dry-run] {script.py | -m module} [arguments of the script ...]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-n",
        "--nproc-per-node",
        "--nproc_per_node",
        type=_count,
        default=1,
        dest="n",
        metavar="N",
        help='how many ranks; "auto" is one for each core (default: 1)',
    )
    parser.add_argument("-m", "--module", action="store_true", help="the script is a module, as in python -m")
    parser.add_argument(
        "--as-torch", action="store_true", help="the script is written for PyTorch: its torch and torchvision are Lockstep"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the environment and commands, and start nothing")
    parser.add_argument("script", metavar="script.py or module", help="what each rank runs")
    args = parser.add_argument(
        "args", nargs=argparse.REMAINDER, metavar="arguments", help="all that follows is the script's"
    )
    args.required = False  # argparse would name it too when the script is missing
    return parser


def _count(text: str) -> int | str:
    if text == "auto":
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f'expected a number of ranks, 1 or more, or "auto", got {text!r}')
    return int(text)
