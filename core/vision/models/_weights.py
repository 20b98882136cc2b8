"""Trained weights: there are none to download; those that torchvision saved can be loaded by `load_state_dict`."""

from __future__ import annotations

from typing import Any

from core.errors import ArgumentError


def no_weights(weights: Any) -> None:
    """An error where trained weights are asked for."""
    if weights is not None:
        raise ArgumentError(
            f"model: expected weights=None, got {weights!r}; load a file of torchvision's with load_state_dict(core.load(path))"
        )
