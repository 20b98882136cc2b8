"""Whether a graph is recorded, for a block or a function. Each thread has its own setting."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from core.engine import mode


class _Mode:
    """A context manager that is also a decorator, with or without parentheses."""

    on: bool

    def __new__(cls, function: Any = None) -> Any:
        self = object.__new__(cls)
        return self if function is None else self(function)

    def __enter__(self) -> None:
        # one object may be entered again inside itself
        self.__dict__.setdefault("_previous", []).append((mode.grad, mode.inference))
        mode.grad = self.on

    def __exit__(self, *exc: object) -> None:
        mode.grad, mode.inference = self._previous.pop()  # type: ignore[attr-defined]

    def __call__(self, function: Any) -> Any:
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generator(*args: Any, **kwargs: Any) -> Any:
                steps = function(*args, **kwargs)
                while True:
                    with self:
                        try:
                            value = next(steps)
                        except StopIteration as stop:
                            return stop.value
                    yield value

            return generator

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapper


class no_grad(_Mode):
    """Record nothing."""

    on = False


class enable_grad(_Mode):
    """Record again, inside of `no_grad`."""

    on = True


class set_grad_enabled(_Mode):
    """Record or not, from here on, or for a block."""

    _before: bool

    def __new__(cls, mode_: bool) -> Any:
        self = object.__new__(cls)
        self._before = mode.grad
        self.on = mode.grad = bool(mode_)
        return self

    def __init__(self, mode_: bool):
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        mode.grad = self._before

    def __call__(self, function: Any) -> Any:
        mode.grad = self._before
        on = self.on

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with set_grad_enabled(on):
                return function(*args, **kwargs)

        return wrapper


class inference_mode(_Mode):
    """Record nothing. What ops make inside cannot be kept for a backward later: using it so is an error; a clone can."""

    on = False

    def __new__(cls, on: Any = True) -> Any:
        self = object.__new__(cls)
        if callable(on):
            return self(on)
        self.on = not on
        return self

    def __init__(self, on: Any = True):
        pass

    def __enter__(self) -> None:
        super().__enter__()
        mode.inference = not self.on


def is_grad_enabled() -> bool:
    """Whether this thread records."""
    return mode.grad


def is_inference_mode_enabled() -> bool:
    """Whether this thread is inside `inference_mode`."""
    return mode.inference
