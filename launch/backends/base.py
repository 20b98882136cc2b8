"""The seam between a job and whatever starts processes: a launcher turns a `Job` into a `Plan`.

Contract: `plan` is a pure function of the job and the session. A plan is data: `--dry-run` prints it, tests compare it,
and the supervisor runs it without knowing who made it. Not here: starting anything, and the secret itself (a plan holds
the path of the file that does).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from launch.job import Job

# Stands in a manifest where a new key goes when it is printed: a plan holds no secret.
KEY_HERE = "<64 hexadecimal digits>"


@dataclass(frozen=True)
class Session:
    """What is new in each run of a job. Chosen outside, so that a plan can be a pure function."""

    job: str  # 32 hexadecimal digits
    master_port: int
    key_file: str
    master_addr: str = "127.0.0.1"
    ranks: tuple[int, ...] = ()  # on each host, by node; empty: this host has all
    restart: int = 0


@dataclass(frozen=True)
class Process:
    rank: int
    argv: tuple[str, ...]
    env: Mapping[str, str]  # set on top of the environment that the supervisor runs in
    name: str = ""  # what reports call it, where it is not the one rank
    prefixed: bool = True  # its lines stand behind its rank; if not, they say themselves whose they are
    cores: tuple[int, ...] = ()  # it may run on these only; empty: on all
    # Its standard input is the job's key, then the number of each signal for it, a line each; it ends when we do.
    commanded: bool = False

    @property
    def title(self) -> str:
        return self.name or f"rank {self.rank}"


@dataclass(frozen=True)
class Plan:
    processes: tuple[Process, ...]
    notes: tuple[str, ...] = ()  # decisions that the user should know of, a line each
    log_dir: str = ""  # for the processes' output; empty: no files
    shown: tuple[int, ...] | None = None  # the ranks whose output is shown; None: all
    witnessed: str = ""  # directory where a `launch.witness` tells of each rank; empty: there is none
    manifest: str = ""  # for somebody else to run: printed, instead of running anything

    def describe(self) -> str:
        """The plan as text that a shell can read."""
        if self.manifest:
            return self.manifest.rstrip("\n")
        lines = [f"# {note}" for note in self.notes]
        for process in self.processes:
            settings = [shlex.quote(f"{name}={value}") for name, value in process.env.items()]
            bound = ["taskset", "--cpu-list", ",".join(map(str, process.cores))] if process.cores else []
            words = [shlex.join(bound)] if bound else []
            lines += [f"# {process.title}", " \\\n    ".join([*words, "env", *settings, shlex.join(process.argv)])]
        return "\n".join(lines)


class Launcher:
    """A way to start the processes of a job."""

    name: str = "base"
    # Where the ranks find the key: in memory that they inherit, or (started by others) in a private file on a disk
    # that all hosts share.
    inherits: bool = True
    runs: bool = True  # if not, its plan is a manifest for somebody else

    def plan(self, job: Job, session: Session) -> Plan:
        raise NotImplementedError


def command(job: Job) -> tuple[str, ...]:
    """What each rank runs."""
    return (job.python, *(("-m", "launch.as_torch", *cpu(job)) if job.as_torch else ()), *job.program, *job.args)


def cpu(job: Job) -> tuple[str, ...]:
    """What of --cpu and --cpu-devices was given, as `launch.as_torch` and ddprun understand it."""
    if job.cpu_devices is None:
        return ()
    return ("--cpu-devices", str(job.cpu_devices)) if job.cpu_devices else ("--cpu",)


def wishes(job: Job) -> dict[str, str]:
    """What is to be seen of the ranks, in the variables of `ddp.timeline`, `ddp.progress` and `ddp.recorder`."""
    env = {
        "LOCKSTEP_TIMELINE": job.timeline,
        "LOCKSTEP_PROGRESS": "1" if job.progress else "",
        "LOCKSTEP_RECORD_DIR": job.log_dir,
    }
    return {name: value for name, value in env.items() if value}


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
