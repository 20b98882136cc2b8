"""Who am I in this job? From environment variables to a `World`, and back.

Contract: pure functions over a mapping, no library imported, nothing opened. No variables at all is a world of one, so a script has no
`if distributed`. Several launchers may have left their variables (mpirun inside Slurm does); they must agree, or the error names the
variables that do not. This is the only module of `ddp` that `launch` imports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


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

    def to_env(self) -> dict[str, str]:
        raise NotImplementedError


def world_from_env(environ: Mapping[str, str] = os.environ) -> World:
    raise NotImplementedError
