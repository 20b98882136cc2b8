"""Distributions without PyTorch: densities, moments and divergences against sums and integrals, gradients against differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import core
from core import distributions as D
from core.distributions import constraints, implicit, kl
from core.errors import ArgumentError
from tests.distribution_cases import FAMILIES, IDS, Family

GRIDS = [(family, i) for family, i in zip(FAMILIES, IDS) if family.grid is not None]
on_grids = pytest.mark.parametrize("family", [f for f, _ in GRIDS], ids=[i for _, i in GRIDS])


def mean_of(family: Family, p: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Σ or ∫ p·values over the grid: the first dimension."""
    x = family.grid
    assert x is not None
    with np.errstate(invalid="ignore"):
        y = np.where(p > 0, p * values, 0)
    return y.sum(0) if family.discrete else np.trapezoid(y, x, axis=0)


def density(family: Family, d: Any) -> np.ndarray:
    x = core.tensor(family.grid).reshape(-1, *(1,) * len(d.batch_shape))
    d._validate_args = False  # the grid may leave the support
    with np.errstate(all="ignore"):
        return d.log_prob(x).exp().detach().numpy().reshape(len(x), -1)


@on_grids
def test_densities_moments_and_entropy(family: Family) -> None:
    d, _ = family.made(core)
    p = density(family, d)
    rtol = 2e-3 if family.name == "Uniform" else 2e-4  # a grid does not meet its ends
    np.testing.assert_allclose(mean_of(family, p, np.ones_like(p)), 1, rtol=rtol)
    x = np.reshape(family.grid, (-1, 1))
    flat = lambda t: t.detach().numpy().reshape(-1)
    if not family.name.startswith(("Relaxed", "OneHot")):
        mean = mean_of(family, p, x)
        np.testing.assert_allclose(flat(d.mean), mean, rtol=rtol, atol=1e-4)
        np.testing.assert_allclose(
            flat(d.variance), mean_of(family, p, (x - mean) ** 2), rtol=1e-2 if family.name == "StudentT" else 2e-3
        )
        np.testing.assert_allclose(flat(d.stddev), np.sqrt(flat(d.variance)))
    try:
        entropy = d.entropy()
    except NotImplementedError:
        assert family.name in ("FisherSnedecor", "NegativeBinomial", "Poisson", "RelaxedBernoulli", "Binomial")
        return
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(flat(entropy), mean_of(family, p, -np.log(p)), rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(flat(d.perplexity()), np.exp(flat(entropy)))


@on_grids
def test_cdf_and_its_inverse(family: Family) -> None:
    d, _ = family.made(core)
    level = core.full(d.batch_shape, 0.3).double()
    try:
        at = d.icdf(level) if family.name not in ("Gamma", "Chi2") else core.full(d.batch_shape, 1.3).double()
    except NotImplementedError:
        pytest.skip("no icdf")
    below = np.asarray(family.grid)[:, None] <= at.detach().numpy().reshape(1, -1)
    found = mean_of(family, density(family, d), below.astype(float))
    np.testing.assert_allclose(d.cdf(at).detach().numpy().reshape(-1), found, atol=1e-3)
    if family.name not in ("Gamma", "Chi2"):
        np.testing.assert_allclose(d.cdf(at).detach().numpy().reshape(-1), 0.3, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_samples_have_the_moments_and_lie_in_the_support(family: Family) -> None:
    core.manual_seed(0)
    d, leaves = family.made(core)
    n = 4000 if family.name not in ("Multinomial",) else 2000
    x = d.sample((n,))
    assert tuple(x.shape) == (n, *d.batch_shape, *d.event_shape) and not x.requires_grad
    assert bool(d.support.check(x).all())
    assert tuple(d.log_prob(x[:3]).shape) == (3, *d.batch_shape)
    try:
        mean, sd = d.mean.detach(), d.stddev.detach()
    except NotImplementedError:
        return
    if not bool(sd.isfinite().all()) or family.name == "VonMises":
        return  # Cauchy; and angles have another mean
    off = (x.double().mean(0) - mean).abs() / (sd / n**0.5 + 1e-12)
    assert bool((off < 5).all()), off
    if d.has_rsample and leaves:
        assert d.rsample((2,)).requires_grad


@pytest.mark.parametrize("family", FAMILIES, ids=IDS)
def test_expand(family: Family) -> None:
    core.manual_seed(0)
    d, _ = family.made(core)
    e = d.expand((5, *d.batch_shape))
    assert type(e) is type(d) and tuple(e.batch_shape) == (5, *d.batch_shape) and e.event_shape == d.event_shape
    x = d.sample()
    np.testing.assert_allclose(e.log_prob(x)[3].detach().numpy(), d.log_prob(x).detach().numpy())
    assert tuple(e.sample((2,)).shape) == (2, 5, *d.batch_shape, *d.event_shape)


# -- how draws move with parameters ------------------------------------------------------------------------------------------


def _gamma_below(a: float, x: float) -> float:
    y = np.linspace(-60, np.log(x), 400_001)  # ∫ over ln t
    return float(np.trapezoid(np.exp(a * y - np.exp(y) - math.lgamma(a)), y))


def _beta_below(a: float, b: float, x: float) -> float:
    w = np.linspace(-80 / a, math.log(x / (1 - x)), 400_001)  # ∫ over the log-odds
    ln_b = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    return float(np.trapezoid(np.exp(-a * np.log1p(np.exp(-w)) - b * np.log1p(np.exp(w)) - ln_b), w))


@pytest.mark.parametrize(
    ("a", "x"), [(0.5, 0.1), (0.5, 2.0), (1.0, 1.0), (3.0, 1.0), (3.0, 8.0), (40.0, 39.0), (40.0, 60.0)]
)
def test_gamma_numbers_move_along_their_quantile(a: float, x: float) -> None:
    h = 1e-4 * a
    slope = (_gamma_below(a + h, x) - _gamma_below(a - h, x)) / (2 * h)
    p = math.exp((a - 1) * math.log(x) - x - math.lgamma(a))
    np.testing.assert_allclose(implicit.gamma_slope(np.array([a]), np.array([x]))[0], -slope / p, rtol=2e-4)


@pytest.mark.parametrize(
    ("a", "b", "x"), [(0.5, 0.5, 0.2), (2.0, 3.0, 0.1), (2.0, 3.0, 0.9), (30.0, 5.0, 0.8), (1.0, 1.0, 0.5)]
)
def test_beta_numbers_move_along_their_quantile(a: float, b: float, x: float) -> None:
    h = 1e-4 * a
    slope = (_beta_below(a + h, b, x) - _beta_below(a - h, b, x)) / (2 * h)
    p = math.exp(
        (a - 1) * math.log(x) + (b - 1) * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    )
    found = implicit.beta_slope(np.array([a]), np.array([b]), np.array([x]))[0]
    np.testing.assert_allclose(found, -slope / p, rtol=2e-4)


def test_gradients_of_means() -> None:
    """E x is known: the average of ∂x/∂θ over draws must be its derivative."""
    core.manual_seed(0)
    a, b = core.tensor(2.5).double().requires_grad_(), core.tensor(1.5).double().requires_grad_()
    cases = {
        "Gamma": (D.Gamma(a, b), lambda: a / b), "Beta": (D.Beta(a, b), lambda: a / (a + b)),
        "Normal": (D.Normal(a, b), lambda: a * 1 + 0 * b),
        "Laplace": (D.Laplace(a, b), lambda: a * 1 + 0 * b), "Weibull": (D.Weibull(a, b), lambda: D.Weibull(a, b).mean),
        "Exponential": (D.Exponential(a), lambda: 1 / a + 0 * b),
        "LogNormal": (D.LogNormal(a * 0.1, b * 0.2), lambda: D.LogNormal(a * 0.1, b * 0.2).mean),
    }  # fmt: skip
    for name, (d, mean) in cases.items():
        drawn = d.rsample((4000,)).mean() + 0 * (a + b)
        got = core.autograd.grad(drawn, [a, b], retain_graph=True)
        expected = core.autograd.grad(mean() + 0 * (a + b), [a, b])
        np.testing.assert_allclose([g.item() for g in got], [g.item() for g in expected], atol=0.06, err_msg=name)


# -- divergences ---------------------------------------------------------------------------------------------------------------


def _named(name: str, k: int) -> Any:
    """Two distributions of one family, one number each."""
    t = lambda x: core.tensor(x).double()
    made = {
        "Bernoulli": lambda: D.Bernoulli(t((0.3, 0.6)[k])), "Beta": lambda: D.Beta(t((2.0, 3.0)[k]), t((3.0, 1.5)[k])),
        "Binomial": lambda: D.Binomial(10, t((0.3, 0.6)[k])), "ContinuousBernoulli": lambda: D.ContinuousBernoulli(t((0.3, 0.8)[k])),
        "Exponential": lambda: D.Exponential(t((0.7, 1.5)[k])), "Gamma": lambda: D.Gamma(t((2.0, 3.0)[k]), t((1.0, 1.5)[k])),
        "Geometric": lambda: D.Geometric(t((0.3, 0.6)[k])), "Gumbel": lambda: D.Gumbel(t((0.0, 0.5)[k]), t((1.0, 1.5)[k])),
        "HalfNormal": lambda: D.HalfNormal(t((1.0, 1.5)[k])), "Laplace": lambda: D.Laplace(t((0.0, 0.5)[k]), t((1.0, 1.5)[k])),
        "Normal": lambda: D.Normal(t((0.0, 0.5)[k]), t((1.0, 1.5)[k])), "Poisson": lambda: D.Poisson(t((3.0, 5.0)[k])),
        "Uniform": lambda: D.Uniform(t((0.2, 0.0)[k]), t((0.9, 1.0)[k])), "Pareto": lambda: D.Pareto(t((1.5, 1.0)[k]), t((4.0, 5.0)[k])),
        "LogNormal": lambda: D.LogNormal(t((0.0, 0.5)[k]), t((0.6, 0.8)[k])),
        "Cauchy": lambda: D.Cauchy(t((0.0, 0.5)[k]), t((1.0, 1.5)[k])),
    }  # fmt: skip
    return made[name]() if name in made else None


_COUNTS = ("Bernoulli", "Binomial", "Geometric", "Poisson")
PAIRS = sorted(
    {(p.__name__, q.__name__) for p, q in kl._RULES if _named(p.__name__, 0) is not None and _named(q.__name__, 1) is not None}
    | {("LogNormal", "LogNormal")}
)  # fmt: skip


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_divergences_are_their_integrals(p: str, q: str) -> None:
    a, b = _named(p, 0), _named(q, 1)
    found = D.kl_divergence(a, b).item()
    if p in _COUNTS:
        x = np.arange(2.0 if p == "Bernoulli" else 11.0 if p == "Binomial" else 60.0)
    elif p in ("Beta", "ContinuousBernoulli", "Uniform"):
        x = np.linspace(0, 1, 40_001)[1:-1]
    elif p == "Cauchy":
        x = np.tan(np.linspace(-math.pi / 2, math.pi / 2, 400_001)[1:-1])
    else:
        whole = p in ("Normal", "Laplace", "Gumbel")
        x = np.linspace(-60, 120, 400_001) if whole else np.geomspace(1.5 if p == "Pareto" else 1e-12, 3e3, 100_001)
    for d in (a, b):
        d._validate_args = False
        for inner in ("base_dist", "_dirichlet"):
            if hasattr(d, inner):
                getattr(d, inner)._validate_args = False
    with np.errstate(all="ignore"):
        lp = a.log_prob(core.tensor(x)).detach().numpy()
        if not math.isfinite(found):
            inside = b.support.check(core.tensor(x)).numpy()
            assert (np.exp(lp)[~inside] > 1e-12).any(), "p is within q's support"
            return
        lq = b.log_prob(core.tensor(x)).detach().numpy()
        y = np.where(lp > -500, np.exp(lp) * (lp - lq), 0)
    total = y.sum() if p in _COUNTS else np.trapezoid(y, x)
    np.testing.assert_allclose(found, total, rtol=2e-3, atol=1e-5)


def test_divergences_of_vectors() -> None:
    core.manual_seed(0)
    loc, cov = core.tensor([0.5, -0.2]).double(), core.tensor([[2.0, 0.3], [0.3, 1.0]]).double()
    p, q = D.MultivariateNormal(core.zeros(2).double(), core.eye(2).double()), D.MultivariateNormal(loc, cov)
    trace = np.trace(np.linalg.inv(cov.numpy()))
    e = 0.5 * (
        trace + loc.numpy() @ np.linalg.inv(cov.numpy()) @ loc.numpy() - 2 + math.log(np.linalg.det(cov.numpy()))
    )
    np.testing.assert_allclose(D.kl_divergence(p, q).item(), e)
    low = D.LowRankMultivariateNormal(core.zeros(2).double(), core.zeros(2, 1).double(), core.ones(2).double())
    np.testing.assert_allclose(D.kl_divergence(low, q).item(), e)
    a, b = (D.Independent(D.Normal(core.full((3,), m), core.ones(3)), 1) for m in (0.0, 2.0))
    assert D.kl_divergence(a, b).item() == 6.0
    one, two = D.Categorical(core.tensor([0.5, 0.5, 0.0])), D.Categorical(core.tensor([0.25, 0.5, 0.25]))
    np.testing.assert_allclose(D.kl_divergence(one, two).item(), 0.5 * math.log(2), rtol=1e-6)
    assert D.kl_divergence(two, one).item() == math.inf
    x, y = D.Dirichlet(core.tensor([1.0, 2.0, 3.0])), D.Dirichlet(core.tensor([2.0, 1.0, 1.0]))
    drawn = x.sample((20000,))
    np.testing.assert_allclose(
        D.kl_divergence(x, y).item(), (x.log_prob(drawn) - y.log_prob(drawn)).mean().item(), rtol=0.05
    )
    with pytest.raises(NotImplementedError, match="register_kl"):
        D.kl_divergence(D.VonMises(0.0, 1.0), D.Normal(0.0, 1.0))


def test_a_rule_of_ones_own() -> None:
    class Mine(D.Normal):
        pass

    @D.register_kl(Mine, D.Normal)
    def rule(p: Any, q: Any) -> Any:
        return core.tensor(42.0)

    try:
        assert D.kl_divergence(Mine(0.0, 1.0), D.Normal(0.0, 1.0)).item() == 42
        assert D.kl_divergence(D.Normal(0.0, 1.0), D.Normal(0.0, 1.0)).item() == 0
    finally:
        del kl._RULES[Mine, D.Normal]


# -- compositions ----------------------------------------------------------------------------------------------------------------

TRANSFORMS = {
    "affine": (D.AffineTransform(1.0, -2.0), "real"), "exp": (D.ExpTransform(), "real"), "power": (D.PowerTransform(2.5), "positive"),
    "sigmoid": (D.SigmoidTransform(), "real"), "softplus": (D.SoftplusTransform(), "real"), "tanh": (D.TanhTransform(), "real"),
    "cdf": (D.CumulativeDistributionTransform(D.Normal(0.5, 2.0)), "real"), "inverse": (D.ExpTransform().inv, "positive"),
    "composed": (D.ComposeTransform([D.AffineTransform(0.5, 2.0), D.SigmoidTransform(), D.AffineTransform(-1.0, 3.0)]), "real"),
    "stick breaking": (D.StickBreakingTransform(), "vector"), "cholesky": (D.CorrCholeskyTransform(), "six"),
    "reshaped": (D.ReshapeTransform((6,), (2, 3)), "six"),
    "independent": (D.IndependentTransform(D.ExpTransform(), 1), "six"),
    "stacked": (D.StackTransform([D.ExpTransform(), D.AffineTransform(0.0, 3.0)], dim=-1), "pair"),
    "side by side": (D.CatTransform([D.ExpTransform(), D.TanhTransform()], dim=-1, lengths=[4, 2]), "six"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_invert_and_know_how_they_stretch(name: str) -> None:
    t, kind = TRANSFORMS[name]
    core.manual_seed(1)
    x = {
        "real": core.randn(5),
        "positive": core.rand(5) + 0.1,
        "vector": core.randn(4),
        "six": core.randn(6),
        "pair": core.randn(3, 2),
    }[kind].double()
    y = t(x)
    np.testing.assert_allclose(t.inv(y).numpy(), x.numpy(), rtol=1e-6, atol=1e-8)
    assert tuple(t.forward_shape(x.shape)) == tuple(y.shape) and tuple(t.inverse_shape(y.shape)) == tuple(x.shape)
    assert t.inv.inv is t and t == t and t != D.AbsTransform()
    jac = core.autograd.functional.jacobian(t, x).reshape(y.numel(), x.numel())
    if name == "stick breaking":
        jac = jac[:-1]
    if name == "cholesky":
        rows, columns = core.tril_indices(4, 4, -1)
        jac = core.autograd.functional.jacobian(lambda x: t(x)[rows, columns], x)
    total = t.log_abs_det_jacobian(x, y).sum().item()
    np.testing.assert_allclose(total, core.linalg.slogdet(jac).logabsdet.item(), atol=1e-8)
    if kind == "real":
        assert bool(((t(x + 0.1) > y) == (t.sign > 0)).all())


def test_a_cached_transform_gives_back_the_very_tensor() -> None:
    t = D.TanhTransform(cache_size=1)
    x = core.full((3,), 20.0)
    y = t(x)
    assert t.inv(y) is x and bool(D.TanhTransform().inv(y).isinf().all())
    d = D.TransformedDistribution(D.Normal(core.zeros(3), 10.0), [D.TanhTransform(cache_size=1)])
    core.manual_seed(0)
    assert bool(d.log_prob(d.rsample()).isfinite().all())


def test_transformed_and_independent_shapes() -> None:
    d = D.TransformedDistribution(D.Normal(core.zeros(4, 3), 1.0), D.StickBreakingTransform())
    assert (tuple(d.batch_shape), tuple(d.event_shape)) == ((4,), (4,))
    assert tuple(d.sample((2,)).shape) == (2, 4, 4)
    i = D.Independent(D.Normal(core.zeros(4, 3), core.ones(4, 3)), 1)
    assert (tuple(i.batch_shape), tuple(i.event_shape)) == ((4,), (3,)) and tuple(i.entropy().shape) == (4,)
    assert repr(i) == f"Independent({i.base_dist!r}, 1)"
    with pytest.raises(ArgumentError, match="reinterpreted_batch_ndims"):
        D.Independent(D.Normal(0.0, 1.0), 1)
    flipped = D.TransformedDistribution(D.Normal(0.0, 1.0), D.AffineTransform(0.0, -1.0))
    np.testing.assert_allclose(
        flipped.cdf(core.tensor(1.0)).item(), D.Normal(0.0, 1.0).cdf(core.tensor(1.0)).item(), rtol=1e-6
    )


def test_mixtures() -> None:
    core.manual_seed(0)
    m = D.MixtureSameFamily(
        D.Categorical(core.tensor([0.3, 0.7]).double()),
        D.Normal(core.tensor([-2.0, 1.0]).double(), core.tensor([0.5, 1.0]).double()),
    )
    x = np.linspace(-30, 30, 200_001)
    p = m.log_prob(core.tensor(x)).exp().numpy()
    np.testing.assert_allclose(np.trapezoid(p, x), 1, rtol=1e-9)
    np.testing.assert_allclose(m.mean.item(), np.trapezoid(p * x, x), rtol=1e-9)
    np.testing.assert_allclose(m.variance.item(), np.trapezoid(p * (x - m.mean.item()) ** 2, x), rtol=1e-9)
    np.testing.assert_allclose(
        m.cdf(core.tensor(0.5).double()).item(), np.trapezoid(p[x <= 0.5], x[x <= 0.5]), rtol=1e-3
    )
    drawn = m.sample((5000,))
    assert abs(drawn.mean().item() - m.mean.item()) < 0.1
    v = D.MixtureSameFamily(D.Categorical(core.ones(4, 2)), D.Independent(D.Normal(core.randn(4, 2, 3), 1.0), 1))
    assert tuple(v.sample((5,)).shape) == (5, 4, 3) and tuple(v.log_prob(v.sample()).shape) == (4,)
    with pytest.raises(ArgumentError, match="3 components"):
        D.MixtureSameFamily(D.Categorical(core.ones(3)), D.Normal(core.zeros(2), 1.0))


# -- what is refused ---------------------------------------------------------------------------------------------------------------


def test_parameters_and_values_are_checked() -> None:
    for wrong in (
        lambda: D.Normal(0.0, -1.0), lambda: D.Bernoulli(1.5), lambda: D.Categorical(core.tensor([-1.0, 2.0])), lambda: D.Uniform(1.0, 0.0),
        lambda: D.Gamma(0.0, 1.0), lambda: D.MultivariateNormal(core.zeros(2), core.tensor([[1.0, 2.0], [2.0, 1.0]])),
    ):  # fmt: skip
        with pytest.raises((ValueError, core.linalg.LinAlgError)):
            wrong()
    for d, value, message in (
        (D.Bernoulli(0.5), core.tensor(0.5), "support boolean"), (D.Exponential(1.0), core.tensor(-1.0), "support"),
        (D.Categorical(core.ones(3)), core.tensor(3), "support"), (D.Normal(core.zeros(3), 1.0), core.zeros(2), "broadcastable"),
        (D.Normal(0.0, 1.0), 1.0, "must be a Tensor"), (D.Dirichlet(core.ones(3)), core.tensor([0.5, 0.5]), "last dimensions"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=message):
            d.log_prob(value)
    assert D.Normal(0.0, -1.0, validate_args=False).scale.item() == -1
    for pair in ({}, {"probs": core.tensor(0.5), "logits": core.tensor(0.5)}):
        with pytest.raises(ArgumentError, match="either probs or logits"):
            D.Bernoulli(**pair)
    with pytest.raises(NotImplementedError, match="rsample"):
        D.Poisson(1.0).rsample()


def test_constraints() -> None:
    checks = {
        "real": [(core.tensor(1.0), True), (core.tensor(math.nan), False)],
        "positive_integer": [(core.tensor(0.0), False), (core.tensor(2.0), True)],
        "simplex": [(core.tensor([0.4, 0.6]), True), (core.tensor([0.5, 0.6]), False)],
        "one_hot": [(core.tensor([0.0, 1.0]), True), (core.tensor([1.0, 1.0]), False)],
        "lower_cholesky": [(core.tensor([[1.0, 0.0], [5.0, 2.0]]), True), (core.tensor([[1.0, 1.0], [0.0, 1.0]]), False)],
        "corr_cholesky": [(core.tensor([[1.0, 0.0], [0.6, 0.8]]), True), (core.tensor([[1.0, 0.0], [1.0, 1.0]]), False)],
        "positive_definite": [(core.eye(2), True), (core.tensor([[1.0, 2.0], [2.0, 1.0]]), False)],
        "symmetric": [(core.eye(2), True), (core.tensor([[1.0, 2.0], [0.0, 1.0]]), False)],
        "square": [(core.zeros(2, 2), True), (core.zeros(2, 3), False)],
    }  # fmt: skip
    for name, rows in checks.items():
        for value, holds in rows:
            assert bool(getattr(constraints, name).check(value)) is holds, name
    assert bool(constraints.independent(constraints.positive, 1).check(core.tensor([[1.0, 2.0], [1.0, -2.0]]))[0])
    assert constraints.is_dependent(constraints.dependent) and not constraints.is_dependent(constraints.real)


@pytest.mark.parametrize("region", [
    constraints.real, constraints.positive, constraints.nonnegative, constraints.greater_than(2.0), constraints.less_than(-1.0),
    constraints.unit_interval, constraints.interval(-1.0, 3.0), constraints.simplex, constraints.lower_cholesky,
    constraints.corr_cholesky, constraints.positive_definite, constraints.real_vector,
], ids=str)  # fmt: skip
def test_real_numbers_are_led_into_every_region(region: Any) -> None:
    core.manual_seed(0)
    for registry in (D.biject_to, D.transform_to):
        t = registry(region)
        x = core.randn(4, 3, 3) if t.domain.event_dim == 2 else core.randn(4, 3)
        y = t(x)
        assert bool(region.check(y).all())
        if registry is D.biject_to and t.domain.event_dim < 2:
            np.testing.assert_allclose(t.inv(y).numpy(), x.numpy(), rtol=1e-3, atol=1e-4)
    with pytest.raises(NotImplementedError, match="boolean"):
        D.biject_to(constraints.boolean)


def test_all_values_and_names() -> None:
    assert D.Bernoulli(core.tensor([0.5, 0.5])).enumerate_support().tolist() == [[0, 0], [1, 1]]
    assert D.Categorical(core.ones(3)).enumerate_support().tolist() == [0, 1, 2]
    assert D.Binomial(2, core.tensor(0.5)).enumerate_support().tolist() == [0, 1, 2]
    assert D.OneHotCategorical(core.ones(2) / 2).enumerate_support().tolist() == [[1, 0], [0, 1]]
    assert repr(D.Normal(0.0, 1.0)) == "Normal(loc: 0.0, scale: 1.0)"
    assert repr(D.Normal(core.zeros(2), 1.0)) == "Normal(loc: core.Size([2]), scale: core.Size([2]))"
    x = core.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    m = D.utils.vec_to_tril_matrix(x)
    assert m.tolist() == [[1, 0, 0], [2, 3, 0], [4, 5, 6]] and D.utils.tril_matrix_to_vec(m).tolist() == x.tolist()
