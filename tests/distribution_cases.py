"""The table of distributions: for each one parameters, and where its values lie. Used with PyTorch and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_rng = np.random.default_rng(0)


def pos(*shape: int) -> np.ndarray:
    return _rng.uniform(0.3, 3, shape)


def real(*shape: int) -> np.ndarray:
    return _rng.standard_normal(shape)


def prob(*shape: int) -> np.ndarray:
    return _rng.uniform(0.1, 0.9, shape)


def shares(*shape: int) -> np.ndarray:
    x = _rng.uniform(0.1, 1, shape)
    return x / x.sum(-1, keepdims=True)


def definite(n: int, *batch: int) -> np.ndarray:
    x = _rng.standard_normal((*batch, n, n))
    return x @ x.swapaxes(-1, -2) + n * np.eye(n)


@dataclass(frozen=True)
class Family:
    """`params`: arrays are parameters that want a gradient. `grid`: points over which a density can be integrated, or counts whose
    probabilities can be summed, for families over single numbers; None for the others."""

    name: str
    params: dict[str, Any]
    grid: np.ndarray | None = None
    discrete: bool = False

    def made(self, lib: Any, dtype: str = "float64") -> tuple[Any, list[Any]]:
        """(the distribution, its parameters that want a gradient)"""
        given = {
            k: lib.tensor(v, dtype=getattr(lib, dtype)).requires_grad_(k != "total_count")
            if isinstance(v, np.ndarray)
            else v
            for k, v in self.params.items()
        }
        leaves = [v for v in given.values() if getattr(v, "requires_grad", False)]
        return getattr(lib.distributions, self.name)(**given), leaves


def f(name: str, grid: Any = None, discrete: bool = False, **params: Any) -> Family:
    return Family(name, params, grid, discrete)


def counts(n: int) -> np.ndarray:
    return np.arange(float(n))


_unit = 1 / (1 + np.exp(-np.linspace(-35, 35, 40_001)))
_line = np.linspace(-40, 40, 40_001)
_half = np.geomspace(1e-9, 150, 40_001)
_half_far = np.geomspace(1e-12, 1e12, 40_001)  # heavy tails

FAMILIES = [
    f("Bernoulli", counts(2), True, probs=prob(3)), f("Bernoulli", counts(2), True, logits=real(2, 3)),
    f("Beta", _unit, concentration1=pos(3) + 1, concentration0=pos(3) + 1), f("Beta", concentration1=pos(3), concentration0=pos(3)),
    f("Binomial", counts(11), True, total_count=10, probs=prob(3)),
    f("Binomial", counts(31), True, total_count=np.array([3.0, 8.0, 30.0]), logits=real(3)),
    f("Categorical", probs=pos(2, 4)), f("Categorical", logits=real(4)),
    f("Cauchy", loc=real(3), scale=pos(3)),
    f("Chi2", _half, df=pos(3) + 2),
    f("ContinuousBernoulli", _unit, probs=np.array([0.1, 0.5, 0.4999, 0.8])), f("ContinuousBernoulli", _unit, logits=real(3)),
    f("Dirichlet", concentration=pos(2, 3)),
    f("Exponential", _half, rate=pos(3)),
    f("FisherSnedecor", _half_far, df1=pos(3) + 2, df2=pos(3) + 5),
    f("Gamma", _half, concentration=pos(3) + 1, rate=pos(3)), f("Gamma", concentration=pos(3), rate=pos(3)),
    f("GeneralizedPareto", loc=real(4), scale=pos(4), concentration=np.array([0.3, 0.0, -0.4, 0.2])),
    f("Geometric", counts(400), True, probs=prob(3)), f("Geometric", counts(400), True, logits=real(3)),
    f("Gumbel", _line, loc=real(3), scale=pos(3) / 2),
    f("HalfCauchy", scale=pos(3)), f("HalfNormal", _half, scale=pos(3)),
    f("InverseGamma", _half_far, concentration=pos(3) + 3, rate=pos(3)),
    f("Kumaraswamy", _unit, concentration1=pos(3) + 1, concentration0=pos(3) + 1),
    f("Laplace", _line, loc=real(3), scale=pos(3) / 2),
    f("LogNormal", _half_far, loc=real(3), scale=pos(3) / 3),
    f("LogisticNormal", loc=real(2, 3), scale=pos(2, 3)),
    f("LowRankMultivariateNormal", loc=real(2, 4), cov_factor=real(4, 2), cov_diag=pos(4)),
    f("Multinomial", total_count=7, probs=shares(2, 3)), f("Multinomial", total_count=4, logits=real(3)),
    f("MultivariateNormal", loc=real(3), covariance_matrix=definite(3)),
    f("MultivariateNormal", loc=real(2, 3), precision_matrix=definite(3)),
    f("MultivariateNormal", loc=real(3), scale_tril=np.linalg.cholesky(definite(3, 2))),
    f("NegativeBinomial", counts(600), True, total_count=5, probs=prob(3)),
    f("NegativeBinomial", counts(600), True, total_count=pos(3), logits=real(3)),
    f("Normal", _line, loc=real(3), scale=pos(3)), f("Normal", _line, loc=0.0, scale=1.0),
    f("OneHotCategorical", probs=shares(2, 3)), f("OneHotCategorical", logits=real(3)),
    f("OneHotCategoricalStraightThrough", probs=shares(2, 3)),
    f("Pareto", scale=pos(3), alpha=pos(3) + 3),
    f("Poisson", counts(80), True, rate=pos(3) * 5),
    f("RelaxedBernoulli", _unit, temperature=np.array(0.7), probs=prob(3)),
    f("RelaxedBernoulli", _unit, temperature=np.array(0.7), logits=real(3)),
    f("RelaxedOneHotCategorical", temperature=np.array(0.7), probs=shares(2, 3)),
    f("RelaxedOneHotCategorical", temperature=np.array(0.7), logits=real(3)),
    f("StudentT", _line * 25, df=pos(3) + 5, loc=real(3), scale=pos(3)),
    f("Uniform", np.linspace(-2, 8, 40_001), low=np.array([-1.0, 0.0, 2.0]), high=np.array([2.0, 0.5, 7.0])),
    f("VonMises", loc=real(3), concentration=pos(3)),
    f("Weibull", _half, scale=pos(3), concentration=pos(3) + 1),
]  # fmt: skip

IDS = [f"{family.name}-{i}" for i, family in enumerate(FAMILIES)]
