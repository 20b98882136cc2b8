"""torch.fx, where nothing is traced: marks for a tracer are taken, and asking for a graph is an error that says so."""

from __future__ import annotations

from typing import Any, NoReturn

from core.errors import CoreError
from core.nn import Module

__all__ = ["Graph", "GraphModule", "Interpreter", "Node", "Proxy", "Tracer", "Transformer", "symbolic_trace", "wrap"]


def wrap(fn_or_name: Any) -> Any:
    """The function, or name, itself: a tracer would not look into it."""
    return fn_or_name


def _assert(condition: Any, message: str) -> None:
    """`torch._assert`: an assertion that a tracer would keep."""
    if not condition:
        raise AssertionError(message)


def symbolic_trace(*args: Any, **kwargs: Any) -> NoReturn:
    """An error: there is no graph of a program."""
    raise CoreError(
        "fx: expected a program that runs as it is, got one that asks for a graph of its operations, which Lockstep does not "
        "make; leave tracing out, or register hooks on modules to see what passes"
    )


class Graph:
    """Torch's graph of a program; there is none to be made."""

    def __init__(self, *args: Any, **kwargs: Any):
        symbolic_trace()


class GraphModule(Module):
    """Torch's module that was traced: no module is one."""

    def __init__(self, *args: Any, **kwargs: Any):
        symbolic_trace()


class Node(Graph):
    """A place in a Graph."""


class Proxy(Graph):
    """What stands for a tensor while a program is traced: nothing is one."""


class Tracer(Graph):
    """What traces."""


class Interpreter(Graph):
    """What runs a Graph."""


class Transformer(Interpreter):
    """What makes a Graph of another."""
