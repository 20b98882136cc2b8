"""Distributions against PyTorch: draws for the same seed, densities, moments, gradients, divergences, printed text."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import core
import core.distributions
from tests.distribution_cases import FAMILIES, IDS, Family

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own

every_family = pytest.mark.parametrize("family", FAMILIES, ids=IDS)


def pair(family: Family) -> Any:
    dtype = "float32" if family.name == "GeneralizedPareto" else "float64"  # torch's takes no other
    return family.made(core, dtype), family.made(torch, dtype)


def close(ours: Any, theirs: Any, rtol: float = 1e-7) -> None:
    assert str(ours.dtype).removeprefix("core.") == str(theirs.dtype).removeprefix("torch.")
    assert tuple(ours.shape) == tuple(theirs.shape)
    rtol = max(rtol, 3e-5) if theirs.dtype is torch.float32 else rtol
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=rtol, atol=rtol)


def gradients(lib: Any, y: Any, leaves: list[Any]) -> list[Any]:
    weights = lib.tensor(np.cos(np.arange(float(y.numel()))).reshape(tuple(y.shape)), dtype=y.dtype)
    return (
        list(lib.autograd.grad((y * weights).sum(), leaves, allow_unused=True, retain_graph=True))
        if leaves and y.requires_grad
        else []
    )


def same_gradients(ours: Any, ps: list[Any], theirs: Any, qs: list[Any], rtol: float) -> None:
    got, expected = gradients(core, ours, ps), gradients(torch, theirs, qs)
    assert [g is None for g in got] == [e is None for e in expected]
    for g, e in zip(got, expected):
        if e is not None:
            close(g, e, rtol)


@every_family
def test_moments_and_text(family: Family) -> None:
    (ours, _), (theirs, _) = pair(family)
    assert tuple(ours.batch_shape) == tuple(theirs.batch_shape) and tuple(ours.event_shape) == tuple(theirs.event_shape)
    assert repr(ours).replace("core", "torch") == repr(theirs) and ours.has_rsample == theirs.has_rsample
    for name in ("mean", "mode", "variance", "stddev", "entropy", "perplexity", "enumerate_support"):
        try:
            expected = getattr(theirs, name)
            expected = expected() if callable(expected) else expected
        except NotImplementedError:
            continue
        found = getattr(ours, name)
        # torch's Bessel functions and the count in multinomial entropy are of fewer digits
        close(
            found() if callable(found) else found,
            expected,
            1e-6 if family.name in ("VonMises", "Multinomial") else 1e-9,
        )


@every_family
def test_draws_and_densities(family: Family) -> None:
    (ours, ps), (theirs, qs) = pair(family)
    core.manual_seed(5)
    torch.manual_seed(5)
    e = theirs.sample((4,))
    close(ours.sample((4,)), e, 1e-6)
    x = core.tensor(e.numpy())
    close(ours.log_prob(x), theirs.log_prob(e), 1e-6 if family.name == "VonMises" else 1e-9)
    same_gradients(ours.log_prob(x), ps, theirs.log_prob(e), qs, 1e-5 if family.name == "VonMises" else 1e-7)
    if ours.has_rsample:
        core.manual_seed(6)
        torch.manual_seed(6)
        y, e = ours.rsample((4,)), theirs.rsample((4,))
        close(y, e, 1e-6)
        same_gradients(y, ps, e, qs, 2e-3)  # torch's gamma and Dirichlet gradients are approximations
    level = np.random.default_rng(0).uniform(0.1, 0.9, tuple(theirs.batch_shape))
    for name, at in (("cdf", x.numpy()), ("icdf", level)):
        try:
            expected = getattr(theirs, name)(torch.tensor(at, dtype=theirs.mean.dtype))
        except NotImplementedError:
            continue
        close(getattr(ours, name)(core.tensor(at, dtype=ours.mean.dtype)), expected, 1e-8)


@every_family
def test_expanded(family: Family) -> None:
    (ours, _), (theirs, _) = pair(family)
    ours, theirs = ours.expand((5, *ours.batch_shape)), theirs.expand((5, *theirs.batch_shape))
    core.manual_seed(5)
    torch.manual_seed(5)
    e = theirs.sample()
    close(ours.sample(), e, 1e-6)
    close(ours.log_prob(core.tensor(e.numpy())), theirs.log_prob(e), 1e-6)


_FIRST = {family.name: family for family in FAMILIES}.values()


def test_divergences() -> None:
    known, lacking = 0, set()
    for p, q in itertools.product(_FIRST, _FIRST):
        wider = {k: v * 1.1 if isinstance(v, np.ndarray) and k not in ("probs", "temperature", "low", "high", "total_count") else v
                 for k, v in q.params.items()}  # fmt: skip
        q = Family(q.name, wider if p.name == q.name else q.params)
        (ours_p, _), (theirs_p, _) = pair(p)
        (ours_q, _), (theirs_q, _) = pair(q)
        try:
            expected = torch.distributions.kl_divergence(theirs_p, theirs_q)
        except (NotImplementedError, RuntimeError, ValueError, IndexError):
            continue  # no rule, or shapes that do not broadcast
        try:
            found = core.distributions.kl_divergence(ours_p, ours_q)
        except NotImplementedError:
            lacking.add((p.name, q.name))
            continue
        close(found, expected.expand(found.shape), 1e-7)  # torch's infinities have the shape of p alone
        known += 1
    assert known > 60
    assert lacking <= {
        *itertools.product(("Chi2", "Exponential", "Gamma", "Normal", "Uniform"), ["Gumbel"]),
        *itertools.product(["Uniform"], ("Beta", "Chi2", "ContinuousBernoulli", "Gamma", "Pareto")),
        ("Beta", "ContinuousBernoulli"),
        ("ContinuousBernoulli", "Uniform"),
    }, lacking
