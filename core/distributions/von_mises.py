"""The von Mises distribution."""

from __future__ import annotations

import math
from typing import Any

import core
from core._tensor import Tensor
from core.distributions import constraints
from core.distributions.distribution import Distribution
from core.distributions.utils import broadcast_all


class VonMises(Distribution):
    """Angles around `loc`, in [−π, π): density in proportion to exp(concentration·cos(x − loc))."""

    arg_constraints = {"loc": constraints.real, "concentration": constraints.positive}
    support = constraints.real

    def __init__(self, loc: Any, concentration: Any, validate_args: bool | None = None):
        self.loc, self.concentration = broadcast_all(loc, concentration)
        super().__init__(self.loc.shape, (), validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    mode = mean

    @property
    def variance(self) -> Tensor:
        """Of directions: 1 − I₁/I₀."""
        return 1 - core.special.i1e(self.concentration) / core.special.i0e(self.concentration)

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        k = self.concentration
        return k * core.cos(value - self.loc) - math.log(2 * math.pi) - (core.special.i0e(k).log() + k)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """By rejection from a wrapped Cauchy distribution. Best & Fisher 1979."""
        shape = self._extended_shape(sample_shape)
        with core.no_grad():
            k = self.concentration.double()
            tau = 1 + (1 + 4 * k**2).sqrt()
            rho = (tau - (2 * tau).sqrt()) / (2 * k)
            r = core.where(k < 1e-5, 1 / k + k, (1 + rho**2) / (2 * rho)).expand(shape)
            k, x = k.expand(shape), core.zeros(shape, dtype=core.float64, device=self.loc.device)
            done = core.zeros(shape, dtype=core.bool, device=self.loc.device)
            while not bool(done.all()):
                u1, u2, u3 = core.rand((3, *shape), dtype=core.float64, device=self.loc.device).unbind()
                z = core.cos(math.pi * u1)
                f = (1 + r * z) / (r + z)
                c = k * (r - f)
                accept = ((c * (2 - c) - u2) > 0) | ((c / u2).log() + 1 - c >= 0)
                x = core.where(accept, (u3 - 0.5).sign() * f.acos(), x)
                done = done | accept
            return ((x + math.pi + self.loc.double()) % (2 * math.pi) - math.pi).to(self.loc.dtype)
