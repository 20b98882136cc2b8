"""Random numbers of the distributions that fewer scripts draw from, by the rules of PyTorch's CPU generator.

Sources: aten/src/ATen/native/cpu/DistributionTemplates.h, aten/src/ATen/native/Distributions.h (the rules, not the code); Poisson
numbers from a mean
of 10 on by transformed rejection: Hörmann, The transformed rejection method for generating Poisson random variables, 1993.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import rng
from core._tensor import Tensor, wrap
from core.errors import ArgumentError

_DOUBLE = np.dtype(np.float64)


def _uniforms(x: Tensor, generator: Any) -> np.ndarray:
    return (generator or rng.default_generator).uniform(x._a.size, _DOUBLE)


def cauchy_(x: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with Cauchy numbers."""
    return rng._fill(x, median + sigma * np.tan(np.pi * (_uniforms(x, generator) - 0.5)), "cauchy")


def geometric_(x: Tensor, p: float, *, generator: Any = None) -> Tensor:
    """Fill with the number of trials up to the first success, each of probability p."""
    if not 0 < p < 1:
        raise ArgumentError(f"geometric_: expected 0 < p < 1, got {p}")
    return rng._fill(x, np.ceil(np.log(_uniforms(x, generator)) / np.log1p(-p)), "geometric")


def log_normal_(x: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Any = None) -> Tensor:
    """Fill with the exponentials of normal numbers."""
    g = generator or rng.default_generator
    draws = np.concatenate([np.zeros(0), *(g.normal(1, _DOUBLE) for _ in range(x._a.size))])
    return rng._fill(x, np.exp(draws * std + mean), "log_normal")


def randint_like(x: Tensor, *bounds: int, dtype: Any = None, device: Any = None, **named: Any) -> Tensor:
    """`randint` of x's shape, dtype and device."""
    low, high = (bounds if len(bounds) == 2 else (0, *bounds)) if bounds else (named.pop("low", 0), named.pop("high"))
    return rng.randint(low, high, x._a.shape, dtype=dtype or x.dtype, device=device or x.device, **named)


def poisson(x: Tensor, generator: Any = None) -> Tensor:
    """Poisson numbers of mean x, elementwise, in x's dtype."""
    g = generator or rng.default_generator
    means = x._host()
    if means.size and not means.min() >= 0:
        raise ArgumentError(f"poisson: expected means >= 0, got {means.min()}")
    values = np.array([_one_poisson(g, float(m)) for m in means.reshape(-1)], dtype=_DOUBLE)
    return wrap(values.astype(means.dtype).reshape(means.shape)).to(x.device)


def _one_poisson(g: Any, mean: float) -> int:
    def uniform() -> float:
        return float(g.uniform(1, _DOUBLE)[0])

    if mean == 0:
        return 0
    if mean < 10:
        k, product, limit = 0, 1.0, math.exp(-mean)
        while True:
            product *= uniform()
            if product <= limit:
                return k
            k += 1
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    while True:
        u, v = uniform() - 0.5, uniform()
        us = 0.5 - abs(u)
        k = math.floor((2 * a / us + b) * u + mean + 0.43)
        if us >= 0.07 and v <= 0.9277 - 3.6224 / (b - 2):
            return k
        if k < 0 or (us < 0.013 and v > us):
            continue
        if math.log(v * (1.1239 + 1.1328 / (b - 3.4)) / (a / (us * us) + b)) <= -mean + k * math.log(
            mean
        ) - math.lgamma(k + 1):
            return k
