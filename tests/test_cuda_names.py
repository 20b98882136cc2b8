"""Code that says `be.xp` runs on CuPy, too: every name, and every keyword that a call gives, is CuPy's. Needs CuPy, no GPU."""

import ast
import inspect
from pathlib import Path

import pytest

cupy = pytest.importorskip(
    "cupy", reason="NO NAME IS HELD AGAINST CUPY HERE: it is not installed; pip install 'lockstep-ddp[gpu-check]'"
)

ROOT = Path(__file__).parent.parent
CPU_ONLY = ("backend/cpu/", "backend/onednn", "backend/threads.py", "vision")
OF_RANKS = ("ddp/staging.py", "ddp/transport/nccl.py", "ddp/transport/cuda_ipc.py")
# by these names files know CuPy, or a part of it
ALIASES = {"xp": [], "_xp": [], "_cupy": [], "_cuda": ["cuda"], "_runtime": ["cuda", "runtime"]}


def path_of(node):
    """CuPy's names in an expression like be.xp.lib.stride_tricks.as_strided, or none."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    names.append(node.id if isinstance(node, ast.Name) else "")
    names.reverse()
    for k, name in enumerate(names):
        if name in ALIASES:
            return ALIASES[name] + names[k + 1 :] if k + 1 < len(names) else []
    return []


def found(names):
    value = cupy
    for name in names:
        value = getattr(value, name)
    return value


def unknown_keywords(function, call):
    given = [k.arg for k in call.keywords if k.arg]
    if isinstance(function, cupy.ufunc):
        return [k for k in given if k not in ("out", "dtype", "casting")]
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled: it does not say
        return []
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    return [k for k in given if k not in {p.name for p in parameters}]


FILES = [
    p for p in sorted((ROOT / "core").rglob("*.py")) if not any(part in str(p.relative_to(ROOT)) for part in CPU_ONLY)
]
FILES += [ROOT / name for name in OF_RANKS]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_and_keywords_are_cupys(path):
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = path_of(node) if isinstance(node, ast.Attribute) else []
        if names:
            try:
                found(names)
            except AttributeError:
                wrong.append(f"{path.name}:{node.lineno}: CuPy has no {'.'.join(names)}")
        called = path_of(node.func) if isinstance(node, ast.Call) else []
        if called and not wrong:
            bad = unknown_keywords(found(called), node)
            if bad:
                wrong.append(f"{path.name}:{node.lineno}: CuPy's {'.'.join(called)} takes no {', '.join(bad)}")
    assert not wrong
