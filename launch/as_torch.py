"""Run a PyTorch script on Lockstep: `python -m launch.as_torch train.py args`, or `ddprun --as-torch -n 4 train.py args`.

Inside the program and the Python processes that it starts `torch`, `torchvision` and everything below them are
Lockstep's packages under PyTorch's names; no file of the program is touched, and an installed PyTorch is not looked at.
A name that Lockstep lacks can be imported, because scripts import more than they use; using it is an error that names
it.

With `--cpu` the CPU stands in for the GPUs that the program asks for (`core.cuda.on_cpu`), and a line on stderr says so.

Not here: any function of torch's. This module only finds names, by the tables below; that it knows `core` and `ddp`
is by their names as text, so that importing `launch` loads neither.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.util
import os
import runpy
import sys
import types
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ddp.env import world_from_env
from launch import values
from launch.cores import usable_cores

# torch's package -> ours, the longest match wins; below it the names are the same
PACKAGES = {
    "torch": "core",
    "torch.distributed": "ddp",
    "torch.futures": "ddp.futures",
    "torchvision": "core.vision",
}
# names that torch keeps elsewhere than we do: module -> name -> "module:name"
_DDP = "ddp:DistributedDataParallel"
ELSEWHERE = {
    "torch": {"__version__": "launch.as_torch:VERSION", "OutOfMemoryError": "core.cuda:OutOfMemoryError"},
    "torch.version": {"__version__": "launch.as_torch:VERSION"},
    "torchvision": {"__version__": "launch.as_torch:VISION_VERSION"},
    "torch.jit.annotations": {name: f"typing:{name}" for name in ("Any", "Dict", "List", "Optional", "Tuple", "Union")},
    "torch.nn": {"SyncBatchNorm": "ddp:SyncBatchNorm"},
    "torch.nn.parallel": {
        "DistributedDataParallel": _DDP,
        "DataParallel": "core.nn:DataParallel",
        "data_parallel": "core.nn.data_parallel:data_parallel",
    },
    "torch.nn.parallel.distributed": {"DistributedDataParallel": _DDP},
    "torch.cuda.amp.grad_scaler": {"GradScaler": "core.cuda.amp:GradScaler"},
    "torch.cuda.amp.autocast_mode": {"autocast": "core.cuda.amp:autocast"},
    "torch.utils.data.distributed": {"DistributedSampler": "ddp:DistributedSampler"},
    "torch.utils.data": {"DistributedSampler": "ddp:DistributedSampler"},
}
VERSION = "2.13.0+lockstep"  # of the PyTorch whose names and numbers these are
VISION_VERSION = "0.28.0+lockstep"
ON_CPU = "core.cuda.on_cpu"  # what torch.cuda and torch.accelerator answer where the CPU stands in for GPUs
CPU_DEVICES = "LOCKSTEP_CPU_DEVICES"  # for how many: tells the processes that the program starts


class MissingName(AttributeError, NotImplementedError):
    """A name of torch's that Lockstep does not have was used."""


class Missing:
    """Stands for a name that we lack: harmless until it is used."""

    def __init__(self, name: str):
        object.__setattr__(self, "_name", name)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise MissingName(
            f"{self._name}: expected a name that Lockstep has, got one that it lacks; write it in terms of others"
        )

    __call__ = __mro_entries__ = __iter__ = __getitem__ = __enter__ = _refuse

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Missing(f"{self._name}.{name}")

    def __or__(self, other: Any) -> Missing:
        return self  # in annotations: `x: torch.fx.Node | None`

    __ror__ = __or__

    def __instancecheck__(self, instance: Any) -> bool:
        return False  # nothing is one

    def __repr__(self) -> str:
        return f"<{self._name}, which Lockstep lacks>"


class View(types.ModuleType):
    """One of torch's modules: ours under torch's name, plus what torch keeps there and we elsewhere."""

    def __init__(self, name: str):
        super().__init__(name)
        vars(self)["_ours"] = _ours(name)
        vars(self)["_elsewhere"] = ELSEWHERE.get(name, {})

    def __getattr__(self, name: str) -> Any:
        path = f"{self.__name__}.{name}"
        if name in self._elsewhere:
            module, _, attribute = self._elsewhere[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        if path in PACKAGES or path in ELSEWHERE or _module_exists(_name_of(path)):
            if not hasattr(self._ours, name) or isinstance(getattr(self._ours, name), types.ModuleType):
                return importlib.import_module(path)
        if self._ours is not None:
            try:
                return getattr(self._ours, name)
            except AttributeError:
                pass
        raise MissingName(f"module '{self.__name__}' has no attribute '{name}': Lockstep lacks {path}")

    def __setattr__(self, name: str, value: Any) -> None:
        # a script that sets a switch of torch's sets ours; what importlib sets is the view's own
        ours = None if name.startswith("__") or isinstance(value, types.ModuleType) else self._ours
        setattr(ours, name, value) if ours is not None else super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self._elsewhere, *(dir(self._ours) if self._ours is not None else ())})


class MissingModule(Missing, types.ModuleType):
    """A module that we lack, or a name imported like one: `from torch.x import y` looks for a module y, too."""

    def __init__(self, name: str):
        types.ModuleType.__init__(self, name)
        vars(self)["_name"] = name


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers every import below torch and torchvision with a View."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in PACKAGES else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        known = spec.name in ELSEWHERE or _module_exists(_name_of(spec.name))
        return View(spec.name) if known else MissingModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if isinstance(module, View):  # `from torch.x import *` takes what ours offers
            vars(module)["__all__"] = [n for n in dir(module) if not n.startswith("_")]


def install() -> None:
    """From here on `import torch` is Lockstep, and its GPUs are the CPU where CPU_DEVICES says so."""
    if not any(isinstance(f, Finder) for f in sys.meta_path):
        for name in [m for m in sys.modules if m.partition(".")[0] in PACKAGES]:
            del sys.modules[name]
        sys.meta_path.insert(0, Finder())
        importlib.import_module("core.dtypes").dtype.prefix = "torch"  # tensors print as torch's do
        if os.environ.get(CPU_DEVICES):
            on_cpu = importlib.import_module(ON_CPU)
            on_cpu.stand_in(int(os.environ[CPU_DEVICES]))
            for room, names in (("torch.cuda", on_cpu.CUDA), ("torch.accelerator", on_cpu.ACCELERATOR)):
                ELSEWHERE[room] = {name: f"{ON_CPU}:{name}" for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a script or, after -m, a module, with `torch` being Lockstep."""
    found = _parser().parse_args(argv)
    if found.cpu_devices is not None:
        _stand_in(found.cpu_devices)
    install()
    sys.argv = [found.script, *found.args]
    sys.path[0] = "" if found.module else str(Path(found.script).resolve().parent)
    _reach_children()
    try:
        if found.module:
            runpy.run_module(found.script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(found.script, run_name="__main__")
    except Exception as error:
        if "device 'cuda'" in str(error):
            error.add_note("as_torch: with --cpu the CPU stands in for GPUs: ddprun --as-torch --cpu …")
        raise


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="as_torch", usage="python -m launch.as_torch [--cpu] {script.py | -m module} ...", allow_abbrev=False
    )
    add = parser.add_argument
    add("-m", "--module", action="store_true", help="the script is a module, as in python -m")
    add("--cpu", action="store_const", const=0, dest="cpu_devices", help="where it asks for GPUs it gets the CPU")
    add("--cpu-devices", type=values.positive, metavar="N", help="--cpu, and it sees N GPUs")
    add("script", metavar="script.py or module")
    args = add("args", nargs=argparse.REMAINDER, metavar="arguments", help="all that follows is the script's")
    args.required = False
    return parser


def _stand_in(count: int) -> None:
    """The CPU for so many GPUs; 0 is as many as ranks on this host, or as cores if there is one rank. Rank 0 says so."""
    world = world_from_env()
    if not count:
        count = world.local_size if world.local_size > 1 else len(usable_cores())
    os.environ[CPU_DEVICES] = str(count)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # real ones are out of the play
    if world.rank == 0:
        noun = "GPU that the program sees is" if count == 1 else f"{count} GPUs that the program sees are"
        print(f"as_torch: --cpu: the {noun} the CPU; autocast of the GPU computes in float32", file=sys.stderr)


def _reach_children() -> None:
    """Python processes that the program starts get our path, or the environment; there `import torch` is Lockstep."""
    names = str(Path(__file__).parent / "torch_names")
    sys.path.insert(1, names)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [names, os.environ.get("PYTHONPATH")]))


# -- finding names -----------------------------------------------------------------------------------------------------


def _name_of(name: str) -> str:
    """Our name for one of torch's."""
    package = max((p for p in PACKAGES if name == p or name.startswith(p + ".")), key=len)
    return PACKAGES[package] + name[len(package) :]


def _ours(name: str) -> Any:
    """Our module for one of torch's, or None: then it is a view of names kept elsewhere, or one that we lack."""
    ours = _name_of(name)
    return importlib.import_module(ours) if _module_exists(ours) else None


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # a parent that is missing, or that is a module and no package
        return False


if __name__ == "__main__":
    main()
