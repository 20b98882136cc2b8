"""Who am I in this job? From environment variables to a `World`, and back.

Contract: pure functions over a mapping, no library imported, nothing opened. No variables at all is a world of one, so
a script has no `if distributed`. Several launchers may have left their variables (mpirun inside Slurm does); they must
agree, or the error names the variables that do not. This is the only module of `ddp` that `launch` imports.

A launcher is a row of `FLAVOURS`. The first row that tells a field wins; a later row that tells another rank or size
is an error, with one exception. A Slurm step may be a mere carrier, whose tasks are not ranks but the daemons or agents
of another launcher: mpirun and torchrun start theirs by srun. So Slurm's row is silent where another launcher has left
proof that it started this process.

Ranks that srun starts need nothing else over MPI. Over ZeroMQ they need the job's key: LOCKSTEP_KEY_FILE with the path
of a file that `ddprun keygen` made on a disk that all nodes see (`ddprun --launcher srun` sees to that). The host and
port where they meet, and the job's name, are Slurm's, unless MASTER_ADDR, MASTER_PORT or LOCKSTEP_JOB tell others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ddp.errors import WorldError

# Ports for jobs that only Slurm describes.
_SLURM_PORTS = range(20000, 30000)
# The exit status of a worker of an elastic job that came when the run had ended: neither a failure nor the job's success.
LATE_STATUS = 214


@dataclass(frozen=True)
class World:
    """This process's place in the job."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among the processes of this host
    local_size: int = 1
    node_rank: int = 0
    launcher: str = "none"  # who started us: a row of FLAVOURS, or "none"
    master_addr: str = ""  # host of rank 0, where rendezvous happens between hosts
    master_port: int = 0
    job: str = ""  # name of the job, the same on all ranks; not a secret
    key_file: str = ""  # path of the file that holds the job's secret; never the secret itself
    restart: int = 0  # how often the job has been started again after a failure

    def to_env(self) -> dict[str, str]:
        """The variables that tell a process its place, in the words of torchrun and ours: the row "ddprun"."""
        env = {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_size),
            "GROUP_RANK": str(self.node_rank),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port or ""),
            "LOCKSTEP_JOB": self.job,
            "LOCKSTEP_KEY_FILE": self.key_file,
            "LOCKSTEP_RESTART": str(self.restart),
        }
        return {name: value for name, value in env.items() if value}


@dataclass(frozen=True)
class Flavour:
    """One launcher's variables: field of `World` -> name. An empty name is a field that this launcher does not tell."""

    name: str
    rank: str
    size: str = ""
    local_rank: str = ""
    local_size: str = ""
    tasks_per_node: str = ""  # Slurm's way to tell local_size: "2(x3),1" is 2, 2, 2 and 1, by node_rank
    node_rank: str = ""
    only_with: str = ""  # without this variable the row is silent
    proof: tuple[str, ...] = ()  # any of these, next to a rank, says that this launcher itself started this process


FLAVOURS = (
    Flavour(
        "ddprun",  # and torchrun, and whoever sets RANK and WORLD_SIZE by hand
        rank="RANK",
        size="WORLD_SIZE",
        local_rank="LOCAL_RANK",
        local_size="LOCAL_WORLD_SIZE",
        node_rank="GROUP_RANK",
        proof=("LOCKSTEP_JOB", "TORCHELASTIC_RUN_ID"),
    ),
    Flavour(
        "openmpi",
        rank="OMPI_COMM_WORLD_RANK",
        size="OMPI_COMM_WORLD_SIZE",
        local_rank="OMPI_COMM_WORLD_LOCAL_RANK",
        local_size="OMPI_COMM_WORLD_LOCAL_SIZE",
        proof=("OMPI_COMM_WORLD_RANK",),
    ),
    Flavour(
        "mpich",  # Hydra: MPICH, Intel MPI, MVAPICH; srun --mpi=pmi2 tells rank and size only
        rank="PMI_RANK",
        size="PMI_SIZE",
        local_rank="MPI_LOCALRANKID",
        local_size="MPI_LOCALNRANKS",
        proof=("MPI_LOCALRANKID",),
    ),
    Flavour(
        "slurm",  # a batch script has SLURM_PROCID=0 and SLURM_NTASKS too: only a step has SLURM_STEP_NUM_TASKS
        rank="SLURM_PROCID",
        size="SLURM_STEP_NUM_TASKS",
        local_rank="SLURM_LOCALID",
        tasks_per_node="SLURM_STEP_TASKS_PER_NODE",
        node_rank="SLURM_NODEID",
        only_with="SLURM_STEP_NUM_TASKS",
    ),
    Flavour("pmix", rank="PMIX_RANK"),  # tells no size: it confirms another row, or completes an exported WORLD_SIZE
)


def world_from_env(environ: Mapping[str, str] = os.environ) -> World:
    """The world that the variables describe. `WorldError` names the variables at fault.

    Where no variable tells its place on the host, a process is alone there, as in a Kubernetes pod. A local rank without
    a local size that is the rank itself, as scripts set it by hand, means that all ranks are on this host.
    """
    rows = _speaking(environ)
    if not rows:
        return World()
    rank, size = _pair("rank", "size", rows, environ) or (0, 1)
    local_rank, local_size = _place((rank, size), rows, environ)
    node_rank = _told("node_rank", rows, environ)
    return World(
        rank=rank,
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        node_rank=node_rank[0].value if node_rank else 0,
        launcher=next(row.name for row in rows if environ.get(row.rank)),
        key_file=environ.get("LOCKSTEP_KEY_FILE", ""),
        restart=_first_number(("LOCKSTEP_RESTART", "TORCHELASTIC_RESTART_COUNT"), environ),
        **_meeting_point(rows, environ),
    )


def world_of_script(rank: int, size: int, environ: Mapping[str, str] = os.environ) -> World:
    """The world of a rank that a script has numbered itself: what a launcher says of ranks is of others, in which this
    one may well run (mpirun and srun start scripts that start ranks). The meeting point and the key are the
    environment's, but for a key that only the ranks of others have inherited; its place on the host is not told.
    """
    key_file = environ.get("LOCKSTEP_KEY_FILE", "")
    if key_file.startswith("/dev/fd/") and (environ.get("RANK"), environ.get("WORLD_SIZE")) != (str(rank), str(size)):
        key_file = ""  # in a process that a rank of ddprun has spawned that descriptor is nothing, or something else
    return replace(World(rank, size, launcher="script", key_file=key_file), **_meeting_point([], environ))


# -- the rows that speak, and what they tell --------------------------------------------------------------------------


class _Told(NamedTuple):
    value: int
    variable: str

    def __str__(self) -> str:
        return f"{self.variable}={self.value}"


def _speaking(environ: Mapping[str, str]) -> list[Flavour]:
    """Rows that tell a rank or a size. An empty variable is an absent one."""
    rows = [
        row
        for row in FLAVOURS
        if (environ.get(row.rank) or environ.get(row.size)) and (not row.only_with or environ.get(row.only_with))
    ]
    proven = any(environ.get(row.rank) and any(environ.get(name) for name in row.proof) for row in rows)
    return [row for row in rows if not (proven and row.name == "slurm")]


def _told(field: str, rows: list[Flavour], environ: Mapping[str, str]) -> list[_Told]:
    """What each row tells of a field, in the order of the rows."""
    told = []
    for row in rows:
        variable = getattr(row, field)
        if environ.get(variable):
            told.append(_Told(_number(variable, environ[variable]), variable))
        elif field == "local_size" and environ.get(row.tasks_per_node):
            node = _number(row.node_rank, environ.get(row.node_rank) or "0")
            told.append(_Told(_tasks_on(node, row.tasks_per_node, environ[row.tasks_per_node]), row.tasks_per_node))
    return told


def _pair(rank: str, size: str, rows: list[Flavour], environ: Mapping[str, str]) -> tuple[int, int] | None:
    """A rank among so many; None if no row tells either."""
    ranks, sizes = _told(rank, rows, environ), _told(size, rows, environ)
    if not ranks and not sizes:
        return None
    if not ranks or not sizes:
        got, lacks = (ranks or sizes)[0], getattr(FLAVOURS[0], size if ranks else rank)
        raise WorldError(
            f"environment: expected a rank and the number of ranks, got {got} alone; "
            f"start the script with ddprun, mpirun or srun, or set {lacks} too, or unset {got.variable}"
        )
    if rank == "rank":  # places on a host may differ: wrappers that show each rank one GPU set LOCAL_RANK=0
        _check_agree(ranks)
        _check_agree(sizes)
    if not ranks[0].value < sizes[0].value:
        raise WorldError(
            f"environment: expected a rank below the number of ranks, got {ranks[0]} and {sizes[0]}; "
            f"ranks count from 0, so mend or unset them"
        )
    return ranks[0].value, sizes[0].value


def _place(place: tuple[int, int], rows: list[Flavour], environ: Mapping[str, str]) -> tuple[int, int]:
    """(local rank, local size)."""
    ranks = _told("local_rank", rows, environ)
    if ranks and ranks[0].value == place[0] and not _told("local_size", rows, environ):
        return place
    return _pair("local_rank", "local_size", rows, environ) or (0, 1)


def _check_agree(told: list[_Told]) -> None:
    for other in told[1:]:
        if other.value != told[0].value:
            raise WorldError(
                f"environment: expected launchers that agree, got {told[0]} and {other}; "
                f"use one launcher, and unset the variables that the other one left"
            )


def _meeting_point(rows: list[Flavour], environ: Mapping[str, str]) -> dict[str, Any]:
    """Where rank 0 is, and the job's name. What the user or launcher tells goes before what Slurm's step means."""
    slurm = _slurm_step(environ) if any(row.name == "slurm" for row in rows) else {}
    told: dict[str, Any] = {
        "master_addr": environ.get("MASTER_ADDR", ""),
        "master_port": _first_number(("MASTER_PORT",), environ),
        "job": environ.get("LOCKSTEP_JOB", ""),
    }
    return {field: value or slurm.get(field, value) for field, value in told.items()}


def _slurm_step(environ: Mapping[str, str]) -> dict[str, Any]:
    """Task 0 is on the first node of the step. (SLURM_LAUNCH_NODE_IPADDR is where srun was typed: often elsewhere.)"""
    variable = next((n for n in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST") if environ.get(n)), "")
    job, step = _first_number(("SLURM_JOB_ID",), environ), _first_number(("SLURM_STEP_ID",), environ)
    if not variable or not job:
        return {}
    return {
        "master_addr": _first_host(variable, environ[variable]),
        "master_port": _SLURM_PORTS[(job * 16 + step) % len(_SLURM_PORTS)],  # below what systems give to anybody
        "job": f"slurm-{job}.{step}",
    }


# -- values -----------------------------------------------------------------------------------------------------------


def _number(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise WorldError(f"environment: expected a whole number, 0 or more, got {variable}={text!r}; mend or unset it")
    return int(text)


def _first_number(variables: tuple[str, ...], environ: Mapping[str, str]) -> int:
    """Of the variables that are set; 0 if none is."""
    return next((_number(name, environ[name]) for name in variables if environ.get(name)), 0)


def _first_host(variable: str, text: str) -> str:
    """Of "rack[2-3]-node[01-03,07],login": rack2-node01. Brackets hold numbers and ranges of them, by commas."""
    match = re.match(r"(?:[\w.-]+|\[\d[\d,-]*\])+(?=,|$)", text, re.ASCII)
    if not match:
        raise WorldError(
            f"environment: expected nodes, written as in node[01-03,07], got {variable}={text!r}; set MASTER_ADDR"
        )
    return re.sub(r"\[(\d+)[\d,-]*\]", r"\1", match[0])


def _tasks_on(node: int, variable: str, text: str) -> int:
    """Of "2(x3),1": 2 for the nodes 0, 1, 2 and 1 for node 3."""
    first = 0
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            break
        first += int(match[2] or 1)
        if node < first:
            return int(match[1])
    raise WorldError(
        f"environment: expected tasks for node {node}, written as in 2(x3),1, got {variable}={text!r}; mend or unset it"
    )
