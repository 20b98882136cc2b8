"""`import torchvision` in a process that a program run by `launch.as_torch` has started: makes way for Lockstep."""

import importlib
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("launch") is None:  # run from a folder that is not installed, and elsewhere now
    sys.path.append(str(Path(__file__).parents[3]))
importlib.import_module("launch.as_torch").install()
importlib.import_module("torchvision")  # takes this module's place, as import looks the name up again
