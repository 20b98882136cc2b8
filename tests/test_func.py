"""torch.func: gradients, Jacobians and batches of functions, by closed forms; against PyTorch where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import core
from core import func, nn
from core.errors import ArgumentError, CoreError, DTypeError, ShapeError

X = np.random.default_rng(0).standard_normal((4, 3))
W = np.random.default_rng(1).standard_normal((3, 2))


def close(y: Any, e: Any) -> None:
    np.testing.assert_allclose(y.detach().numpy(), e, rtol=1e-10, atol=1e-12)
    assert tuple(y.shape) == np.shape(e)


# -- gradients -------------------------------------------------------------------------------------------------------------


def test_grad_and_its_grad() -> None:
    x = core.tensor(2.0)
    assert func.grad(lambda x: x**3)(x).item() == 12 and not x.requires_grad
    assert func.grad(func.grad(lambda x: x**3))(x).item() == 12
    assert func.grad(func.grad(func.grad(lambda x: x**3)))(x).item() == 6
    g, v = func.grad_and_value(lambda x: x**2)(x)
    assert (g.item(), v.item()) == (4, 4) and not g.requires_grad and not v.requires_grad


def test_an_inner_gradient_sees_the_outer_argument_that_it_closes_over() -> None:
    # d/dw of d/dx (w² x³) = 2w·3x²
    w, x = core.tensor(5.0), core.tensor(2.0)
    assert func.grad(lambda w: func.grad(lambda x: w**2 * x**3)(x))(w).item() == 120


def test_a_parameter_that_is_closed_over_gets_its_gradient() -> None:
    w = core.tensor(3.0, requires_grad=True)
    y = func.grad(lambda x: w * x**2)(core.tensor(5.0))
    y.backward()
    assert (y.item(), w.grad.item()) == (30, 10)


def test_grad_takes_trees_aux_and_several_arguments() -> None:
    def f(p: dict[str, Any], x: Any, k: float) -> Any:
        y = (p["w"] * x).sum() * k
        return y, {"y": y * 2}

    p = {"w": core.tensor([1.0, 2.0]), "unused": core.ones(2)}
    (gp, gx), aux = func.grad(f, argnums=(0, 1), has_aux=True)(p, core.tensor([3.0, 4.0]), 2.0)
    assert gp["w"].tolist() == [6, 8] and gp["unused"].tolist() == [0, 0] and gx.tolist() == [2, 4]
    assert aux["y"].item() == 44 and not aux["y"].requires_grad
    with pytest.raises(ArgumentError, match="single element"):
        func.grad(lambda x: x)(core.ones(3))


def test_products_with_the_jacobian() -> None:
    x, v, u = core.tensor(X[0]), core.tensor(X[1]), core.tensor(W[:2, 0])
    a = core.tensor(X[:2])
    f = lambda x: core.sin(a @ x)
    jacobian = np.cos(X[:2] @ X[0])[:, None] * X[:2]
    y, push = func.jvp(f, (x,), (v,))
    close(y, np.sin(X[:2] @ X[0]))
    close(push, jacobian @ X[1])
    y, pull = func.vjp(f, x)
    close(pull(u)[0], W[:2, 0] @ jacobian)
    close(pull(u * 2)[0], 2 * W[:2, 0] @ jacobian)  # more than once
    y, push = func.linearize(f, x)
    close(push(v), jacobian @ X[1])
    for jac in (func.jacrev, func.jacfwd):
        close(jac(f)(x), jacobian)
    with pytest.raises(ShapeError, match="cotangents"):
        pull(core.ones(3).double())


def test_jacobians_of_trees() -> None:
    x = core.tensor(X[0])
    j = func.jacrev(lambda d: {"a": d["x"] ** 2, "b": (d["x"].sum(), d["y"])})({"x": x, "y": core.tensor(2.0)})
    close(j["a"]["x"], np.diag(2 * X[0]))
    close(j["a"]["y"], np.zeros(3))
    close(j["b"][0]["x"], np.ones(3))
    close(j["b"][1]["y"], 1.0)
    (jx, jy), aux = func.jacrev(lambda x, y: (x * y, "said"), argnums=(0, 1), has_aux=True)(
        x, core.tensor(2.0).double()
    )
    close(jx, 2 * np.eye(3))
    close(jy, X[0])
    assert aux == "said"


def test_hessian() -> None:
    x = core.tensor(X[0])
    close(func.hessian(lambda x: (x**3).sum())(x), np.diag(6 * X[0]))
    close(func.hessian(lambda x: x.prod())(x)[0, 1], X[0, 2])
    first = func.hessian(lambda x, y: (x * x).sum() * y, argnums=(0, 1))(x, core.tensor(3.0).double())
    close(first[0][0], 6 * np.eye(3))
    close(first[0][1], 2 * X[0])


# -- vmap --------------------------------------------------------------------------------------------------------------------


def test_vmap_over_dimensions() -> None:
    x, w = core.tensor(X), core.tensor(W)
    close(core.vmap(lambda r: r @ w)(x), X @ W)
    close(func.vmap(lambda c: c.sum(), in_dims=1)(x), X.sum(0))
    close(func.vmap(lambda r: r * 2, out_dims=1)(x), (X * 2).T)
    close(func.vmap(lambda r, w: r @ w, in_dims=(0, None))(x, w), X @ W)
    close(func.vmap(lambda r, w: r @ w, in_dims=(None, 1))(x, w), (X @ W).T)
    close(
        func.vmap(func.vmap(lambda a, b: a * b, in_dims=(None, 0)), in_dims=(0, None))(x[0], w[:, 0]),
        np.outer(X[0], W[:, 0]),
    )


def test_vmap_takes_trees() -> None:
    x = core.tensor(X)
    y = func.vmap(lambda d, k: {"s": d["a"].sum() + k[0], "t": (k[1], d["a"])}, in_dims=({"a": 0}, (None, 0)))(
        {"a": x}, (x[0, 0], x[:, 1])
    )
    close(y["s"], X.sum(1) + X[0, 0])
    close(y["t"][0], X[:, 1])
    close(y["t"][1], X)
    a, b = func.vmap(lambda r: (r, r), out_dims=(0, 1))(x)
    close(a, X)
    close(b, X.T)
    close(func.vmap(lambda r, scale: r * scale)(x, scale=core.tensor(X[:, 0])), X * X[:, :1])


def test_per_sample_gradients() -> None:
    core.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    params = {k: v.detach() for k, v in model.named_parameters()}
    x, t = core.tensor(X), core.tensor(X[:, 0])

    def loss(p: Any, x: Any, t: Any) -> Any:
        return ((func.functional_call(model, p, (x,)).squeeze() - t) ** 2).sum()

    each = func.vmap(func.grad(loss), in_dims=(None, 0, 0))(params, x, t)
    for i in range(len(X)):
        model.zero_grad()
        ((model(x[i]).squeeze() - t[i]) ** 2).backward()
        for k, p in model.named_parameters():
            close(each[k][i], p.grad.numpy())


def test_vmap_of_jacobians_and_gradients_through_vmap() -> None:
    x = core.tensor(X)
    close(func.vmap(func.jacrev(lambda r: r**2))(x), np.stack([np.diag(2 * r) for r in X]))
    close(func.vmap(func.hessian(lambda r: (r**3).sum()))(x), np.stack([np.diag(6 * r) for r in X]))
    close(func.grad(lambda x: func.vmap(lambda r: (r**2).sum())(x).sum())(x), 2 * X)
    w = core.tensor(W, requires_grad=True)
    func.vmap(lambda r: r @ w)(x).sum().backward()
    close(w.grad, np.broadcast_to(X.sum(0)[:, None], W.shape))


def test_an_ensemble() -> None:
    core.manual_seed(0)
    models = [nn.Linear(3, 2).double() for _ in range(3)]
    params, buffers = func.stack_module_state(models)
    assert (
        params["weight"].shape == (3, 2, 3)
        and params["weight"].is_leaf
        and params["weight"].requires_grad
        and buffers == {}
    )
    x = core.tensor(X)
    y = func.vmap(lambda p, x: func.functional_call(models[0], p, (x,)), in_dims=(0, None))(params, x)
    for k, m in enumerate(models):
        close(y[k], m(x).detach().numpy())
    with pytest.raises(ArgumentError, match="one class"):
        func.stack_module_state([nn.Linear(1, 1), nn.ReLU()])


def test_random_numbers_inside_of_vmap() -> None:
    x = core.zeros(50)
    with pytest.raises(CoreError, match="randomness"):
        func.vmap(lambda r: r + core.rand(()))(x)
    assert len(set(func.vmap(lambda r: r + core.rand(()), randomness="different")(x).tolist())) > 40
    assert len(set(func.vmap(lambda r: r + core.rand(()), randomness="same")(x).tolist())) == 1


def test_vmap_says_what_is_wrong() -> None:
    with pytest.raises(ShapeError, match="same size"):
        func.vmap(lambda a, b: a)(core.ones(2), core.ones(3))
    with pytest.raises(ShapeError, match="at least one"):
        func.vmap(lambda a: a, in_dims=None)(core.ones(2))
    with pytest.raises(DTypeError, match="returns tensors"):
        func.vmap(lambda a: 1.0)(core.ones(2))
    with pytest.raises(ArgumentError, match="each of the 2"):
        func.vmap(lambda a, b: a, in_dims=(0,))(core.ones(2), core.ones(2))
    with pytest.raises(ArgumentError, match="within the 1"):
        func.vmap(lambda a: a, in_dims=1)(core.ones(2))
    with pytest.raises(DTypeError, match="to map over"):
        func.vmap(lambda a: a)(3)


# -- against PyTorch -------------------------------------------------------------------------------------------------------

PROGRAMS = {
    "grad": lambda t, x, w: t.func.grad(lambda x: ((x @ w).tanh() ** 2).sum())(x),
    "grads": lambda t, x, w: t.func.grad(lambda x, w: ((x @ w).tanh() ** 2).sum(), argnums=(0, 1))(x, w),
    "vjp": lambda t, x, w: t.func.vjp(lambda x, w: (x @ w, (x**2).sum()), x, w)[1]((x @ w, x.sum())),
    "jvp": lambda t, x, w: t.func.jvp(lambda x, w: ((x @ w).sin(), x.exp()), (x, w), (x * 2, w * 3)),
    "jacrev": lambda t, x, w: t.func.jacrev(lambda x, w: (x @ w).exp(), argnums=(0, 1))(x, w),
    "jacfwd": lambda t, x, w: t.func.jacfwd(lambda x: (x @ w).exp())(x),
    "hessian": lambda t, x, w: t.func.hessian(lambda w: ((x @ w) ** 3).sum())(w),
    "per sample": lambda t, x, w: t.vmap(t.func.grad(lambda w, r: ((r @ w) ** 2).sum()), in_dims=(None, 0))(w, x),
    "vmap of jacrev": lambda t, x, w: t.vmap(t.func.jacrev(lambda r: (r @ w).tanh()))(x),
    "vmap, out_dims": lambda t, x, w: t.vmap(lambda r, c: (r * c, r.sum()), in_dims=(0, None), out_dims=(1, 0))(
        x, w[:, 0]
    ),
    "vmap, twice": lambda t, x, w: t.vmap(t.vmap(lambda a, b: a @ b, in_dims=(None, 1)), in_dims=(0, None))(x, w),
    "jvp of grad": lambda t, x, w: t.func.jvp(t.func.grad(lambda x: ((x @ w) ** 3).sum()), (x,), (x.cos(),)),
    "hvp": lambda t, x, w: t.func.vjp(t.func.grad(lambda x: (x.exp() @ w).sum()), x)[1](x)[0],
}


@pytest.mark.filterwarnings("ignore")  # torch's own
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_give_what_torch_gives(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (_flat(PROGRAMS[name](t, t.tensor(X), t.tensor(W))) for t in (core, torch))
    assert len(ours) == len(theirs)
    for y, e in zip(ours, theirs):
        close(y, e.numpy())


def _flat(x: Any) -> list[Any]:
    return [t for v in x for t in _flat(v)] if isinstance(x, (tuple, list)) else [x]
