"""Code that says `be.xp` runs on CuPy, too: every name, and every keyword that a call gives, is CuPy's. Needs CuPy, no GPU."""

import ast
import inspect
from pathlib import Path

import pytest

cupy = pytest.importorskip(
    "cupy", reason="NO NAME IS HELD AGAINST CUPY HERE: it is not installed; pip install 'lockstep-ddp[gpu-check]'"
)

CORE = Path(__file__).parent.parent / "core"
CPU_ONLY = ("backend/cpu.py", "backend/onednn", "backend/threads.py", "vision")


def path_of(node):
    """The names after `xp` in an expression like be.xp.lib.stride_tricks.as_strided, or none."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    names.append(node.id if isinstance(node, ast.Name) else "")
    names.reverse()
    return names[names.index("xp") + 1 :] if "xp" in names else []


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


FILES = [p for p in sorted(CORE.rglob("*.py")) if not any(part in str(p.relative_to(CORE)) for part in CPU_ONLY)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CORE)))
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
