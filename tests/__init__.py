"""Tests and benchmarks of all rooms."""

import os
from pathlib import Path

# Hundreds of processes are started from here, and each would compile everything anew where the environment forbids bytecode beside
# the sources: they get another place for it.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode"))
