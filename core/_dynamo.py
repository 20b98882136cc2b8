"""torch._dynamo, where there is no compiler: what packages and scripts ask of it, all of it without effect."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from core.compiler import allow_in_graph, assume_constant_result, disable, is_compiling, reset

__all__ = [
    "allow_in_graph",
    "assume_constant_result",
    "config",
    "disable",
    "graph_break",
    "is_compiling",
    "mark_dynamic",
    "optimize",
    "reset",
]

config = SimpleNamespace(
    suppress_errors=False, verbose=False, cache_size_limit=8, recompile_limit=8, capture_scalar_outputs=False
)


def optimize(backend: Any = None, **options: Any) -> Any:
    """The function itself. A decorator with options."""
    return lambda fn: fn


def graph_break() -> None:
    """There is no graph that could break."""


def mark_dynamic(t: Any, index: Any, **options: Any) -> None:
    """Shapes may always vary."""
