"""A real Slurm starts ranks: `tests/slurm/run.sh`, where Slurm is installed."""

import os
import shutil
import sys

import pytest

from tests import jobs
from tests.hosts import why_not

SCRIPT = "tests/slurm/run.sh"
NEEDS = ("slurmctld", "slurmd", "srun", "unshare", "ip")


def test_slurm():
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # daemons lie where users do not look
    if missing := [name for name in NEEDS if not shutil.which(name, path=path)]:
        pytest.skip(f"needs {', '.join(missing)}: see {SCRIPT}")
    if reason := why_not():
        pytest.skip(reason)
    done = jobs.run(["sh", str(jobs.ROOT / SCRIPT), sys.executable], env=jobs.environment() | {"PATH": path})
    assert done.stdout.endswith("slurm: all is well\n")
