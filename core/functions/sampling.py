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


def binomial(count: Tensor, prob: Tensor, generator: Any = None) -> Tensor:
    """How many of `count` trials of probability `prob` succeed, elementwise, in count's dtype; both broadcast."""
    g = generator or rng.default_generator
    n, p = np.broadcast_arrays(count._host(), prob._host())
    if n.size and not (n.min() >= 0 and p.min() >= 0 and p.max() <= 1):
        raise ArgumentError("binomial: expected counts >= 0 and probabilities from 0 to 1, got others")
    values = np.array([_one_binomial(g, float(a), float(b)) for a, b in zip(n.flat, p.flat)], dtype=_DOUBLE)
    return wrap(values.astype(n.dtype).reshape(n.shape)).to(count.device)


def _one_binomial(g: Any, n: float, p: float) -> float:
    if n <= 0 or p <= 0:
        return 0
    if p >= 1:
        return n
    if p > 0.5:
        return n - _one_binomial(g, n, 1 - p)
    return _by_rejection(g, n, p) if n * p >= 10 else _by_waiting(g, n, p)


def _by_waiting(g: Any, n: float, p: float) -> int:
    """Geometric waiting times until n is passed. Devroye 1986."""
    total, k, log_q = 0.0, 0, math.log1p(-p)
    while True:
        total += math.ceil(math.log(g.uniform(1, _DOUBLE)[0]) / log_q)
        if total > n:
            return k
        k += 1


def _stirling_tail(k: float) -> float:
    """ln k! − (k + ½) ln(k + 1) + (k + 1) − ½ ln 2π"""
    if k <= 9:
        return math.lgamma(k + 1) - (k + 0.5) * math.log(k + 1) + (k + 1) - 0.5 * math.log(2 * math.pi)
    square = (k + 1) ** 2
    return (1 / 12 - (1 / 360 - 1 / 1260 / square) / square) / (k + 1)


def _by_rejection(g: Any, n: float, p: float) -> float:
    """Transformed rejection: Hörmann, The generation of binomial random variates, 1993 (BTRS)."""
    sd, odds, m = math.sqrt(n * p * (1 - p)), p / (1 - p), math.floor((n + 1) * p)
    b = 1.15 + 2.53 * sd
    a = -0.0873 + 0.0248 * b + 0.01 * p
    alpha = (2.83 + 5.1 / b) * sd
    while True:
        u, v = (float(w) for w in g.uniform(2, _DOUBLE) - (0.5, 0))
        us = 0.5 - abs(u)
        k = math.floor((2 * a / us + b) * u + n * p + 0.5)
        if us >= 0.07 and v <= 0.92 - 4.2 / b:
            return k
        if not 0 <= k <= n:
            continue
        bound = (
            (m + 0.5) * math.log((m + 1) / (odds * (n - m + 1)))
            + (n + 1) * math.log((n - m + 1) / (n - k + 1))
            + (k + 0.5) * math.log(odds * (n - k + 1) / (k + 1))
            + _stirling_tail(m) + _stirling_tail(n - m) - _stirling_tail(k) - _stirling_tail(n - k)
        )  # fmt: skip
        if math.log(v * alpha / (a / (us * us) + b)) <= bound:
            return k


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


def standard_gamma_draws(alpha: np.ndarray, generator: Any = None) -> np.ndarray:
    """Gamma numbers of shape alpha and scale 1, float64. Marsaglia & Tsang, A simple method for generating gamma variables, 2000."""
    g = generator or rng.default_generator
    return np.array([_one_gamma(g, float(a)) for a in alpha.flat], dtype=_DOUBLE).reshape(alpha.shape)


def _one_gamma(g: Any, alpha: float) -> float:
    if alpha == 0:
        return 0.0
    scale = 1.0
    if alpha < 1:
        scale = float(1 - g.uniform(1, _DOUBLE)[0]) ** (1 / alpha)
        alpha += 1
    d = alpha - 1 / 3
    c = 1 / math.sqrt(9 * d)
    while True:
        x = float(g.normal(1, _DOUBLE)[0])
        y = 1 + c * x
        if y <= 0:
            continue
        v, u = y * y * y, float(1 - g.uniform(1, _DOUBLE)[0])
        if u < 1 - 0.0331 * x**4 or math.log(u) < 0.5 * x * x + d * (1 - v + math.log(v)):
            return scale * d * v
