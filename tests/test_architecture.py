"""The house stays as it was drawn: who may import whom, who alone may import what, and that importing does nothing.

All of it is read from the syntax trees; only the last tests run anything.
"""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "ddp", "launch")
MODULES = {
    str(p.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): p
    for package in PACKAGES
    for p in sorted((ROOT / package).rglob("*.py"))
}

# the only rooms that may import a library, at any place in a file
ONLY_IN = {
    "cupy": ["core.backend.cuda"],
    "zmq": ["ddp.transport.zeromq", "ddp.transport.curve"],
    "mpi4py": ["ddp.transport.mpi"],
    "ctypes": ["core.backend.memory", "core.backend.onednn", "core.backend.threads", "core.utils.data._utils"]
    + ["launch.supervisor", "launch.witness"],
    "pickle": ["core.serialize", "core.utils.data._utils"],  # files: restricted; loader workers: our own children
}

# what a package may import while it is being imported, besides itself and the standard library
LIBRARIES = {
    "core": {"numpy", "ml_dtypes"},
    "ddp": {"numpy", "ml_dtypes", "core", "zmq", "mpi4py"},
    "launch": {"ddp.env", "ddp.errors"},
}

# inside core, low to high: a module imports its own floor and those below while it is being imported
FLOORS = [
    ["core.errors"],
    ["core.dtypes"],
    ["core.backend"],
    ["core.devices", "core.engine"],
    ["core._array"],
    ["core._tensor", "core.printing"],
    ["core.ops"],
    [
        *("core.functions", "core.creation", "core.normals", "core.rng", "core.tensor_types", "core.settings"),
        *("core.indexing", "core.methods"),
        *("core.linalg", "core.fft", "core.special", "core.sparse", "core.signal"),
    ],
    [
        *("core.autograd", "core.cuda", "core.amp", "core.accelerator", "core.backends", "core.random", "core.philox"),
        *("core.func", "core.functional", "core.testing", "core.profiler", "core.jit", "core._dynamo", "core.hub", "core.onnx"),
        *("core.version", "core.compiler", "core.xpu"),
    ],
    ["core._names"],
    ["core.nn", "core.optim", "core.utils", "core.multiprocessing", "core.serialize", "core.serialization"],
    ["core.distributions", "core.fx"],
    ["core.vision"],
]


@cache
def imports(path, everywhere):
    """(line, dotted name) of what a file imports; without `everywhere` only what importing the file itself imports."""
    found = []

    def visit(node, package):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and not everywhere:
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((child.lineno, a.name) for a in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: expected absolute imports"
                found.extend((child.lineno, f"{child.module}.{a.name}") for a in child.names)
            visit(child, package)

    visit(ast.parse(path.read_text()), None)
    return found


def is_within(name, parents):
    return any(name == p or name.startswith(p + ".") for p in parents)


@pytest.mark.parametrize("library", ONLY_IN)
def test_sole_importers(library):
    importers = {m for m, p in MODULES.items() for _, name in imports(p, everywhere=True) if is_within(name, [library])}
    assert all(is_within(m, ONLY_IN[library]) for m in importers), f"{library} is imported in {sorted(importers)}"


@pytest.mark.parametrize("module", MODULES)
def test_directions(module):
    package = module.partition(".")[0]
    for line, name in imports(MODULES[module], everywhere=True):
        top = name.partition(".")[0]
        if top in PACKAGES:
            allowed = {"core": {"core"}, "ddp": {"core", "ddp"}, "launch": {"launch", "ddp"}}[package]
            assert top in allowed, f"{MODULES[module]}:{line}: {module} must not import {name}"
            if package == "launch" and top == "ddp":
                assert is_within(name, LIBRARIES["launch"]), f"{module}:{line}: launch knows of ddp only ddp.env, not {name}"
    for line, name in imports(MODULES[module], everywhere=False):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in PACKAGES:
            assert is_within(name, LIBRARIES[package]), f"{module}:{line}: {package} must not import {name} while it is being imported"


def floor(module):
    for i, names in enumerate(FLOORS):
        if is_within(module, names):
            return i
    return None


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("core.")])
def test_floors(module):
    mine = floor(module)
    assert mine is not None, f"{module} is on no floor: say in FLOORS which modules it may use"
    for line, name in imports(MODULES[module], everywhere=False):
        theirs = floor(name)
        if theirs is not None:
            assert theirs <= mine, f"{module}:{line}: {module} must not import {name}, which is above it"


@pytest.mark.parametrize("module", MODULES)
def test_modules_say_what_they_are(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text())), f"{module} has no docstring"
    if "." in module:
        name = module.rpartition(".")[2]
        torchs = {"__main__", "multiprocessing", "random", "signal"}  # the paths of modules of torch's own
        assert name in torchs or name not in sys.stdlib_module_names, f"{module} shadows the standard library's {name}"


def run(code):
    """What the code prints, as JSON, in a process of its own, from elsewhere."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


EFFECTS = """
import json, os, sys, threading
before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
{imports}
after = set(os.listdir("/proc/self/fd")) if before else set()
print(json.dumps({{
    "threads": threading.active_count(),
    "files": len(after - before),
    "loaded": [m for m in ("numpy", "cupy", "zmq", "mpi4py", "torch", "core.nn", "ddp.transport") if m in sys.modules],
}}))
"""


@pytest.mark.parametrize(
    "code, loaded",
    [
        ("import core", []),
        ("import ddp", []),
        ("import launch, launch.cli", []),
        ("import core; core.Tensor", ["numpy"]),
        ("import core.nn, core.optim, core.utils.data", ["numpy", "core.nn"]),
    ],
)
def test_importing_does_nothing(code, loaded):
    found = run(EFFECTS.format(imports=code))
    assert found == {"threads": 1, "files": 0, "loaded": loaded}


ROOMS = ["nn", "optim", "utils.data", "vision.datasets", "serialize", "distributions", "amp", "autograd", "accelerator", "tensor_types"]


@pytest.mark.parametrize("room", ROOMS)
def test_tensors_have_their_methods_whichever_room_is_entered_first(room):
    code = f"import core.{room}, json, numpy as np; from core._tensor import wrap; t = wrap(np.ones(2)) + 1"
    assert run(code + "; print(json.dumps(t.long().tolist()))") == [2, 2]


def test_packages_are_ours():
    found = run("import json, core, ddp, launch; print(json.dumps([core.__file__, ddp.__file__, launch.__file__]))")
    assert found == [str(ROOT / p / "__init__.py") for p in PACKAGES]
