"""Executes our CUDA kernels on the CPU: `Shim` is a launcher for arrays in host memory, made by g++ from the kernels' own text.

With it the fake device (`tests.fake_cuda`) runs what a GPU would run: dispatch, packing of arguments, grid and kernel. `$CXX` names another
compiler; binaries are kept under the system's directory for temporary files by a digest of everything they are made of.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from core.backend.cuda.kernels import Instance, body, names

_HEADER = Path(__file__).parent / "cuda_cpu_shim.h"
_FLAGS = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-ffp-contract=off", "-fno-strict-aliasing"]


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return shutil.which(os.environ.get("CXX", "g++"))


def _space(of: Instance) -> str:
    return f"{of.source}_{of.T}_{of.W}".replace(".", "_")


def _text(of: Instance) -> str:
    space = _space(of)
    entries = "".join(
        f'extern "C" void {space}_{name}(const unsigned *sizes, void **a) {{\n'
        f"  emulated::launch([](void **a) {{ emulated::call({space}::{name}, a); }}, sizes, a);\n}}\n"
        for name in names(of)
    )
    return f"namespace {space} {{\n{body(of)}\n}}\n{entries}"


class Shim:
    """`core.backend.cuda.launch.Launch` for arrays of the fake device."""

    def __init__(self, instances: Iterable[Instance], jobs: int = 2):
        self.launched: list[tuple[str, str]] = []  # instance and kernel, for tests that ask what ran; they clear it
        self.ever: set[tuple[Instance, str]] = set()
        self._libraries: dict[Instance, ctypes.CDLL] = {}
        instances = list(instances)
        parts = [instances[k::jobs] for k in range(jobs)]
        building = [_build(part) for part in parts if part]
        for part, (path, process) in zip(parts, building):
            if process is not None:
                _, errors = process.communicate()
                if process.returncode:
                    raise RuntimeError(f"{compiler()} failed on the kernels:\n{errors[-4000:]}")
                os.replace(f"{path}.{process.pid}", path)
            library = ctypes.CDLL(str(path))
            self._libraries |= dict.fromkeys(part, library)

    def __call__(
        self, instance: Instance, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], *args: Any
    ) -> None:
        self.launched.append((str(instance), kernel))
        self.ever.add((instance, kernel))
        takes = _arity(instance, kernel)
        assert len(args) == takes, f"{instance} {kernel}: expected {takes} arguments, got {len(args)}"
        kept = [_held(a) for a in args]
        pointers = (ctypes.c_void_p * len(kept))(*(a.ctypes.data for a in kept))
        sizes = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        getattr(self._libraries[instance], f"{_space(instance)}_{kernel}")(sizes, pointers)


@functools.cache
def _arity(of: Instance, kernel: str) -> int:
    """How many arguments the kernel takes."""
    found = re.search(rf"^KERNEL {kernel}\(([^)]*)\)", body(of), re.MULTILINE)
    assert found is not None
    return found[1].count(",") + 1


def _held(a: Any) -> np.ndarray:
    """The bytes of an argument: a pointer for an array of the device, else the value itself."""
    if a is None or hasattr(a, "host"):
        return np.array(0 if a is None else a.data.ptr, np.uint64)
    assert isinstance(a, (np.generic, np.ndarray)), f"expected an argument with a dtype, got {a!r}"
    return np.asarray(a)


def _build(instances: list[Instance]) -> tuple[Path, Any]:
    """Where the library is or will be, and the compiler if it had to be started."""
    found = compiler()
    assert found is not None
    source = _HEADER.read_text() + "\n".join(map(_text, instances))
    digest = hashlib.sha256("\0".join([found, *_FLAGS, source]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"lockstep-shim-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to somebody else")
    path = folder / f"{digest}.so"
    if path.exists():
        return path, None
    (folder / f"{digest}.cpp").write_text(source)
    # the compiler's own number in the name: of two that build the same library the last wins, and both are whole
    command = f'exec {found} {" ".join(_FLAGS)} -o "{path}.$$" "{folder / digest}.cpp"'
    return path, subprocess.Popen(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
