"""Errors that `core` raises for user mistakes.

Contract: every class is also the built-in error that PyTorch would raise for the same mistake, so that a script written
for PyTorch catches it where it always did; and `CoreError` catches them all.
A message reads `where: expected RULE, got VALUES; remedy`. Broken invariants of our own are `assert`, not these.
"""

from __future__ import annotations

from collections.abc import Iterable


class CoreError(Exception):
    """Any mistake that this package reports."""


class ShapeError(CoreError, RuntimeError, ValueError):
    """Shapes that do not fit together."""


class DTypeError(CoreError, RuntimeError, TypeError):
    """A dtype, or the type of an argument, that an operation does not take."""


class RangeError(CoreError, IndexError, ValueError):
    """An index, label or dimension outside its range."""


class ArgumentError(CoreError, ValueError):
    """A value that an argument does not take."""


class DeviceError(CoreError, RuntimeError):
    """An unknown or absent device, or operands on different devices."""


class GraphError(CoreError, RuntimeError):
    """Differentiation that is not possible: no graph, a freed graph, an overwritten value, a non-scalar root."""


class StateDictError(CoreError, RuntimeError, KeyError):
    """A state_dict that does not fit the module or optimizer."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes, newlines escaped


class CheckpointError(CoreError, RuntimeError, ValueError):
    """A file of saved values that is damaged, holds what must not be loaded, or cannot hold what is to be saved."""


class MissingLibraryError(CoreError, ImportError):
    """An optional library that is not installed."""


def unknown_name(where: str, kind: str, name: object, known: Iterable[str]) -> str:
    """Text for a name that is not in a table: says which names are."""
    return f"{where}: expected a known {kind}, got {name!r}; known: {', '.join(sorted(known))}"


def missing_library(library: str, purpose: str, extra: str) -> MissingLibraryError:
    """Error for an absent optional library: what it is for, and the line that installs it."""
    return MissingLibraryError(
        f"{purpose} needs the library {library}, which is not installed; pip install 'lockstep-ddp[{extra}]'"
    )
