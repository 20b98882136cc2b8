"""torch.jit, where there is no compiler: what is scripted or traced stays the Python function or module that it is.

Contract: `script` and `trace` return their argument, the decorators too, so that a program that compiles for speed gives the
same numbers. What only makes sense for a compiled program (`save`, `load`, graphs) is an error that says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from core.errors import CoreError

__all__ = [
    "Attribute", "Error", "Final", "Future", "annotate", "export", "fork", "freeze", "ignore", "interface",
    "is_scripting", "is_tracing", "isinstance", "load", "optimize_for_inference", "optimized_execution", "save", "script",
    "script_if_tracing", "script_method", "set_fusion_strategy", "trace", "trace_module", "unused", "wait",
]  # fmt: skip


class Error(CoreError, RuntimeError):
    """What needs a compiled program."""


def __getattr__(name: str) -> Any:
    if name in ("ScriptModule", "RecursiveScriptModule", "TopLevelTracedModule"):  # nothing is compiled: a Module
        from core.nn import Module

        return Module
    raise AttributeError(f"module 'core.jit' has no attribute {name!r}")


# -- what would compile ----------------------------------------------------------------------------------------------------


def script(obj: Any, optimize: Any = None, _frames_up: int = 0, _rcb: Any = None, example_inputs: Any = None) -> Any:
    """The function, class or module itself. Also as a decorator."""
    return obj


def trace(func: Any, example_inputs: Any = None, *args: Any, **options: Any) -> Any:
    """The function or module itself; it is not run on the example."""
    return func


def trace_module(mod: Any, inputs: Any = None, *args: Any, **options: Any) -> Any:
    """The module itself."""
    return mod


def freeze(mod: Any, preserved_attrs: Any = None, optimize_numerics: bool = True) -> Any:
    """The module itself, which must be in evaluation mode."""
    if getattr(mod, "training", False):
        raise Error("jit.freeze: expected a module in eval mode, got one in training mode; call eval()")
    return mod


def optimize_for_inference(mod: Any, other_methods: Any = None) -> Any:
    """The module itself."""
    return mod


def script_if_tracing(fn: Any) -> Any:
    """The function itself. A decorator."""
    return fn


def script_method(fn: Any) -> Any:
    """The method itself. A decorator."""
    return fn


def export(fn: Any) -> Any:
    """The method itself. A decorator."""
    return fn


def interface(obj: Any) -> Any:
    """The class itself. A decorator."""
    return obj


def ignore(drop: Any = False, **options: Any) -> Any:
    """The method itself: `@ignore` or `@ignore(drop=…)`."""
    return drop if callable(drop) else lambda fn: fn


def unused(fn: Any) -> Any:
    """The method itself. A decorator."""
    return fn


# -- what scripts ask --------------------------------------------------------------------------------------------------------


def is_scripting() -> bool:
    """False: nothing is compiled."""
    return False


def is_tracing() -> bool:
    """False: nothing is traced."""
    return False


def annotate(the_type: Any, the_value: Any) -> Any:
    """The value."""
    return the_value


def Attribute(value: Any, type: Any) -> Any:
    """The value."""
    return value


def isinstance(obj: Any, target_type: Any) -> bool:
    """As Python's, of a generic type (`List[int]`) by its origin."""
    from builtins import isinstance as python_isinstance
    from typing import get_origin

    targets: Any = target_type if python_isinstance(target_type, tuple) else (target_type,)
    return python_isinstance(obj, tuple(get_origin(t) or t for t in targets))


@contextlib.contextmanager
def optimized_execution(should_optimize: bool) -> Iterator[None]:
    """Nothing changes inside."""
    yield


def set_fusion_strategy(strategy: Any) -> Any:
    """Nothing is fused."""
    return strategy


class Future:
    """The result of `fork`, which is there already."""

    def __init__(self, value: Any):
        self._value = value

    def wait(self) -> Any:
        return self._value

    value = wait

    def done(self) -> bool:
        return True


def fork(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Future:
    """Call the function now; `wait` returns its result."""
    return Future(func(*args, **kwargs))


def wait(future: Future) -> Any:
    """The result of `fork`."""
    return future.wait()


# -- what needs a compiled program -------------------------------------------------------------------------------------------


def save(m: Any, f: Any, _extra_files: Any = None) -> None:
    """An error: no program is compiled that could be written."""
    raise Error(
        "jit.save: expected a compiled module, got a Python one: Lockstep compiles none; save m.state_dict() by save()"
    )


def load(f: Any, map_location: Any = None, _extra_files: Any = None, _restore_shapes: bool = False) -> Any:
    """An error: a compiled program cannot be run."""
    raise Error("jit.load: expected weights to load(), got a compiled TorchScript program, which Lockstep cannot run")
