"""Ways to start processes, by name. Each is a module of its own, imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it knows jobs, and jobs know this table
    from launch.backends.base import Launcher

LAUNCHERS = {
    "local": "launch.backends.local:LocalLauncher",
    "ssh": "launch.backends.ssh:SshLauncher",
    "mpirun": "launch.backends.mpirun:MpirunLauncher",
    "srun": "launch.backends.srun:SrunLauncher",
    "mpijob": "launch.backends.mpijob:MPIJobLauncher",
}


def load_launcher(name: str) -> Launcher:
    module, member = LAUNCHERS[name].split(":")
    launcher: Launcher = getattr(import_module(module), member)()
    return launcher
