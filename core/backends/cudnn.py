"""torch.backends.cudnn: switches of cuDNN's kernels for convolution and attention.

`enabled`, `benchmark`, `deterministic` and `allow_tf32` are read at each call (`core.backend.switches`): whether cuDNN computes at all,
whether it chooses its kernels with more care, whether their bits must be the same each time, and whether float32 may be rounded to TF32.
"""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType
from typing import Any

from core.backend.cuda import is_available
from core.backend.switches import SWITCHES

__all__ = ["is_available"]

benchmark_limit = 10
_NAMES = {
    "enabled": "cudnn", "benchmark": "benchmark", "deterministic": "deterministic", "allow_tf32": "conv_tf32",
}  # fmt: skip


def version() -> Any:
    """As cuDNN numbers itself, 91900 for 9.19: of the wheel, since the library is opened on first use; None without it."""
    for name in ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"):
        try:
            major, minor, patch, *_ = importlib.metadata.version(name).split(".")
        except importlib.metadata.PackageNotFoundError:
            continue
        return int(major) * 10000 + int(minor) * 100 + int(patch)
    return None


class flags:
    """`with flags(benchmark=True):` sets switches for a block."""

    def __init__(self, **switches: bool):
        self._switches = switches

    def __enter__(self) -> None:
        here = sys.modules[__name__]
        self._before = {name: getattr(here, name) for name in self._switches}
        for name, value in self._switches.items():
            setattr(here, name, value)

    def __exit__(self, *exc: object) -> None:
        for name, value in self._before.items():
            setattr(sys.modules[__name__], name, value)


def _switch(field: str) -> Any:
    return property(lambda _: getattr(SWITCHES, field), lambda _, value: setattr(SWITCHES, field, bool(value)))


class _Switched(ModuleType):
    """This module: its switches are those that the backend reads."""


for _name, _field in _NAMES.items():
    setattr(_Switched, _name, _switch(_field))
sys.modules[__name__].__class__ = _Switched
