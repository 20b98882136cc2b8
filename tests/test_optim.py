"""Every optimizer against its rule in NumPy for three steps, and what all of them keep; schedulers against their
closed forms."""

import copy
import io
import math

import numpy as np
import pytest

import core
from core import nn, optim
from core.errors import ArgumentError, CoreError, DTypeError, StateDictError
from core.optim import lr_scheduler as schedule

# -- rules: (x, gradients of three steps) -> x after each -----------------------------------------------------------------


def sgd(x, gs):
    v = 0
    for t, g in enumerate(gs, 1):
        g = g + 0.1 * x
        v = g if t == 1 else 0.9 * v + g
        x = x - 0.1 * (g + 0.9 * v)
        yield x


def rprop(x, gs):
    s, before = np.full_like(x, 0.1), np.zeros_like(x)
    for g in gs:
        s = np.where(g * before > 0, 1.2, np.where(g * before < 0, 0.5, 1.0)) * s
        g = np.where(g * before < 0, 0, g)
        x, before = x - np.sign(g) * s, g
        yield x


def asgd(x, gs):
    eta = np.float32(0.1)
    for t, g in enumerate(gs, 1):
        x = x * (1 - 0.2 * float(eta)) - float(eta) * g
        eta = np.float32(0.1 / (1 + 0.2 * 0.1 * t) ** 0.75)
        yield x


def adagrad(x, gs):
    for t in range(1, 4):
        s = 0.3 + sum(g * g for g in gs[:t])
        x = x - 0.1 / (1 + (t - 1) * 0.5) * gs[t - 1] / (np.sqrt(s) + 1e-10)
        yield x


def rmsprop(x, gs):
    v = m = b = np.zeros_like(x)
    for g in gs:
        v, m = 0.9 * v + 0.1 * g * g, 0.9 * m + 0.1 * g
        b = 0.5 * b + g / (np.sqrt(v - m * m) + 1e-8)
        x = x - 0.1 * b
        yield x


def adadelta(x, gs):
    v = u = np.zeros_like(x)
    for g in gs:
        v = 0.9 * v + 0.1 * g * g
        d = np.sqrt(u + 1e-6) / np.sqrt(v + 1e-6) * g
        u = 0.9 * u + 0.1 * d * d
        x = x - 0.5 * d
        yield x


def means(gs, beta1=0.9, beta2=0.999):
    """m and v of Adam at each step, as sums."""
    for t in range(1, len(gs) + 1):
        m = sum((1 - beta1) * beta1 ** (t - k) * gs[k - 1] for k in range(1, t + 1))
        v = sum((1 - beta2) * beta2 ** (t - k) * gs[k - 1] ** 2 for k in range(1, t + 1))
        yield t, gs[t - 1], m, v


def adam(x, gs, decay=0.0):
    for t, _, m, v in means(gs):
        x = x * (1 - 0.1 * decay) - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield x


def adamw(x, gs):
    return adam(x, gs, decay=0.2)


def adamax(x, gs):
    for t, _, m, _ in means(gs):
        u = np.max([0.999 ** (t - k) * (np.abs(gs[k - 1]) + 1e-8) for k in range(1, t + 1)], axis=0)
        x = x - 0.1 / (1 - 0.9**t) * m / u
        yield x


def nadam(x, gs):
    mu = [None, *(0.9 * (1 - 0.5 * 0.96 ** (0.004 * t)) for t in range(1, 6))]
    for t, g, m, v in means(gs):
        product = math.prod(mu[1 : t + 1])
        look = (1 - mu[t]) / (1 - product) * g + mu[t + 1] / (1 - product * mu[t + 1]) * m
        x = x - 0.1 * look / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        yield x


def sparse_adam(x, gs):
    """Where every row has a gradient."""
    for t, _, m, v in means(gs):
        x = x - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
        yield x


def radam(x, gs):
    b2, end = 0.8, 2 / 0.2 - 1
    for t, _, m, _ in means(gs, beta2=b2):
        rho = end - 2 * t * b2**t / (1 - b2**t)
        assert rho < 5  # the warm-up; the oracle test goes further
        x = x - 0.1 * m / (1 - 0.9**t)
        yield x


def adafactor(x, gs):
    r, c = 0, 0
    for t, g in enumerate(gs, 1):
        k, scale = t**-0.8, max(1e-3, np.sqrt(np.mean(x * x))) * min(0.1, 1 / np.sqrt(t))
        r, c = r + k * (np.mean(g * g, 1, keepdims=True) - r), c + k * (np.mean(g * g, 0, keepdims=True) - c)
        u = g / np.sqrt(r * c / r.mean())
        x = x - scale * u / max(1, np.sqrt(np.mean(u * u)))
        yield x


def muon(x, gs):
    b = 0
    for g in gs:
        b = 0.95 * b + 0.05 * g
        o = 0.05 * g + 0.95 * b
        o = o / np.linalg.norm(o)
        for _ in range(5):
            s = o @ o.T
            o = 3.4445 * o - 4.7750 * s @ o + 2.0315 * s @ s @ o
        x = x * (1 - 0.1 * 0.1) - 0.1 * o
        yield x


CURVES = np.linspace(1, 3, 12).reshape(3, 4)  # of the quadratic that LBFGS minimises


def lbfgs(x, gs):
    """H from scratch each time, as a matrix: the BFGS formula over all pairs so far."""
    shape, x, pairs = x.shape, x.reshape(-1), []
    slope = lambda x: CURVES.reshape(-1) * x
    for t in range(3):
        h = np.eye(x.size)
        if pairs:
            s, y = pairs[-1]
            h *= (y @ s) / (y @ y)
        for s, y in pairs:
            rho, left = 1 / (y @ s), np.eye(x.size) - np.outer(s, y) / (y @ s)
            h = left @ h @ left.T + rho * np.outer(s, s)
        g = slope(x)
        step = -(h @ g) * (0.1 if t else 0.1 * min(1, 1 / np.abs(g).sum()))
        pairs.append((step, slope(x + step) - g))
        x = x + step
        yield x.reshape(shape)


# name -> options and rule; a new optimizer without a row fails
ROWS = {
    "SGD": ({"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, sgd),
    "Rprop": ({"lr": 0.1}, rprop),
    "ASGD": ({"lr": 0.1, "lambd": 0.2}, asgd),
    "Adagrad": ({"lr": 0.1, "lr_decay": 0.5, "initial_accumulator_value": 0.3}, adagrad),
    "RMSprop": ({"lr": 0.1, "alpha": 0.9, "momentum": 0.5, "centered": True}, rmsprop),
    "Adadelta": ({"lr": 0.5}, adadelta),
    "Adam": ({"lr": 0.1}, adam),
    "AdamW": ({"lr": 0.1, "weight_decay": 0.2}, adamw),
    "Adamax": ({"lr": 0.1}, adamax),
    "NAdam": ({"lr": 0.1}, nadam),
    "RAdam": ({"lr": 0.1, "betas": (0.9, 0.8)}, radam),
    "Adafactor": ({"lr": 0.1}, adafactor),
    "Muon": ({"lr": 0.1}, muon),
    "LBFGS": ({"lr": 0.1, "max_iter": 1}, lbfgs),
    "SparseAdam": ({"lr": 0.1}, sparse_adam),
    "KFAC": ({}, None),  # takes a model: tests of its own below
}
NAMES = [name for name, (_, rule) in ROWS.items() if rule]


def test_every_optimizer_has_a_row():
    there = {
        n
        for n, c in vars(optim).items()
        if isinstance(c, type) and issubclass(c, optim.Optimizer) and c is not optim.Optimizer
    }
    assert there == set(ROWS) and there < set(optim.__all__)


def start(dtype=core.float64, seed=0):
    x = np.random.default_rng(seed).standard_normal((3, 4))
    gs = [np.random.default_rng(seed + 1 + i).standard_normal((3, 4)) for i in range(3)]
    return nn.Parameter(core.tensor(x, dtype=dtype)), x, gs


def through_a_file(value):
    file = io.BytesIO()
    core.save(value, file)
    file.seek(0)
    return core.load(file)


def step(optimizer, p, g):
    if isinstance(optimizer, optim.LBFGS):

        def closure():
            optimizer.zero_grad()
            loss = (p * p * core.tensor(CURVES, dtype=p.dtype)).sum() / 2
            loss.backward()
            return loss

        return optimizer.step(closure)
    p.grad = core.tensor(g, dtype=p.dtype)
    return optimizer.step()


def made(name, params, **more):
    return getattr(optim, name)(params, **{**ROWS[name][0], **more})


@pytest.mark.parametrize("name", NAMES)
def test_three_steps(name):
    p, x, gs = start()
    optimizer = made(name, [p])
    rtol = 1e-6 if name == "NAdam" else 1e-10  # its product of momenta is kept in float32, as PyTorch's
    for g, expected in zip(gs, ROWS[name][1](x, gs)):
        memory = p._a
        step(optimizer, p, g)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=rtol, atol=rtol)
        assert p._a is memory  # in place


@pytest.mark.parametrize("dtype", [core.float32, core.float64, core.float16, core.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_dtype_shape_and_gradient_are_kept(name, dtype):
    if name == "LBFGS" and dtype not in (core.float32, core.float64):
        pytest.skip("its dot products need more digits")
    p, _, gs = start(dtype)
    optimizer = made(name, [p])
    for g in gs:
        step(optimizer, p, g)
        if name != "LBFGS":
            assert p.grad.tolist() == core.tensor(g, dtype=dtype).tolist()
    assert p.dtype is dtype and p.shape == (3, 4) and bool((p == p).all())
    for key, value in optimizer.state[p].items():
        if isinstance(value, core.Tensor) and value.ndim:
            assert value.dtype is dtype, key


@pytest.mark.parametrize("shape", [(), (5,), (0,), (2, 3, 4)])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("Muon", "LBFGS")])
def test_any_shape(name, shape):
    if shape == (0,) and name == "Adafactor":
        pytest.skip("no mean of nothing")
    p = nn.Parameter(core.ones(shape))
    optimizer = made(name, [p])
    for _ in range(2):
        p.grad = core.ones(shape)
        optimizer.step()
    assert p.shape == shape and bool((p < 1).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_state_goes_through_a_file(name):
    p, _, gs = start()
    optimizer = made(name, [p])
    step(optimizer, p, gs[0])
    state = through_a_file(optimizer.state_dict())
    q = nn.Parameter(p.detach().clone())
    other = made(name, [q], lr=0.77)
    other.load_state_dict(state)
    assert other.param_groups[0]["lr"] == ROWS[name][0]["lr"]
    for g in gs[1:]:
        step(optimizer, p, g)
        step(other, q, g)
    assert p.tolist() == q.tolist()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("Muon", "LBFGS")])
def test_maximize_is_minus_the_gradient(name):
    (p, _, gs), (q, _, _) = start(), start()
    a, b = made(name, [p], maximize=True), made(name, [q])
    for g in gs:
        step(a, p, g)
        step(b, q, -g)
    assert p.tolist() == q.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_lr_may_be_a_tensor_and_a_group_may_have_its_own(name):
    (p, _, gs), (q, _, _) = start(), start()
    a, b = made(name, [p], lr=core.tensor(0.5)), made(name, [{"params": [q], "lr": 0.5}], lr=0.1)
    for g in gs:
        step(a, p, g)
        step(b, q, g)
    assert p.tolist() == q.tolist() and isinstance(a.param_groups[0]["lr"], core.Tensor)


def test_a_rule_derived_from_sgd_is_its_own():
    class Sign(optim.SGD):
        def update(self, be, x_, g, state, group):
            x_ -= group["lr"] * np.sign(g)

    p = core.nn.Parameter(core.tensor([1.0, 2.0]))
    p.grad = core.tensor([3.0, -4.0])
    Sign([p], lr=0.5).step()
    assert p.tolist() == [0.5, 2.5]


def test_sgd_steps_dtypes_and_layouts_together():
    ps = [
        core.nn.Parameter(core.ones(*shape, dtype=dtype))
        for shape, dtype in (((2, 3), core.float32), ((4,), core.float64), ((), core.float32), ((3,), core.bfloat16))
    ]
    ps.append(core.nn.Parameter(core.ones(2, 3).t()))
    ps.append(core.nn.Parameter(core.ones(1)))
    for p in ps[:-1]:
        p.grad = core.full_like(p, 2.0)
    versions = [p._version for p in ps]
    optim.SGD(ps, lr=0.25).step()
    assert [set(p.reshape(-1).tolist()) for p in ps] == [{0.5}] * 5 + [{1.0}]
    assert [p._version - v for p, v in zip(ps, versions)] == [1] * 5 + [0]


@pytest.mark.parametrize("name", NAMES)
def test_without_a_gradient_nothing_happens(name):
    p, x, _ = start()
    if name != "LBFGS":
        made(name, [p]).step()
    np.testing.assert_array_equal(p.detach().numpy(), x)


@pytest.mark.parametrize(
    "make, text",
    [
        *[(lambda ps, n=n: getattr(optim, n)(ps, lr=-1), "lr") for n in NAMES],
        *[
            (lambda ps, n=n: getattr(optim, n)(ps, betas=(0.9, 1.0)), "betas")
            for n in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")
        ],
        (lambda ps: optim.Adadelta(ps, rho=1.5), "rho"),
        (lambda ps: optim.Rprop(ps, etas=(1.5, 2)), "eta"),
        (lambda ps: optim.Adafactor(ps, d=0.5), "d >= 1"),
        (lambda ps: optim.Adafactor(ps, beta2_decay=0.5), "beta2_decay"),
        (lambda ps: optim.Muon(ps, adjust_lr_fn="x"), "known: match_rms_adamw, original"),
        (lambda ps: optim.Muon([core.ones(3)]), "only supports 2D"),
        (lambda ps: optim.LBFGS(ps, line_search_fn="x"), "only 'strong_wolfe'"),
        (lambda ps: optim.LBFGS([{"params": ps}, {"params": [core.ones(1)]}]), "parameter groups"),
        (lambda ps: optim.LBFGS(ps).step(), "closure"),
        (lambda ps: optim.Adam([core.ones(1, dtype=core.complex64)]), "expected real parameters"),
    ],
)
def test_mistakes(make, text):
    with pytest.raises(CoreError, match=text):
        make([core.ones(2, 2)])


def test_hooks_and_closures():
    p, seen = nn.Parameter(core.ones(2)), []
    for optimizer in (optim.SGD([p], lr=0.1), optim.LBFGS([p], max_iter=2)):
        optimizer.register_step_pre_hook(lambda *a: seen.append("before"))
        optimizer.register_step_post_hook(lambda *a: seen.append("after"))

        def closure():
            p.grad = None
            loss = (p * p).sum()
            loss.backward()
            return loss

        assert float(optimizer.step(closure)) > 0
    assert seen == ["before", "after"] * 2


def test_strong_wolfe_finds_the_minimum_of_rosenbrock():
    p = nn.Parameter(core.tensor([-1.2, 1.0], dtype=core.float64))
    optimizer = optim.LBFGS([p], max_iter=100, tolerance_change=1e-14, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(p.detach().numpy(), [1, 1], rtol=1e-5)
    assert optimizer.state[p]["func_evals"] < 70


# -- K-FAC -----------------------------------------------------------------------------------------------------------------


def test_kfac_on_a_linear_layer():
    """Three steps in NumPy: moments, inverses, momentum."""
    r = np.random.default_rng(0)
    layer = nn.Linear(3, 2).double()
    optimizer = optim.KFAC(layer, lr=0.1, momentum=0.9, damping=0.01, decay=0.5, kl_clip=1e9, inverse_every=1)
    w = np.concatenate([layer.weight.detach().numpy(), layer.bias.detach().numpy()[:, None]], 1)
    v = a = g = 0
    for t in range(3):
        x, y = r.standard_normal((5, 3)), r.standard_normal((5, 2))
        optimizer.zero_grad()
        ((layer(core.tensor(x)) - core.tensor(y)) ** 2).sum(1).mean().backward()
        optimizer.step()
        x1 = np.concatenate([x, np.ones((5, 1))], 1)
        d = 2 * (x1 @ w.T - y)  # each example's own gradient
        keep = 0.5 if t else 0
        a, g = keep * a + (1 - keep) * x1.T @ x1 / 5, keep * g + (1 - keep) * d.T @ d / 5
        pi = np.sqrt(np.trace(a) / 4 / (np.trace(g) / 2))
        u = np.linalg.inv(g + 0.1 / pi * np.eye(2)) @ (d.T @ x1 / 5) @ np.linalg.inv(a + 0.1 * pi * np.eye(4))
        v = 0.9 * v + u
        w = w - 0.1 * v
        np.testing.assert_allclose(layer.weight.detach().numpy(), w[:, :3], rtol=1e-9)
        np.testing.assert_allclose(layer.bias.detach().numpy(), w[:, 3], rtol=1e-9)


def test_kfac_moments_of_a_convolution():
    """Patches by brute force."""
    from core.optim.kfac import _moments

    r = np.random.default_rng(0)
    layer = nn.Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(2, 1))
    x, h, w = r.standard_normal((4, 2, 5, 7)), 5, 3
    g = r.standard_normal((4, 3, h, w))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    a, b = 0, 0
    for n in range(4):
        for i in range(h):
            for j in range(w):
                patch = np.append(padded[n, :, i : i + 3 : 2, 2 * j : 2 * j + 3].reshape(-1), 1)
                a, b = a + np.outer(patch, patch) / 4, b + np.outer(g[n, :, i, j], g[n, :, i, j]) * 4 / (h * w)
    mine = _moments(layer, x, g)
    np.testing.assert_allclose(mine[0], a)
    np.testing.assert_allclose(mine[1], b)


def badly_scaled(make, steps=60):
    """The loss after some steps of regression on inputs whose scales differ by 1000."""
    core.manual_seed(0)
    r = np.random.default_rng(0)
    x = core.tensor(r.standard_normal((64, 8)) * np.logspace(-1.5, 1.5, 8), dtype=core.float32)
    y = x @ core.tensor(np.logspace(1.5, -1.5, 8)[:, None] * r.standard_normal((8, 3)), dtype=core.float32)
    model = nn.Linear(8, 3)
    optimizer = make(model)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
    return float(loss)


def test_kfac_does_not_mind_bad_scales():
    best_sgd = min(
        badly_scaled(lambda m, lr=lr: optim.SGD(m.parameters(), lr=lr, momentum=0.9)) for lr in (3e-4, 1e-3, 3e-3)
    )
    natural = badly_scaled(lambda m: optim.KFAC(m, lr=0.3, damping=1e-6, kl_clip=1.0, inverse_every=1))
    assert natural < 0.2 * best_sgd


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_parameter_of_no_dimension(name):
    """Its gradient, negated, is a scalar of NumPy's, which has no memory to give to a library."""
    ps = [nn.Parameter(core.tensor(2.0)), nn.Parameter(core.tensor([2.0]))]
    optimizer = getattr(core.optim, name)(ps, lr=0.1, maximize=True)
    for _ in range(3):
        optimizer.zero_grad()
        sum(p.square().sum() for p in ps).backward()
        optimizer.step()
    assert ps[0].item() == pytest.approx(ps[1].item(), rel=1e-6) and ps[1].item() > 2


def test_small_parameters_step_together_as_they_would_alone():
    """In one group, whose counts of steps differ, and one at a time: the same bits."""
    found = []
    for split in (False, True):
        core.manual_seed(0)
        ps = [nn.Parameter(core.randn(*shape)) for shape in ((3,), (4, 5), (), (70, 80), (200, 100))]
        groups = [[p] for p in ps] if split else [ps]
        optimizers = [core.optim.AdamW(group, lr=0.1) for group in groups]
        for step in range(4):
            for p in ps:
                p.grad = None if step == 1 and p.ndim == 2 else core.randn(*p.shape)
            for optimizer in optimizers:
                optimizer.step()
        states = [o.state[p] for o in optimizers for g in o.param_groups for p in g["params"]]
        found.append([*ps, *(s[k] for s in states for k in ("step", "exp_avg", "exp_avg_sq"))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_moments_that_were_loaded_in_another_order_go_on():
    """A checkpoint's tensors may lie transposed in memory: the steps after it are written to them, not to a copy."""
    found = []
    for turned in (False, True):
        core.manual_seed(0)
        p = nn.Parameter(core.randn(4, 5))
        optimizer = core.optim.Adam([p], lr=0.1)
        for step in range(3):
            p.grad = core.randn(4, 5)
            optimizer.step()
            if turned and not step:
                for key in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[p][key] = optimizer.state[p][key].t().contiguous().t()
                    assert not optimizer.state[p][key].is_contiguous()
        found.append([p, optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"]])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())


def test_a_copy_of_small_parameters_goes_on_by_itself():
    """Moments that are updated together lie in one array; those of a copy, and those that are read in, must be its own."""
    core.manual_seed(0)
    ps = [nn.Parameter(core.randn(n)) for n in (3, 4)]
    optimizer = core.optim.Adam(ps, lr=0.1)

    def step(ps, optimizer, value):
        for p in ps:
            p.grad = core.full_like(p, value)
        optimizer.step()

    step(ps, optimizer, 1.0)
    qs, copied = copy.deepcopy((ps, optimizer))
    rs = [nn.Parameter(p.detach().clone()) for p in ps]
    loaded = core.optim.Adam(rs, lr=0.1)
    loaded.load_state_dict(optimizer.state_dict())
    before = [optimizer.state[p]["exp_avg"].clone() for p in ps]
    for params, each in ((qs, copied), (rs, loaded)):
        step(params, each, -2.0)
        step(params, each, -2.0)
    for p, m in zip(ps, before):
        assert optimizer.state[p]["exp_avg"].equal(m)
    step(ps, optimizer, -2.0)
    step(ps, optimizer, -2.0)
    for p, q, r in zip(ps, qs, rs):
        assert p.equal(q) and p.equal(r)
        assert optimizer.state[p]["exp_avg_sq"].equal(copied.state[q]["exp_avg_sq"])


def test_kfac_trains_a_small_network_and_resumes():
    core.manual_seed(0)
    x, y = core.randn(16, 1, 6, 6), core.randint(0, 3, (16,))

    def net():
        core.manual_seed(1)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))

    def train(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.CrossEntropyLoss()(model(x), y)
            loss.backward()
            optimizer.step()
        return float(loss)

    model = net()
    optimizer = optim.KFAC(model, lr=0.1, inverse_every=2)
    first = train(model, optimizer, 1)
    assert train(model, optimizer, 9) < 0.8 * first
    state, other = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()}), net()
    resumed = optim.KFAC(other, lr=0.1, inverse_every=2)
    other.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    assert train(model, optimizer, 5) == train(other, resumed, 5)
    optimizer.close()
    with core.no_grad():
        model(x)
    assert not optimizer._moments


def test_kfac_takes_the_diagonal_of_other_parameters():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.s = nn.Parameter(core.ones(2))

        def forward(self, x):
            return x * self.s

    model = Scale()
    optimizer = optim.KFAC(model, lr=0.1, momentum=0, damping=0.5, kl_clip=1e9)
    g = np.array([1.0, 3.0])
    model.s.grad = core.tensor(g, dtype=core.float32)
    optimizer.step()
    np.testing.assert_allclose(model.s.detach().numpy(), 1 - 0.1 * g / (g * g + 0.5), rtol=1e-6)


# -- schedulers -------------------------------------------------------------------------------------------------------------


def rates(make, steps=12, lr=0.1):
    """The rates of `steps` steps, the first being the one before any."""
    optimizer = optim.SGD([nn.Parameter(core.ones(1))], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        assert scheduler.get_last_lr() == [optimizer.param_groups[0]["lr"]]
        found.append(optimizer.param_groups[0]["lr"])
    return found


cos = lambda n, of: (1 + math.cos(math.pi * n / of)) / 2
# scheduler -> how it is made, and its rate at step n
CLOSED = {
    "ConstantLR": (lambda o: schedule.ConstantLR(o, 0.5, 4), lambda n: 0.1 * (0.5 if n < 4 else 1)),
    "ExponentialLR": (lambda o: schedule.ExponentialLR(o, 0.9), lambda n: 0.1 * 0.9**n),
    "StepLR": (lambda o: schedule.StepLR(o, 3), lambda n: 0.1 * 0.1 ** (n // 3)),
    "MultiStepLR": (lambda o: schedule.MultiStepLR(o, [2, 5, 5], 0.5), lambda n: 0.1 * 0.5 ** ((n >= 2) + 2 * (n >= 5))),
    "LinearLR": (lambda o: schedule.LinearLR(o, 0.2, 0.8, 6), lambda n: 0.1 * (0.2 + 0.6 * min(n, 6) / 6)),
    "PolynomialLR": (lambda o: schedule.PolynomialLR(o, 8, 2.0), lambda n: 0.1 * (1 - min(n, 8) / 8) ** 2),
    "LambdaLR": (lambda o: schedule.LambdaLR(o, lambda n: 1 / (1 + n)), lambda n: 0.1 / (1 + n)),
    "MultiplicativeLR": (lambda o: schedule.MultiplicativeLR(o, lambda n: 0.5), lambda n: 0.1 * 0.5**n),
    "CosineAnnealingLR": (lambda o: schedule.CosineAnnealingLR(o, 5, 0.01), lambda n: 0.01 + 0.09 * cos(n, 5)),
    "CosineAnnealingWarmRestarts": (
        lambda o: schedule.CosineAnnealingWarmRestarts(o, 3, 2),
        lambda n: 0.1 * (cos(n, 3) if n < 3 else cos(n - 3, 6) if n < 9 else cos(n - 9, 12)),
    ),
    "CyclicLR": (lambda o: schedule.CyclicLR(o, 0.1, 0.5, 4), lambda n: 0.1 + 0.4 * (1 - abs(n % 8 / 4 - 1))),
    "OneCycleLR": (
        lambda o: schedule.OneCycleLR(o, 1.0, 11, pct_start=0.6 / 1.1, anneal_strategy="linear", div_factor=10, final_div_factor=10),
        lambda n: 0.1 + 0.9 * n / 5 if n <= 5 else 1 - 0.99 * (n - 5) / 5,
    ),
    "ChainedScheduler": (
        lambda o: schedule.ChainedScheduler([schedule.ConstantLR(o, 0.5, 4), schedule.ExponentialLR(o, 0.9)]),
        lambda n: 0.1 * 0.9**n * (0.5 if n < 4 else 1),
    ),
    "SequentialLR": (
        lambda o: schedule.SequentialLR(o, [schedule.ConstantLR(o, 0.5, 9), schedule.ExponentialLR(o, 0.9)], [4]),
        lambda n: 0.1 * (0.5 if n < 4 else 0.9 ** (n - 4)),
    ),
    "ReduceLROnPlateau": (None, None),  # depends on a metric: below
}  # fmt: skip


def test_every_scheduler_has_a_row():
    assert set(CLOSED) | {"LRScheduler"} == set(schedule.__all__) and schedule._LRScheduler is schedule.LRScheduler


def test_schedulers_bear_torchs_path():
    assert {getattr(schedule, name).__module__ for name in schedule.__all__} == {"core.optim.lr_scheduler"}


@pytest.mark.parametrize("name", [n for n in CLOSED if CLOSED[n][0]])
def test_closed_forms(name):
    make, expected = CLOSED[name]
    steps = 11 if name == "OneCycleLR" else 12
    np.testing.assert_allclose(rates(make, steps), [expected(n) for n in range(steps)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in CLOSED if CLOSED[n][0]])
def test_schedulers_resume(name):
    make, whole = CLOSED[name][0], rates(CLOSED[name][0], 10)
    p = nn.Parameter(core.ones(1))
    optimizer = optim.SGD([p], lr=0.1, momentum=0.9)
    scheduler = make(optimizer)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    states = through_a_file((optimizer.state_dict(), scheduler.state_dict()))
    optimizer = optim.SGD([p], lr=0.1, momentum=0.9)
    scheduler = make(optimizer)
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    found = []
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        found.append(scheduler.get_last_lr()[0])
    np.testing.assert_allclose(found, whole[5:], rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in CLOSED if CLOSED[n][0]])
def test_schedulers_write_to_a_tensor(name):
    lr = core.tensor(0.1)
    found = rates(CLOSED[name][0], 6, lr)
    assert all(x is lr for x in found)
    assert abs(float(lr) - CLOSED[name][1](5)) < 1e-7


def test_cycles_move_momentum_the_other_way():
    for name in ("SGD", "Adam"):
        optimizer = getattr(optim, name)([core.ones(1)], lr=0.1, **({"momentum": 0.9} if name == "SGD" else {}))
        scheduler = schedule.CyclicLR(optimizer, 0.1, 0.5, 4, base_momentum=0.8, max_momentum=0.9)
        found = []
        for _ in range(4):
            optimizer.step()
            scheduler.step()
            group = optimizer.param_groups[0]
            found.append(group["momentum"] if name == "SGD" else group["betas"][0])
        np.testing.assert_allclose(found, [0.875, 0.85, 0.825, 0.8])


def test_plateau():
    optimizer = optim.SGD([core.ones(1)], lr=1.0)
    scheduler = schedule.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, cooldown=1, min_lr=0.2)
    found = []
    for metric in [3, 2, core.tensor(2.0), 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]:
        scheduler.step(metric)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2]
    other = schedule.ReduceLROnPlateau(optimizer)
    other.load_state_dict(scheduler.state_dict())
    assert other.state_dict() == scheduler.state_dict()


def test_wrong_order_warns():
    scheduler = schedule.ExponentialLR(optim.SGD([core.ones(1)]), 0.9)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_a_function_object_is_part_of_the_state():
    class Warmup:
        def __init__(self, n):
            self.n = n

        def __call__(self, step):
            return min(1, step / self.n)

    make = lambda n: schedule.LambdaLR(optim.SGD([core.ones(1)]), Warmup(n))
    a, b = make(5), make(9)
    b.load_state_dict(a.state_dict())
    assert b.lr_lambdas[0].n == 5


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda o: schedule.StepLR(3, 1), DTypeError),
        (lambda o: schedule.StepLR(o, 1, last_epoch=4), StateDictError),
        (lambda o: schedule.ConstantLR(o, 2), ArgumentError),
        (lambda o: schedule.LinearLR(o, 0), ArgumentError),
        (lambda o: schedule.LinearLR(o, 1, 2), ArgumentError),
        (lambda o: schedule.LambdaLR(o, [abs, abs]), ArgumentError),
        (lambda o: schedule.MultiplicativeLR(o, 3), DTypeError),
        (lambda o: schedule.CosineAnnealingWarmRestarts(o, 0), ArgumentError),
        (lambda o: schedule.CyclicLR(o, 0.1, 0.2, mode="x"), ArgumentError),
        (lambda o: schedule.CyclicLR(o, 0.1, [0.2, 0.3]), ArgumentError),
        (lambda o: schedule.CyclicLR(optim.Adagrad([core.ones(1)]), 0.1, 0.2), ArgumentError),
        (lambda o: schedule.OneCycleLR(o, 0.1), ArgumentError),
        (lambda o: schedule.OneCycleLR(o, 0.1, 0), ArgumentError),
        (lambda o: schedule.OneCycleLR(o, 0.1, 9, pct_start=2.0), ArgumentError),
        (lambda o: schedule.OneCycleLR(o, 0.1, 9, anneal_strategy="x"), ArgumentError),
        (lambda o: schedule.ReduceLROnPlateau(o, factor=1), ArgumentError),
        (lambda o: schedule.ReduceLROnPlateau(o, "x"), ArgumentError),
        (lambda o: schedule.ChainedScheduler([]), ArgumentError),
        (lambda o: schedule.ChainedScheduler([schedule.ReduceLROnPlateau(o)]), ArgumentError),
        (lambda o: schedule.SequentialLR(o, [schedule.StepLR(o, 1)], [1]), ArgumentError),
        (lambda o: schedule.ChainedScheduler([schedule.StepLR(o, 1), schedule.StepLR(optim.SGD([core.ones(1)]), 1)]), ArgumentError),
        (lambda o: optim.swa_utils.SWALR(o, 0.1, -1), ArgumentError),
        (lambda o: optim.swa_utils.get_ema_avg_fn(2), ArgumentError),
        (lambda o: optim.swa_utils.AveragedModel(nn.Linear(1, 1), avg_fn=max, multi_avg_fn=max), ArgumentError),
    ],
)  # fmt: skip
def test_scheduler_mistakes(make, error):
    with pytest.raises(error):
        make(optim.SGD([core.ones(1)], momentum=0.9))


def test_one_cycle_ends():
    optimizer = optim.SGD([core.ones(1)], momentum=0.9)
    scheduler = schedule.OneCycleLR(optimizer, 0.1, 3)
    optimizer.step()
    for _ in range(3):
        scheduler.step()
    with pytest.raises(ArgumentError, match="Tried to step 4 times"):
        scheduler.step()


# -- averages ----------------------------------------------------------------------------------------------------------------


def test_averaged_models():
    model = nn.Linear(2, 1)
    swa = optim.swa_utils.AveragedModel(model)
    ema = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for value in (1.0, 2.0, 6.0):
        with core.no_grad():
            model.weight.fill_(value)
        swa.update_parameters(model)
        ema.update_parameters(model)
    assert swa.module.weight.tolist() == [[3.0, 3.0]] and ema.module.weight.tolist() == [[3.75, 3.75]]
    assert int(swa.n_averaged) == 3 and swa(core.ones(1, 2)).shape == (1, 1)


def test_update_bn():
    class Mean(nn.Module):
        """As much of a batch normalisation as is asked for."""

        momentum = 0.1

        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", core.full((2,), 9.0))
            self.n = 0

        def reset_running_stats(self):
            self.running_mean.zero_()
            self.n = 0

        def forward(self, x):
            assert self.training and self.momentum is None
            self.n += 1
            self.running_mean.add_((x.mean(0) - self.running_mean) / self.n)
            return x

    model = nn.Sequential(Mean()).eval()
    optim.swa_utils.update_bn([(core.full((3, 2), float(i)), None) for i in range(5)], model)
    assert model[0].running_mean.tolist() == [2.0, 2.0] and model[0].momentum == 0.1 and not model.training
    optim.swa_utils.update_bn([], nn.Linear(1, 1))
