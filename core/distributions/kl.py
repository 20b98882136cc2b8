"""Kullback–Leibler divergences: a rule for each pair of families."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import core
import core.nn.functional as F
from core._tensor import Tensor
from core.distributions.bernoulli import Bernoulli
from core.distributions.beta import Beta
from core.distributions.binomial import Binomial
from core.distributions.categorical import Categorical
from core.distributions.cauchy import Cauchy
from core.distributions.continuous_bernoulli import ContinuousBernoulli
from core.distributions.dirichlet import Dirichlet
from core.distributions.distribution import Distribution
from core.distributions.exponential import Exponential
from core.distributions.gamma import Gamma
from core.distributions.geometric import Geometric
from core.distributions.gumbel import EULER, Gumbel
from core.distributions.half_normal import HalfNormal
from core.distributions.independent import Independent
from core.distributions.laplace import Laplace
from core.distributions.lowrank_multivariate_normal import LowRankMultivariateNormal
from core.distributions.multivariate_normal import MultivariateNormal, mahalanobis
from core.distributions.normal import Normal
from core.distributions.one_hot_categorical import OneHotCategorical
from core.distributions.pareto import Pareto
from core.distributions.poisson import Poisson
from core.distributions.transformed_distribution import TransformedDistribution
from core.distributions.uniform import Uniform
from core.distributions.utils import sum_rightmost
from core.errors import ArgumentError

__all__ = ["kl_divergence", "register_kl"]

_RULES: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}


def register_kl(type_p: type, type_q: type) -> Callable[[Any], Any]:
    """Decorator for the divergence of one pair of distributions."""

    def register(rule: Any) -> Any:
        _RULES[type_p, type_q] = rule
        return rule

    return register


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p ‖ q) = E_p ln(p/q), for each of the batch. The rule of the nearest base classes counts."""
    for type_p in type(p).__mro__:
        for type_q in type(q).__mro__:
            rule = _RULES.get((type_p, type_q))
            if rule is not None:
                return rule(p, q)
    raise NotImplementedError(
        f"kl_divergence: no rule for {type(p).__name__} and {type(q).__name__}; register_kl adds one"
    )


def _log_ratio(p: Tensor, q: Tensor) -> Tensor:
    return p.log() - q.log()


# -- of one family -----------------------------------------------------------------------------------------------------------


@register_kl(Normal, Normal)
def _normal(p: Normal, q: Normal) -> Tensor:
    ratio = (p.scale / q.scale) ** 2
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale) ** 2 - 1 - ratio.log())


@register_kl(Categorical, Categorical)
def _categorical(p: Categorical, q: Categorical) -> Tensor:
    t = p.probs * (p.logits - q.logits)
    t = core.where((q.probs == 0).expand(t.shape), math.inf, t)
    return core.where((p.probs == 0).expand(t.shape), 0.0, t).sum(-1)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Tensor:
    return _categorical(p._categorical, q._categorical)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    yes = p.probs * (F.softplus(-q.logits) - F.softplus(-p.logits))
    no = (1 - p.probs) * (F.softplus(q.logits) - F.softplus(p.logits))
    yes = core.where(p.probs == 0, 0.0, core.where(q.probs == 0, math.inf, yes))
    return yes + core.where(p.probs == 1, 0.0, core.where(q.probs == 1, math.inf, no))


@register_kl(Binomial, Binomial)
def _binomial(p: Binomial, q: Binomial) -> Tensor:
    if bool((p.total_count < q.total_count).any()):
        raise NotImplementedError("KL between Binomials where q.total_count > p.total_count is not implemented")
    kl = p.total_count * (p.probs * (p.logits - q.logits) + (-p.probs).log1p() - (-q.probs).log1p())
    return core.where(p.total_count > q.total_count, math.inf, kl)


@register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _continuous_bernoulli(p: ContinuousBernoulli, q: ContinuousBernoulli) -> Tensor:
    norms = p._log_norm() + core.log1p(-p.probs) - q._log_norm() - core.log1p(-q.probs)
    return p.mean * (p.logits - q.logits) + norms


@register_kl(Beta, Beta)
def _beta(p: Beta, q: Beta) -> Tensor:
    return _dirichlet(p._dirichlet, q._dirichlet)


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Dirichlet, q: Dirichlet) -> Tensor:
    a, b = p.concentration, q.concentration
    spread = a.sum(-1).lgamma() - b.sum(-1).lgamma() - (a.lgamma() - b.lgamma()).sum(-1)
    return spread + ((a - b) * (a.digamma() - a.sum(-1, keepdim=True).digamma())).sum(-1)


@register_kl(Exponential, Exponential)
def _exponential(p: Exponential, q: Exponential) -> Tensor:
    ratio = q.rate / p.rate
    return ratio - 1 - ratio.log()


@register_kl(Gamma, Gamma)
def _gamma(p: Gamma, q: Gamma) -> Tensor:
    a, b = p.concentration, q.concentration
    t = b * _log_ratio(p.rate, q.rate) + b.lgamma() - a.lgamma()
    return t + (a - b) * a.digamma() + (q.rate - p.rate) * (a / p.rate)


@register_kl(Geometric, Geometric)
def _geometric(p: Geometric, q: Geometric) -> Tensor:
    return -p.entropy() - core.log1p(-q.probs) / p.probs - q.logits


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Gumbel, q: Gumbel) -> Tensor:
    ratio, offset = p.scale / q.scale, (q.loc - p.loc) / q.scale
    spread = core.exp(offset + (1 + ratio).lgamma())
    return -ratio.log() - offset + ratio * EULER + spread - (1 + EULER)


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: HalfNormal, q: HalfNormal) -> Tensor:
    return _normal(p.base_dist, q.base_dist)  # type: ignore[arg-type]


@register_kl(Laplace, Laplace)
def _laplace(p: Laplace, q: Laplace) -> Tensor:
    ratio, apart = p.scale / q.scale, (p.loc - q.loc).abs()
    return -ratio.log() + apart / q.scale + ratio * core.exp(-apart / p.scale) - 1


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Cauchy, q: Cauchy) -> Tensor:
    return ((p.scale + q.scale).pow(2) + (p.loc - q.loc).pow(2)).log() - (4 * p.scale * q.scale).log()


@register_kl(Pareto, Pareto)
def _pareto(p: Pareto, q: Pareto) -> Tensor:
    ratio = q.alpha / p.alpha
    kl = q.alpha * (p.scale / q.scale).log() - ratio.log() + ratio - 1
    return core.where(p.scale < q.scale, math.inf, kl)


@register_kl(Poisson, Poisson)
def _poisson(p: Poisson, q: Poisson) -> Tensor:
    return p.rate * _log_ratio(p.rate, q.rate) - (p.rate - q.rate)


@register_kl(Uniform, Uniform)
def _uniform(p: Uniform, q: Uniform) -> Tensor:
    kl = ((q.high - q.low) / (p.high - p.low)).log()
    return core.where(core.logical_or(q.low > p.low, q.high < p.high), math.inf, kl)


def _multivariate(p: Any, q: Any, low_p: Tensor, low_q: Tensor) -> Tensor:
    n = p.event_shape[0]
    half = (low_q.diagonal(dim1=-2, dim2=-1).log() - low_p.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
    shape = core.broadcast_shapes(low_p.shape, low_q.shape)
    y = core.linalg.solve_triangular(low_q.expand(shape), low_p.expand(shape), upper=False)
    return half + 0.5 * (y.pow(2).sum((-2, -1)) + mahalanobis(low_q, q.loc - p.loc) - n)


@register_kl(MultivariateNormal, MultivariateNormal)
def _multivariate_normal(p: MultivariateNormal, q: MultivariateNormal) -> Tensor:
    if p.event_shape != q.event_shape:
        raise ArgumentError(
            "KL-divergence between two Multivariate Normals with different event shapes cannot be computed"
        )
    return _multivariate(p, q, p._low, q._low)


@register_kl(LowRankMultivariateNormal, LowRankMultivariateNormal)
def _low_rank(p: LowRankMultivariateNormal, q: LowRankMultivariateNormal) -> Tensor:
    return _multivariate(p, q, p.scale_tril, q.scale_tril)


@register_kl(MultivariateNormal, LowRankMultivariateNormal)
def _multivariate_low_rank(p: MultivariateNormal, q: LowRankMultivariateNormal) -> Tensor:
    return _multivariate(p, q, p._low, q.scale_tril)


@register_kl(LowRankMultivariateNormal, MultivariateNormal)
def _low_rank_multivariate(p: LowRankMultivariateNormal, q: MultivariateNormal) -> Tensor:
    return _multivariate(p, q, p.scale_tril, q._low)


@register_kl(Independent, Independent)
def _independent(p: Independent, q: Independent) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise NotImplementedError
    return sum_rightmost(kl_divergence(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)


@register_kl(TransformedDistribution, TransformedDistribution)
def _transformed(p: TransformedDistribution, q: TransformedDistribution) -> Tensor:
    if p.transforms != q.transforms or p.event_shape != q.event_shape:
        raise NotImplementedError("kl_divergence: expected two distributions with the same transforms")
    return kl_divergence(p.base_dist, q.base_dist)


# -- of two families ---------------------------------------------------------------------------------------------------------


def _to_normal(p: Any, q: Normal) -> Tensor:
    """Of anything with an entropy and two moments."""
    var = q.scale.pow(2)
    return -p.entropy() + 0.5 * (2 * math.pi * var).log() + (p.variance + (p.mean - q.loc).pow(2)) / (2 * var)


def _to_exponential(p: Any, q: Exponential) -> Tensor:
    """Of anything positive with an entropy and a mean."""
    return -p.entropy() - q.rate.log() + q.rate * p.mean


for _family in (Beta, ContinuousBernoulli, Exponential, Gamma, Gumbel, Laplace, Pareto, Uniform):
    register_kl(_family, Normal)(_to_normal)
for _family in (Beta, ContinuousBernoulli, Gamma, Pareto):
    register_kl(_family, Exponential)(_to_exponential)


@register_kl(Uniform, Exponential)
def _uniform_exponential(p: Uniform, q: Exponential) -> Tensor:
    return core.where(p.low < 0, math.inf, _to_exponential(p, q))


@register_kl(Beta, Gamma)
def _beta_gamma(p: Beta, q: Gamma) -> Tensor:
    mean_log = p.concentration1.digamma() - (p.concentration1 + p.concentration0).digamma()
    return _to_gamma(p, q, mean_log)


@register_kl(Pareto, Gamma)
def _pareto_gamma(p: Pareto, q: Gamma) -> Tensor:
    return _to_gamma(p, q, p.scale.log() + p.alpha.reciprocal())


def _to_gamma(p: Any, q: Gamma, mean_log: Tensor) -> Tensor:
    a = q.concentration
    return -p.entropy() + a.lgamma() - a * q.rate.log() + (1 - a) * mean_log + q.rate * p.mean


@register_kl(Normal, Laplace)
def _normal_laplace(p: Normal, q: Laplace) -> Tensor:
    d, s = p.loc - q.loc, p.scale
    away = math.sqrt(2 / math.pi) * s * core.exp(-0.5 * (d / s).pow(2)) + d * core.erf(math.sqrt(0.5) * d / s)
    return -(s / q.scale).log() - 0.5 - 0.5 * math.log(2 * math.pi) + math.log(2) + away / q.scale


@register_kl(Exponential, Gamma)
def _exponential_gamma(p: Exponential, q: Gamma) -> Tensor:
    ratio = q.rate / p.rate
    return -q.concentration * ratio.log() + ratio + q.concentration.lgamma() + q.concentration * EULER - (1 + EULER)


@register_kl(Beta, Uniform)
def _beta_uniform(p: Beta, q: Uniform) -> Tensor:
    kl = -p.entropy() + (q.high - q.low).log()
    return core.where(core.logical_or(q.low > 0, q.high < 1), math.inf, kl)


@register_kl(Bernoulli, Poisson)
def _bernoulli_poisson(p: Bernoulli, q: Poisson) -> Tensor:
    return -p.entropy() - (p.probs * q.rate.log() - q.rate)


# -- where p has values that q never has -------------------------------------------------------------------------------------

_ON_THE_LINE = (Cauchy, Gumbel, Laplace, Normal)
_POSITIVE = (Exponential, Gamma)
_BOUNDED = (Beta, ContinuousBernoulli, Uniform)


def _infinite(p: Any, q: Any) -> Tensor:
    shape = core.broadcast_shapes(p.batch_shape, q.batch_shape)
    return core.full(shape, math.inf, dtype=p.mean.dtype, device=p.mean.device)


for _wide, _narrow in (
    (_ON_THE_LINE, (*_POSITIVE, *_BOUNDED, Pareto)), (_POSITIVE, (*_BOUNDED, Pareto)), ((Pareto,), _BOUNDED),
    ((Beta, ContinuousBernoulli), (Pareto,)), ((Poisson,), (Bernoulli, Binomial)),
):  # fmt: skip
    for _p in _wide:
        for _q in _narrow:
            register_kl(_p, _q)(_infinite)
