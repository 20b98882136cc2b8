"""Modules with switches: attributes that the backends read at each call (`core.backend.switches`), and `flags` to set them for a block."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from core.backend.switches import SWITCHES


def switched(module: str, fields: dict[str, str]) -> type:
    """Give the module of this name its switches, name -> field; answers its `flags`."""
    here = sys.modules[module]
    here.__class__ = type("Switched", (ModuleType,), {name: _switch(field) for name, field in fields.items()})

    class flags:
        """`with flags(enabled=False):` sets switches for a block."""

        def __init__(self, **switches: bool):
            unknown = set(switches) - set(fields)
            if unknown:
                raise TypeError(f"{module}.flags: expected switches among {sorted(fields)}, got {sorted(unknown)}")
            self._switches = switches

        def __enter__(self) -> None:
            self._before = {name: getattr(here, name) for name in self._switches}
            self._set(self._switches)

        def __exit__(self, *exc: object) -> None:
            self._set(self._before)

        @staticmethod
        def _set(switches: dict[str, bool]) -> None:
            for name, value in switches.items():
                setattr(here, name, value)

    return flags


def _switch(field: str) -> Any:
    return property(lambda _: getattr(SWITCHES, field), lambda _, value: setattr(SWITCHES, field, bool(value)))
