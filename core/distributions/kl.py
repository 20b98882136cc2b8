"""Kullback–Leibler divergences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import core.nn.functional as F
from core._tensor import Tensor
from core.distributions.bernoulli import Bernoulli
from core.distributions.categorical import Categorical
from core.distributions.distribution import Distribution
from core.distributions.normal import Normal

_RULES: dict[tuple[type, type], Callable[[Any, Any], Tensor]] = {}


def register_kl(type_p: type, type_q: type) -> Callable[[Any], Any]:
    """Decorator for the divergence of one pair of distributions."""

    def register(rule: Any) -> Any:
        _RULES[type_p, type_q] = rule
        return rule

    return register


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p ‖ q) = E_p ln(p/q), for each of the batch."""
    for (type_p, type_q), rule in _RULES.items():
        if isinstance(p, type_p) and isinstance(q, type_q):
            return rule(p, q)
    raise NotImplementedError(f"kl_divergence: no rule for {type(p).__name__} and {type(q).__name__}; register_kl adds one")


@register_kl(Normal, Normal)
def _normal(p: Normal, q: Normal) -> Tensor:
    ratio = (p.scale / q.scale) ** 2
    return 0.5 * (ratio + ((p.loc - q.loc) / q.scale) ** 2 - 1 - ratio.log())


@register_kl(Categorical, Categorical)
def _categorical(p: Categorical, q: Categorical) -> Tensor:
    return (p.probs * (p.logits - q.logits)).sum(-1)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    return p.probs * (F.softplus(-q.logits) - F.softplus(-p.logits)) + (1 - p.probs) * (
        F.softplus(q.logits) - F.softplus(p.logits)
    )
