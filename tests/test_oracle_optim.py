"""Optimizers and schedulers against PyTorch's: the same gradients, the same parameters, rates and states after each
step."""

import io

import numpy as np
import pytest

import core

torch = pytest.importorskip("torch")

OPTIONS = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.1}, {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.5, "weight_decay": 0.1}],
    "Rprop": [{}, {"etas": (0.3, 1.4), "step_sizes": (1e-3, 0.02)}],
    "ASGD": [{}, {"lambd": 0.1, "alpha": 0.5, "t0": 4}, {"weight_decay": 0.1}],
    "Adagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.3}, {"weight_decay": 0.1, "eps": 1e-3}],
    "RMSprop": [{}, {"momentum": 0.9}, {"centered": True}, {"centered": True, "momentum": 0.9, "weight_decay": 0.1, "alpha": 0.8}],
    "Adadelta": [{}, {"rho": 0.5, "eps": 1e-3}, {"weight_decay": 0.1}],
    "Adam": [{}, {"amsgrad": True}, {"weight_decay": 0.1, "betas": (0.5, 0.7), "eps": 1e-3},
        {"weight_decay": 0.1, "decoupled_weight_decay": True}],
    "AdamW": [{}, {"amsgrad": True}, {"weight_decay": 0.3}],
    "Adamax": [{}, {"weight_decay": 0.1, "betas": (0.5, 0.7), "eps": 1e-3}],
    "NAdam": [{}, {"momentum_decay": 0.1}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}],
    "RAdam": [{}, {"betas": (0.5, 0.7)}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}],
    "Adafactor": [{}, {"eps": (1e-6, 1e-2), "d": 2.0, "beta2_decay": -0.5}, {"weight_decay": 0.1}],
    "Muon": [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.3}],
    "LBFGS": [{}, {"history_size": 2, "max_iter": 7}, {"line_search_fn": "strong_wolfe"},
        {"line_search_fn": "strong_wolfe", "max_eval": 3}],
}  # fmt: skip
NO_MAXIMIZE = ("Muon", "LBFGS")
CASES = [
    (name, {**options, **extra})
    for name, rows in OPTIONS.items()
    for options in rows
    for extra in ([{}] if name in NO_MAXIMIZE else [{}, {"maximize": True}])
] + [(name, {"lr": lr}) for name in OPTIONS for lr in (0.05,)]


def test_every_optimizer_of_torch_has_rows():
    theirs = {n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type)} - {"Optimizer", "SparseAdam"}  # the last below
    assert theirs == set(OPTIONS) and theirs <= set(core.optim.__all__)


def shapes(name):
    return [(4, 3), (2, 5)] if name == "Muon" else [(4, 3), (5,), ()]


def problem(lib, name, dtype, options):
    r = np.random.default_rng(0)
    params = [lib.nn.Parameter(lib.tensor(r.standard_normal(s), dtype=getattr(lib, dtype))) for s in shapes(name)]
    return params, getattr(lib.optim, name)(params, **options)


def gradients(name, steps):
    r = np.random.default_rng(1)
    return [[r.standard_normal(s) for s in shapes(name)] for _ in range(steps)]


def run(lib, params, optimizer, name, steps):
    for gs in gradients(name, steps):
        if name == "LBFGS":
            optimizer.step(lambda: loss_of(lib, params, optimizer))
            continue
        for p, g in zip(params, gs):
            p.grad = lib.tensor(g, dtype=p.dtype)
        optimizer.step()


def loss_of(lib, params, optimizer):
    """Something smooth with a minimum and no closed form."""
    optimizer.zero_grad()
    loss = sum(((p * p * (1 + i) - p + 1) ** 2).sum() + (p * p).sum().exp() * 0.01 for i, p in enumerate(params))
    loss.backward()
    return loss


def close(params, others, dtype, name, rtol=None, lr=1e-3):
    rtol = rtol or {"float64": 1e-10, "float32": 1e-5}[dtype]
    if name == "LBFGS" and dtype == "float32":
        rtol = 1e-3  # the iteration feeds rounding back
    for p, q in zip(params, others):
        a, b = p.detach().numpy(), q.detach().numpy()
        if name == "Muon":  # PyTorch's iteration rounds to bfloat16
            np.testing.assert_allclose(a, b, atol=0.2 * lr)
        else:
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
        assert a.dtype == b.dtype and a.shape == b.shape


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_ten_steps(name, options, dtype):
    steps = 3 if name == "LBFGS" else 10
    mine, theirs = (problem(lib, name, dtype, options) for lib in (core, torch))
    run(core, *mine, name, steps)
    run(torch, *theirs, name, steps)
    close(mine[0], theirs[0], dtype, name, lr=options.get("lr", 1e-3))
    a, b = mine[1].state_dict(), theirs[1].state_dict()
    assert {k: set(s) for k, s in a["state"].items()} == {k: set(s) for k, s in b["state"].items()}
    assert [set(g) for g in a["param_groups"]] == [set(g) for g in b["param_groups"]]


@pytest.mark.parametrize("name", OPTIONS)
def test_lr_as_a_tensor(name):
    mine, theirs = (problem(lib, name, "float64", {"lr": lib.tensor(0.03)}) for lib in (core, torch))
    run(core, *mine, name, 2)
    run(torch, *theirs, name, 2)
    close(mine[0], theirs[0], "float64", name, 1e-6, 0.03)  # PyTorch goes on with lr in float32


@pytest.mark.parametrize("source, target", [(core, torch), (torch, core)])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_state_crosses(name, source, target):
    """Three steps here, saved, three there: as six in one library."""
    options = OPTIONS[name][-1]
    p, optimizer = problem(source, name, "float64", options)
    run(source, p, optimizer, name, 3)
    file = io.BytesIO()
    source.save({"p": [x.detach() for x in p], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = target.load(file, weights_only=True)
    q, other = problem(target, name, "float64", options)
    for x, value in zip(q, loaded["p"]):
        x.data = value
    other.load_state_dict(loaded["optimizer"])
    run(target, q, other, name, 3)
    run(source, p, optimizer, name, 3)
    close(p, q, "float64", name)


# -- schedulers ----------------------------------------------------------------------------------------------------------

SCHEDULERS = {
    "ConstantLR": [{}, {"factor": 0.5, "total_iters": 7}],
    "ExponentialLR": [{"gamma": 0.9}],
    "StepLR": [{"step_size": 4}, {"step_size": 1, "gamma": 0.7}],
    "MultiStepLR": [{"milestones": [3, 8, 8, 20]}],
    "LinearLR": [{}, {"start_factor": 0.2, "end_factor": 0.7, "total_iters": 12}],
    "PolynomialLR": [{}, {"total_iters": 11, "power": 2.5}],
    "LambdaLR": [{"lr_lambda": lambda n: 0.95**n}, {"lr_lambda": [lambda n: 1 / (1 + n), lambda n: n * 0.1]}],
    "MultiplicativeLR": [{"lr_lambda": lambda n: 0.95}],
    "CosineAnnealingLR": [{"T_max": 9}, {"T_max": 5, "eta_min": 0.01}],
    "CosineAnnealingWarmRestarts": [{"T_0": 4}, {"T_0": 3, "T_mult": 2, "eta_min": 0.01}],
    "CyclicLR": [
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4},
        {"base_lr": [0.01, 0.02], "max_lr": 0.1, "step_size_up": 3, "step_size_down": 5, "mode": "triangular2"},
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "mode": "exp_range", "gamma": 0.9, "cycle_momentum": False},
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "scale_fn": lambda x: 1 / (1 + x), "scale_mode": "iterations"},
    ],
    "OneCycleLR": [
        {"max_lr": 0.1, "total_steps": 31},
        {"max_lr": [0.1, 0.3], "epochs": 8, "steps_per_epoch": 4, "anneal_strategy": "linear", "three_phase": True, "pct_start": 0.2},
    ],
}  # fmt: skip


def pair(optimizer="SGD", **options):
    made = []
    for lib in (core, torch):
        groups = [{"params": [lib.nn.Parameter(lib.ones(2))]}, {"params": [lib.nn.Parameter(lib.ones(3))], "lr": 0.07}]
        made.append(getattr(lib.optim, optimizer)(groups, lr=0.1, **options))
    return made


def track(optimizer, scheduler, steps, metric=None):
    rows = []
    for n in range(steps):
        optimizer.step()
        scheduler.step(*([] if metric is None else [metric(n)]))
        moving = [g.get("momentum", (g.get("betas") or [0])[0]) for g in optimizer.param_groups]
        rows.append([*map(float, scheduler.get_last_lr()), *(float(g["lr"]) for g in optimizer.param_groups), *moving])
    return rows


def equal(make, optimizer="SGD", steps=30, metric=None, **options):
    rows = []
    for lib, opt in zip((core, torch), pair(optimizer, **options)):
        rows.append(track(opt, make(lib.optim, opt), steps, metric))
    np.testing.assert_allclose(*rows, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("name, options", [(n, o) for n, rows in SCHEDULERS.items() for o in rows])
def test_schedulers(name, options, optimizer):
    extra = {"momentum": 0.9} if optimizer == "SGD" else {}
    equal(lambda o, opt: getattr(o.lr_scheduler, name)(opt, **options), optimizer, **extra)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patience": 2, "cooldown": 2},
        {"mode": "max", "threshold_mode": "abs", "patience": 1},
        {"patience": 0, "min_lr": [0.01, 0.05], "threshold": 0.1},
    ],
)
def test_plateau(options):
    equal(lambda o, opt: o.lr_scheduler.ReduceLROnPlateau(opt, **options), metric=lambda n: np.sin(n) + 1 / (1 + n))


@pytest.mark.filterwarnings("ignore:Detected call:UserWarning")  # PyTorch, too, steps what is nested twice
def test_schedulers_of_schedulers():
    def chained(o, opt):
        s = o.lr_scheduler
        return s.ChainedScheduler([s.ConstantLR(opt, 0.5, 4), s.ExponentialLR(opt, 0.9), s.StepLR(opt, 5)])

    def sequential(o, opt):
        s = o.lr_scheduler
        return s.SequentialLR(
            opt, [s.LinearLR(opt, 0.1, total_iters=5), s.CosineAnnealingLR(opt, 10), s.ExponentialLR(opt, 0.9)], [5, 17]
        )

    def nested(o, opt):
        s = o.lr_scheduler
        return s.SequentialLR(
            opt, [s.ChainedScheduler([s.ConstantLR(opt), s.ExponentialLR(opt, 0.9)]), s.StepLR(opt, 3)], [8]
        )

    equal(chained)
    equal(sequential)
    equal(nested)


@pytest.mark.parametrize("options", [{}, {"anneal_epochs": 5, "anneal_strategy": "linear"}, {"anneal_epochs": 0}])
def test_swalr(options):
    equal(lambda o, opt: o.swa_utils.SWALR(opt, 0.01, **options))


def test_every_scheduler_of_torch_is_there():
    assert set(torch.optim.lr_scheduler.__all__) == set(core.optim.lr_scheduler.__all__)
    assert set(torch.optim.swa_utils.__all__) == set(core.optim.swa_utils.__all__)


@pytest.mark.filterwarnings("ignore:.*epoch parameter:UserWarning", "ignore:.*deprecated:UserWarning")
@pytest.mark.parametrize("name, options", [(n, rows[-1]) for n, rows in SCHEDULERS.items()])
def test_steps_to_an_epoch(name, options):
    rates = []
    for lib, opt in zip((core, torch), pair(momentum=0.9)):
        scheduler = getattr(lib.optim.lr_scheduler, name)(opt, **options)
        row = []
        for epoch in (3, 7, 2, 25):
            opt.step()
            scheduler.step(epoch)
            row += scheduler.get_last_lr()
        rates.append(row)
    np.testing.assert_allclose(*rates, rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["get_swa_multi_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_ema_avg_fn", None]
)
@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_models(name, use_buffers):
    found = []
    for lib in (core, torch):
        model = lib.nn.Linear(2, 3)
        model.register_buffer("b", lib.zeros(2))
        made = (
            {}
            if name is None
            else {"multi_avg_fn" if "multi" in name else "avg_fn": getattr(lib.optim.swa_utils, name)()}
        )
        averaged = lib.optim.swa_utils.AveragedModel(model, use_buffers=use_buffers, **made)
        for n in range(4):
            with lib.no_grad():
                for p in (*model.parameters(), *model.buffers()):
                    p.fill_(n * n + 1.0)
            averaged.update_parameters(model)
        found.append({k: v.tolist() for k, v in averaged.state_dict().items()})
    assert list(found[0]) == list(found[1])
    for k in found[0]:
        np.testing.assert_allclose(found[0][k], found[1][k], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"maximize": True}, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 1e-3}])
def test_sparse_adam_moves_the_rows_that_are_used(options):
    """Through an embedding, whose gradient is sparse there and dense here."""
    start = np.random.default_rng(0).standard_normal((6, 3))
    found = []
    for lib in (core, torch):
        table = lib.nn.Embedding(6, 3, sparse=True).double()
        with lib.no_grad():
            table.weight.copy_(lib.tensor(start))
        optimizer = lib.optim.SparseAdam(table.parameters(), **options)
        for used in ([0, 2, 2], [1, 2], [5, 0]):
            optimizer.zero_grad()
            (table(lib.tensor(used)) ** 2).sum().backward()
            optimizer.step()
        found.append(table.weight.detach().numpy())
    np.testing.assert_allclose(*found, rtol=1e-12)
    np.testing.assert_array_equal(found[0][[3, 4]], start[[3, 4]])
