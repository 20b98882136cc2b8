"""Exponential families: densities exp(θ·t(x) − A(θ)) by their natural parameters θ."""

from __future__ import annotations

from core.distributions.distribution import Distribution

__all__ = ["ExponentialFamily"]


class ExponentialFamily(Distribution):
    """The class that such distributions share."""
