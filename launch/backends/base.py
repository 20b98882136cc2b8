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


@dataclass(frozen=True)
class Session:
    """What is new in each run of a job. Chosen outside, so that a plan can be a pure function."""

    job: str  # 32 hexadecimal digits
    master_port: int
    key_file: str


@dataclass(frozen=True)
class Process:
    rank: int
    argv: tuple[str, ...]
    env: Mapping[str, str]  # set on top of the environment that the supervisor runs in


@dataclass(frozen=True)
class Plan:
    processes: tuple[Process, ...]
    notes: tuple[str, ...] = ()  # decisions that the user should know of, a line each

    def describe(self) -> str:
        """The plan as text that a shell can read."""
        lines = [f"# {note}" for note in self.notes]
        for process in self.processes:
            settings = [shlex.quote(f"{name}={value}") for name, value in process.env.items()]
            lines += [f"# rank {process.rank}", " \\\n    ".join(["env", *settings, shlex.join(process.argv)])]
        return "\n".join(lines)


class Launcher:
    """A way to start the processes of a job."""

    name: str = "base"

    def plan(self, job: Job, session: Session) -> Plan:
        raise NotImplementedError
