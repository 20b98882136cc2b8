"""What a Module does besides computing: names, hooks, state, containers, initial values, utilities."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import core
from core import nn
from core.autograd import gradcheck
from core.nn.modules import module as module_file
from core.nn.utils import parametrizations, parametrize, prune, stateless


class Doubled(nn.Module):
    """A parametrization that can be undone."""

    def forward(self, x: Any) -> Any:
        return x * 2

    def right_inverse(self, x: Any) -> Any:
        return x / 2


def net() -> nn.Sequential:
    return nn.Sequential(OrderedDict(first=nn.Linear(3, 4), act=nn.Tanh(), last=nn.Linear(4, 2)))


# -- hooks
# ---------------------------------------------------------------------------------------------------------------


def test_hooks_see_and_replace() -> None:
    layer = nn.Linear(2, 2)
    x = core.ones(1, 2)
    plain = layer(x)
    seen: list[Any] = []
    with layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,)), layer.register_forward_hook(lambda m, args,
            y: seen.append(args) or y + 1):
        np.testing.assert_allclose(layer(x).detach().numpy(), (layer.forward(x * 2) + 1).detach().numpy())
    assert seen[0][0].tolist() == [[2.0, 2.0]]
    np.testing.assert_array_equal(layer(x).detach().numpy(), plain.detach().numpy())


def test_hooks_with_keywords_and_after_errors() -> None:
    class Named(nn.Module):
        def forward(self, x: Any, *, times: float = 1.0) -> Any:
            if times == 0:
                raise ValueError("nothing left")
            return x * times

    m, calls = Named(), []
    m.register_forward_pre_hook(lambda m, args, kwargs: (args, {"times": kwargs["times"] + 1}), with_kwargs=True)
    m.register_forward_hook(lambda m, args, y: calls.append(y), always_call=True)
    assert m(core.ones(1), times=2.0).tolist() == [3.0]
    with pytest.raises(ValueError, match="nothing left"):
        m(core.ones(1), times=-1.0)
    assert calls[0].tolist() == [3.0] and calls[1] is None


def test_backward_hooks() -> None:
    layer = nn.Linear(2, 1)
    grads: list[Any] = []
    layer.register_full_backward_hook(lambda m, gi, go: grads.append((gi[0].tolist(), go[0].tolist())))
    layer.register_full_backward_pre_hook(lambda m, go: (go[0] * 3,))
    layer(core.ones(1, 2, requires_grad=True)).sum().backward()
    assert grads[0][1] == [[3.0]]
    np.testing.assert_allclose(grads[0][0], 3 * layer.weight.detach().numpy())


def test_hooks_on_all_modules() -> None:
    seen: list[str] = []
    handles = [
        module_file.register_module_forward_pre_hook(lambda m, args: seen.append("before " + type(m).__name__)),
        module_file.register_module_forward_hook(lambda m, args, y: seen.append("after " + type(m).__name__)),
        module_file.register_module_parameter_registration_hook(lambda m, name, p: seen.append(f"parameter {name}")),
        module_file.register_module_module_registration_hook(lambda m, name, c: seen.append(f"module {name}")),
        module_file.register_module_buffer_registration_hook(lambda m, name, b: seen.append(f"buffer {name}")),
        module_file.register_module_full_backward_hook(lambda m, gi, go: seen.append("backward")),
    ]
    try:
        model = nn.Sequential(nn.Linear(1, 1, bias=False))
        model.register_buffer("count", core.zeros(1))
        model(core.ones(1, 1)).sum().backward()
    finally:
        for h in handles:
            h.remove()
    assert seen[:3] == ["parameter weight", "module 0", "buffer count"]
    assert seen[3:7] == ["before Sequential", "before Linear", "after Linear", "after Sequential"]
    assert seen[7:] == ["backward", "backward"]
    model(core.ones(1, 1))
    assert len(seen) == 9


# -- state
# ---------------------------------------------------------------------------------------------------------------


def test_state_hooks_and_extra_state() -> None:
    class Counting(nn.Module):
        count = 3

        def get_extra_state(self) -> Any:
            return {"count": self.count}

        def set_extra_state(self, state: Any) -> None:
            self.count = state["count"]

    m = nn.Sequential(Counting(), nn.Linear(1, 1))
    order: list[str] = []
    m.register_state_dict_pre_hook(lambda *_: order.append("pre"))
    m.register_state_dict_post_hook(lambda *_: order.append("post"))
    m.register_load_state_dict_pre_hook(lambda *_: order.append("load"))
    m.register_load_state_dict_post_hook(lambda module, keys: order.append("loaded"))
    state = m.state_dict()
    assert list(state) == ["0._extra_state", "1.weight", "1.bias"]
    m[0].count = 5
    m.load_state_dict(state)
    assert m[0].count == 3
    assert order == ["pre", "post", "load", "loaded"]


def test_batch_norms_saved_before_batches_were_counted() -> None:
    m = nn.Sequential(nn.BatchNorm1d(2))
    state = {key: v for key, v in m.state_dict().items() if "num_batches" not in key}
    assert not m.load_state_dict(state).missing_keys


@pytest.mark.parametrize("make", [net, lambda: nn.LSTM(2, 3), lambda: nn.MultiheadAttention(4, 2),
lambda: nn.BatchNorm1d(3)])
def test_pickle_and_deepcopy(make: Any) -> None:
    m = make()
    for twin in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert repr(twin) == repr(m) and twin is not m
        for (key, p), (other, q) in zip(m.state_dict().items(), twin.state_dict().items()):
            assert key == other
            np.testing.assert_array_equal(p.numpy(), q.numpy())
        assert all(p.requires_grad for p in twin.parameters())


def test_lazy_state_decides_the_sizes() -> None:
    lazy, ready = nn.LazyLinear(3), nn.Linear(5, 3)
    assert repr(lazy.weight) == "<UninitializedParameter>"
    with pytest.raises(RuntimeError, match="seen an input"):
        _ = lazy.weight.shape
    lazy.load_state_dict(ready.state_dict())
    x = core.ones(2, 5)
    np.testing.assert_array_equal(lazy(x).detach().numpy(), ready(x).detach().numpy())


# -- names and moves
# -----------------------------------------------------------------------------------------------------


def test_names() -> None:
    m = net()
    assert [name for name, _ in m.named_parameters()] == ["first.weight", "first.bias", "last.weight", "last.bias"]
    m.last.weight = m.first.weight  # shared: once, unless asked
    assert [name for name, _ in m.named_parameters()] == ["first.weight", "first.bias", "last.bias"]
    assert len(list(m.named_parameters(remove_duplicate=False))) == 4
    m.set_submodule("act", nn.ReLU())
    assert isinstance(m.get_submodule("act"), nn.ReLU)
    with pytest.raises(AttributeError):
        m.set_submodule("first.other.act", nn.ReLU())
    m.register_module("extra", nn.Identity())
    assert list(m._modules) == ["first", "act", "last", "extra"]


def test_moves() -> None:
    m = nn.BatchNorm1d(2)
    assert m.double() is m and m.weight.dtype == core.float64 and m.num_batches_tracked.dtype == core.int64
    empty = m.to_empty(device="cpu")
    assert empty is m and m.weight.shape == (2,)
    assert m.compile() is m
    with pytest.raises(ValueError, match="boolean"):
        m.train("yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected"):
        nn.Module(bias=True)


# -- containers
# ----------------------------------------------------------------------------------------------------------


def test_sequential_arithmetic() -> None:
    a, b = nn.Sequential(nn.Linear(1, 1)), nn.Sequential(nn.ReLU(), nn.Tanh())
    assert len(a + b) == 3 and len(b * 2) == 4 and len(2 * b) == 4
    b *= 2
    assert len(b) == 4
    a += b
    assert len(a) == 5
    assert isinstance(a.pop(0), nn.Linear)
    a.insert(0, nn.Sigmoid())
    assert [type(m).__name__ for m in a[:2]] == ["Sigmoid", "ReLU"]
    with pytest.raises(TypeError):
        a["first"]
    with pytest.raises(ValueError):
        a + 3  # type: ignore[operator]


# layers, their input, and the graph's last op where `Sequential` computes neighbours as one, or in another order
NEIGHBOURS = {
    "linear relu": (lambda: [nn.Linear(5, 7), nn.ReLU()], (4, 5), "LinearRelu"),
    "linear relu of rows of rows": (lambda: [nn.Linear(5, 7), nn.ReLU(inplace=True)], (2, 3, 5), "LinearRelu"),
    "large linear relu": (lambda: [nn.Linear(256, 512), nn.ReLU()], (64, 256), "LinearRelu"),
    "a row": (lambda: [nn.Linear(5, 7), nn.ReLU()], (5,), "Relu"),
    "no bias": (lambda: [nn.Linear(5, 7, bias=False), nn.ReLU()], (4, 5), "Relu"),
    "linear gelu": (lambda: [nn.Linear(5, 7), nn.GELU()], (4, 5), "Gelu"),
    "conv relu": (lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()], (2, 3, 9, 9), "ConvRelu"),
    "conv relu pool": (lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)], (2, 3, 10, 10), "Relu"),
    "pools that overlap": (lambda: [nn.Conv1d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool1d(3, 2, 1)], (2, 3, 9), "Relu"),
    "norm relu pool": (lambda: [nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)], (2, 3, 6, 6), "Relu"),
    "norm relu": (lambda: [nn.BatchNorm2d(3), nn.ReLU()], (2, 3, 6, 6), "StandardizeRelu"),
    "rows norm relu": (lambda: [nn.BatchNorm1d(40), nn.ReLU(inplace=True)], (300, 40), "StandardizeRelu"),
    "conv norm relu": (lambda: [nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU()], (4, 3, 17, 17), "StandardizeRelu"),
    "bare norm relu": (lambda: [nn.BatchNorm1d(40, affine=False), nn.ReLU()], (30, 40), "StandardizeRelu"),
    "norm of each batch": (
        lambda: [nn.BatchNorm2d(3, track_running_stats=False).eval(), nn.ReLU()],
        (2, 3, 6, 6),
        "StandardizeRelu",
    ),
    "norm relu by running moments": (lambda: [nn.BatchNorm2d(3).eval(), nn.ReLU()], (2, 3, 6, 6), "Relu"),
    "norm gelu": (lambda: [nn.BatchNorm2d(3), nn.GELU()], (2, 3, 6, 6), "Gelu"),
    "relu pool": (lambda: [nn.ReLU(), nn.MaxPool2d(2)], (2, 3, 6, 6), "MaxPool"),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours_compute_what_they_compute_alone(name: str) -> None:
    """A hook, before which a layer is a layer, changes no bit of values and gradients."""
    make, shape, last = NEIGHBOURS[name]
    together = nn.Sequential(*make())
    apart = copy.deepcopy(together)
    for layer in apart:
        layer.register_forward_hook(lambda *_: None)
    found = []
    for model in (together, apart):
        core.manual_seed(1)
        x = core.randn(*shape, requires_grad=True)
        y = model(x)
        y.backward(core.randn(*y.shape))
        found.append([y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    assert found[0][0].grad_fn.name() == f"{last}Backward0"


def test_module_list_shows_runs() -> None:
    assert repr(nn.ModuleList([nn.ReLU(), nn.ReLU(),
        nn.Tanh()])) == "ModuleList(\n  (0-1): 2 x ReLU()\n  (2): Tanh()\n)"
    assert repr(nn.ModuleList()) == "ModuleList()"


def test_parameter_containers() -> None:
    ps = nn.ParameterList([core.zeros(2), nn.Parameter(core.ones(1)), "note"])
    assert len(ps) == 3 and len(list(ps.parameters())) == 2 and ps[-1] == "note"
    assert ps.pop(0).shape == (2,)
    ps += [core.zeros(3)]
    assert [type(p).__name__ for p in ps] == ["Parameter", "str", "Parameter"]
    d = nn.ParameterDict({"a": core.zeros(2), "n": 3})
    d["b"] = nn.Parameter(core.ones(1))
    assert list(d) == ["a", "n", "b"] and d.get("c") is None and d.setdefault("c", core.ones(1)).requires_grad
    assert d.pop("a").shape == (2,) and d.popitem()[0] == "c" and "a" not in d
    assert sorted((d | nn.ParameterDict({"z": core.zeros(1)})).keys()) == ["b", "n", "z"]
    d.clear()
    assert not len(d) and not list(d.parameters())


# -- wrappers and utilities
# ----------------------------------------------------------------------------------------------


def test_data_parallel_is_a_wrapper() -> None:
    m = nn.DataParallel(nn.Linear(2, 1))
    assert list(m.state_dict()) == ["module.weight", "module.bias"]
    assert m(core.ones(3, 2)).shape == (3, 1)
    with pytest.raises(ValueError, match="one device"):
        nn.DataParallel(nn.Linear(2, 1), device_ids=[0, 1])


def test_clip_grad_norm() -> None:
    p, q = nn.Parameter(core.zeros(2)), nn.Parameter(core.zeros(1))
    p.grad, q.grad = core.tensor([3.0, 0.0]), core.tensor([4.0])
    assert nn.utils.clip_grad_norm_([p, q], 1.0).item() == 5.0
    np.testing.assert_allclose([*p.grad.tolist(), *q.grad.tolist()], [0.6, 0.0, 0.8], rtol=1e-6)
    nn.utils.clip_grad_value_([p, q], 0.5)
    np.testing.assert_allclose([*p.grad.tolist(), *q.grad.tolist()], [0.5, 0.0, 0.5], rtol=1e-6)
    p.grad = core.tensor([float("inf"), 1.0])
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert nn.utils.get_total_norm([]).item() == 0.0


def test_parameters_as_a_vector() -> None:
    m = net()
    v = nn.utils.parameters_to_vector(m.parameters())
    assert v.shape == (26,) and v.requires_grad
    nn.utils.vector_to_parameters(v.detach() * 0 + 1, m.parameters())
    assert all(bool((p == 1).all()) for p in m.parameters())


def test_functional_call_differentiates_what_it_is_given() -> None:
    m = nn.Linear(2, 1)
    before = m.weight
    w = core.ones(1, 2, requires_grad=True)
    stateless.functional_call(m, {"weight": w}, core.ones(3, 2)).sum().backward()
    assert w.grad.tolist() == [[3.0, 3.0]] and m.weight is before and before.grad is None
    with pytest.raises(RuntimeError, match="missing"):
        stateless.functional_call(m, {"weight": w}, core.ones(3, 2), strict=True)


def test_parametrize() -> None:
    m = nn.Linear(2, 2)
    w = m.weight.detach().clone()
    parametrize.register_parametrization(m, "weight", Doubled())
    assert type(m).__name__ == "ParametrizedLinear" and parametrize.is_parametrized(m, "weight")
    assert list(m.state_dict()) == ["bias", "parametrizations.weight.original"]
    np.testing.assert_allclose(m.weight.detach().numpy(), w.numpy())
    m.weight = core.ones(2, 2)
    assert m.parametrizations.weight.original.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    with parametrize.cached():
        assert m.weight is m.weight
    assert m.weight is not m.weight
    twin = copy.deepcopy(m)
    assert twin.weight.tolist() == m.weight.tolist() and twin.parametrizations is not m.parametrizations
    parametrize.register_parametrization(m, "weight", Doubled())
    assert m.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]] and len(m.parametrizations.weight) == 2
    parametrize.remove_parametrizations(m, "weight")
    assert type(m) is nn.Linear and isinstance(m.weight, nn.Parameter) and m.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("make", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_reparametrised_gradients(make: Any) -> None:
    m = make(nn.Linear(3, 2, dtype=core.float64)).eval()
    leaves = list(m.parameters())
    x = core.ones(4, 3, dtype=core.float64)
    assert gradcheck(lambda *_: m(x), leaves)


def test_old_weight_norm_says_that_it_is_old() -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        m = nn.utils.weight_norm(nn.Linear(3, 2))
    w = m.weight.detach().numpy()
    assert sorted(m._parameters) == ["bias", "weight_g", "weight_v"]
    nn.utils.remove_weight_norm(m)
    np.testing.assert_allclose(m.weight.detach().numpy(), w, rtol=1e-6)


def test_prune() -> None:
    m = nn.Linear(4, 3)
    order = np.argsort(np.abs(m.weight.detach().numpy()).reshape(-1))
    prune.l1_unstructured(m, "weight", 5)
    mask = m.weight_mask.numpy().reshape(-1)
    assert not mask[order[:5]].any() and mask[order[5:]].all()
    m(core.ones(1, 4)).sum().backward()
    assert not (m.weight_orig.grad.numpy().reshape(-1)[order[:5]]).any()
    prune.random_unstructured(m, "weight", 2)
    prune.ln_structured(m, "weight", 1, 2, 0)
    assert float(m.weight_mask.sum()) <= 5 and prune.is_pruned(m)
    prune.remove(m, "weight")
    assert list(m.state_dict()) == ["bias", "weight"] and not prune.is_pruned(m)


def test_skip_init_draws_nothing() -> None:
    core.manual_seed(0)
    expected = core.rand(1).item()
    core.manual_seed(0)
    assert nn.utils.skip_init(nn.Linear, 3, 2).weight.shape == (2, 3)
    assert core.rand(1).item() == expected


# -- initial values
# ------------------------------------------------------------------------------------------------------


def test_initial_values() -> None:
    w = nn.init.orthogonal_(core.empty(4, 6), gain=2.0).numpy()
    np.testing.assert_allclose(w @ w.T, 4 * np.eye(4), atol=1e-5)
    t = nn.init.trunc_normal_(core.empty(2000), a=-1.0, b=0.5).numpy()
    assert t.min() >= -1 and t.max() <= 0.5
    s = nn.init.trunc_normal_(core.empty(2000), mean=0.0, std=1.0, a=1.5, b=3.0).numpy()  # few would be inside
    assert s.min() >= 1.5 and s.max() <= 3 and 1.7 < s.mean() < 2.1
    sparse = nn.init.sparse_(core.empty(10, 4), 0.3).numpy()
    assert ((sparse == 0).sum(axis=0) == 3).all()
    conv = nn.init.dirac_(core.empty(4, 2, 3), groups=2)
    x = core.rand(1, 4, 5)
    np.testing.assert_allclose(nn.functional.conv1d(x, conv, padding=1, groups=2).numpy(), x.numpy(), rtol=1e-6)
    assert nn.init.eye_(core.empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]
    with pytest.warns(FutureWarning, match="deprecated"):
        assert nn.init.constant(core.empty(2), 3.0).tolist() == [3.0, 3.0]
    with pytest.warns(UserWarning, match="no-op"):
        nn.init.kaiming_uniform_(core.empty(0, 3))


# -- while training
# ------------------------------------------------------------------------------------------------------


def test_running_statistics() -> None:
    m = nn.BatchNorm1d(2, momentum=None)
    batches = [core.randn(8, 2) for _ in range(3)]
    for x in batches:
        m(x)
    means, variances = (np.mean([f(x.numpy()) for x in batches], axis=0) for f in (lambda x: x.mean(0),
        lambda x: x.var(0, ddof=1)))
    np.testing.assert_allclose(m.running_mean.numpy(), means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(m.running_var.numpy(), variances, rtol=1e-5)
    assert m.num_batches_tracked.item() == 3
    m.reset_running_stats()
    assert m.running_mean.tolist() == [0, 0] and m.running_var.tolist() == [1, 1]


@pytest.mark.parametrize(("layer", "axes"), [("Dropout", ()), ("Dropout1d", (2,)), ("AlphaDropout", ()),
("FeatureAlphaDropout", (2,))])
def test_dropout_statistics(layer: str, axes: tuple[int, ...]) -> None:
    """The share that is dropped, whole channels where that is the point; the mean stays."""
    x = core.randn(200, 50, 4)
    y = getattr(nn, layer)(0.3)(x).numpy()
    values, counts = np.unique(y, return_counts=True)
    changed = y == values[counts.argmax()]  # what is dropped has one value: zero, or the saturated one
    if axes:
        assert (changed.all(axis=axes) | ~changed.any(axis=axes)).all()
    assert abs(changed.mean() - 0.3) < 0.02
    assert abs(y.mean()) < 0.05
