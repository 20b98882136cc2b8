"""Modules made without drawing initial values."""

from __future__ import annotations

from typing import Any

from core.nn.modules.module import Module
from core.rng import fork_rng


def skip_init(module_cls: type[Module], *args: Any, **kwargs: Any) -> Module:
    """The module, its initial values not to be relied on, and the default stream of random numbers as it was."""
    with fork_rng():
        return module_cls(*args, **kwargs)
