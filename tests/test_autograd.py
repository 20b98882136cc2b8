"""The graph and its walk: views, writes, versions, hooks, accumulation, depth, memory, functions, modes."""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import core
from core.autograd import Function, backward, detect_anomaly, grad, gradcheck, gradgradcheck, set_detect_anomaly
from core.autograd.function import once_differentiable
from core.autograd.graph import save_on_cpu, saved_tensors_hooks
from core.errors import ArgumentError, DTypeError, GraphError, ShapeError
from core.ops.op import OPS


def leaf(*shape: int, seed: int = 0) -> core.Tensor:
    a = np.random.default_rng(seed).standard_normal(shape)
    return core.tensor(a, dtype=core.float64, requires_grad=True)


# -- views and writes --------------------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Any], Any]] = {
    "view": lambda x: x.view(2, 6),
    "reshape": lambda x: x.reshape(12),
    "permute": lambda x: x.permute(1, 0),
    "transpose": lambda x: x.transpose(0, 1),
    "t": lambda x: x.t(),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "narrow": lambda x: x.narrow(1, 1, 2),
    "select": lambda x: x.select(0, 1),
    "slice": lambda x: x[1:, ::2],
    "int": lambda x: x[2],
    "element": lambda x: x[1, 2],
    "none": lambda x: x[None],
    "ellipsis": lambda x: x[..., 0],
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x.unsqueeze(0).squeeze(0),
    "diagonal": lambda x: x.diagonal(),
    "unbind": lambda x: x.unbind(1)[2],
    "split": lambda x: x.split(2, 1)[1],
    "chunk": lambda x: x.chunk(3)[1],
    "flatten": lambda x: x.flatten(),
    "view_as": lambda x: x.view_as(core.zeros(4, 3)),
    "alias": lambda x: x.alias(),
    "chain": lambda x: x.t()[1:].unsqueeze(0)[0, 1],
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory(name: str) -> None:
    x = core.arange(12.0).reshape(3, 4).clone()
    y = VIEWS[name](x)
    y.fill_(-1.0)
    assert (x == -1).sum().item() == y.numel()
    x.fill_(5.0)
    assert bool((y == 5).all())


@pytest.mark.parametrize("name", [k for k in VIEWS if k not in ("detach", "data")])
def test_writes_through_views_have_gradients(name: str) -> None:
    """base, view and a second view after `view *= w`, against the same without writing."""
    view = VIEWS[name]
    x = leaf(3, 4)
    w = leaf(*view(x).shape, seed=1)
    u = core.tensor(np.random.default_rng(2).standard_normal((3, 4)))

    base = x * 2
    other = base.t()
    view(base).mul_(w)
    got = grad((base * u).sum() + (other * other).sum() + view(base).sum(), [x, w])

    start = x * 2
    spot = core.zeros(3, 4, dtype=core.float64)
    view(spot).fill_(1.0)
    wide = core.zeros(3, 4, dtype=core.float64)
    expanded = wide.clone()
    view(expanded).copy_(w)  # w where the view is
    after = start * (1 - spot) + start * expanded * spot
    expected = grad((after * u).sum() + (after * after).sum() + view(after).sum(), [x, w])
    for g, e in zip(got, expected):
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=1e-12)


def test_a_view_written_through_its_base_or_a_sibling_follows() -> None:
    x = leaf(4)
    base = x * 1
    first, second = base[:2], base[1:]
    base.mul_(3)
    first.mul_(2)
    assert second.requires_grad and second.grad_fn is not None
    (g,) = grad(second.sum(), [x])
    assert g.tolist() == [0.0, 6.0, 3.0, 3.0]


def test_in_place_gradients_of_gradients() -> None:
    def f(x: Any) -> Any:
        y = x * x
        y[1:].mul_(x[1:])
        y.exp_()
        return y.sum()

    x = leaf(3)
    assert gradcheck(f, x) and gradgradcheck(f, x)


def test_a_plain_tensor_becomes_part_of_the_graph_by_a_write() -> None:
    x, y = leaf(3), core.zeros(3, dtype=core.float64)
    y.add_(x)
    y[0] = x[1] * 2
    assert not y.is_leaf and y.requires_grad
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 3.0, 1.0]


def test_setitem_gradients() -> None:
    x, v = leaf(3, 4), leaf(2, 4, seed=1)

    def f(x: Any, v: Any) -> Any:
        y = x * 1
        y[core.tensor([0, 2])] = v * 2
        y[1, 1:3] = v[0, :2]
        return y * y

    assert gradcheck(f, [x, v]) and gradgradcheck(f, [x, v])


def test_a_leaf_is_not_written_to() -> None:
    x = leaf(3)
    with pytest.raises(GraphError, match="a leaf Variable that requires grad is being used in an in-place"):
        x.add_(1)
    with pytest.raises(GraphError, match="a view of a leaf Variable that requires grad"):
        x[0] = 1
    with core.no_grad():
        x.zero_()
        x[0] = 1
    assert x.is_leaf and x.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "write", [lambda y: y.add_(1), lambda y: y[0].zero_(), lambda y: y.detach().zero_(), lambda y: y.t().mul_(2)]
)
def test_an_overwritten_value_is_noticed(write: Callable[[Any], Any]) -> None:
    x = leaf(2, 2)
    y = x.exp()
    z = y.sum()
    write(y)
    with pytest.raises(GraphError, match="modified by an inplace operation"):
        z.backward()


def test_a_write_that_hurts_nobody_is_no_error() -> None:
    x = leaf(3)
    y = x + 1  # keeps nothing
    z = y.sum()
    y.data.zero_()  # and data has a version of its own
    y.mul_(2)
    z.backward()
    assert x.grad is not None and x.grad.tolist() == [1.0] * 3


# -- leaves and their gradients ----------------------------------------------------------------------------------------


def test_gradients_accumulate() -> None:
    x = leaf(2)
    for _ in range(3):
        (x * 2).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [6.0, 6.0]


def test_gradients_are_never_shared() -> None:
    a, b, c = leaf(3), leaf(3), leaf(3)
    w = core.ones(3, dtype=core.float64)
    (a + b - c).backward(w)
    arrays = [t.grad for t in (a, b, c)]
    assert all(g is not None for g in arrays)
    arrays[0].add_(10)  # type: ignore[union-attr]
    assert arrays[1].tolist() == [1.0] * 3 and w.tolist() == [1.0] * 3  # type: ignore[union-attr]
    d = leaf(3)
    d.backward(w)
    d.grad.mul_(0)  # type: ignore[union-attr]
    assert w.tolist() == [1.0] * 3


def test_gradients_of_views_of_one_leaf_add_up() -> None:
    x = leaf(4)
    (x[:3] * 2).sum().backward()
    x[1].backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 3.0, 2.0, 0.0]


def test_grad_must_fit() -> None:
    x = leaf(3)
    x.grad = core.ones(3, dtype=core.float64)
    with pytest.raises(ShapeError, match="grad: expected"):
        x.grad = core.ones(4, dtype=core.float64)
    with pytest.raises(ShapeError, match="grad: expected"):
        x.grad = core.ones(3)
    with pytest.raises(DTypeError):
        x.grad = 1.0  # type: ignore[assignment]
    del x.grad
    assert x.grad is None


def test_what_cannot_require_grad() -> None:
    with pytest.raises(DTypeError, match="floating or complex"):
        core.tensor([1, 2], requires_grad=True)
    with pytest.raises(GraphError, match="expected a leaf"):
        (leaf(2) * 2).requires_grad_(False)


def test_leaves_are_ready_early_in_reverse_order_of_use() -> None:
    ready: list[int] = []
    walked: list[int] = []
    parameters = [leaf(2, seed=i) for i in range(5)]
    for i, p in enumerate(parameters):
        p.register_post_accumulate_grad_hook(lambda t, i=i: ready.append(i))
    y = core.ones(2, dtype=core.float64)
    for i, p in enumerate(parameters):
        y = y * p
        y.register_hook(lambda g, i=i: walked.extend([i, 4 - len(ready)]))  # the leaves after this node are ready
    y.sum().backward()
    assert ready == [4, 3, 2, 1, 0] and walked == [4, 4, 3, 3, 2, 2, 1, 1, 0, 0]


# -- autograd.grad and backward(inputs=) -------------------------------------------------------------------------------


def test_grad_of_inputs_inside_of_the_graph() -> None:
    x = leaf(3)
    y = x * 2
    z = (y * y).sum()
    gx, gy = grad(z, [x, y], retain_graph=True)
    assert np.allclose(gy.numpy(), 2 * y.detach().numpy()) and np.allclose(gx.numpy(), 4 * y.detach().numpy())
    assert x.grad is None
    (whole,) = grad(z, [z])
    assert whole.item() == 1.0


def test_unused_inputs() -> None:
    x, y = leaf(3), leaf(2)
    with pytest.raises(GraphError, match="not have been used in the graph"):
        grad(x.sum(), [x, y])
    assert grad(x.sum(), [x, y], allow_unused=True)[1] is None
    assert grad(x.sum(), [x, y], materialize_grads=True)[1].tolist() == [0.0, 0.0]
    with pytest.raises(GraphError, match="does not require grad"):
        grad(x.sum(), [core.ones(2)])


def test_backward_for_some_inputs() -> None:
    x, y = leaf(3), leaf(3)
    z = x * y
    w = z * y
    w.sum().backward(inputs=[y, z])
    assert x.grad is None and y.grad is not None and z.grad is not None
    assert np.allclose(y.grad.numpy(), (2 * x * y).detach().numpy())
    with pytest.raises(ArgumentError, match="cannot be empty"):
        (x * 2).sum().backward(inputs=[])


def test_only_what_leads_to_the_inputs_is_walked() -> None:
    x, w = leaf(3), leaf(3)
    y = x.exp()
    y.sum().backward(retain_graph=False)
    seen: list[int] = []
    z = y * w
    y.register_hook(lambda g: seen.append(1))
    (g,) = grad(z.sum(), [w])  # the freed part below y is not needed
    assert np.allclose(g.numpy(), y.detach().numpy()) and not seen


def test_create_graph() -> None:
    x = leaf(3)
    (g,) = grad((x**3).sum(), [x], create_graph=True)
    (h,) = grad(g.sum(), [x], create_graph=True)
    (k,) = grad(h.sum(), [x])
    assert np.allclose(h.detach().numpy(), 6 * x.detach().numpy()) and k.tolist() == [6.0] * 3


def test_gradient_of_a_gradient_of_0d_tensors() -> None:
    x = core.tensor(0.5, dtype=core.float64, requires_grad=True)
    (g,) = grad(x.exp() * x.sigmoid(), [x], create_graph=True)
    assert g.requires_grad and gradgradcheck(lambda x: x.exp() * x.sigmoid(), x)


def test_roots() -> None:
    x = leaf(3)
    with pytest.raises(GraphError, match="only for scalar outputs"):
        (x * 2).backward()
    with pytest.raises(ShapeError, match="Mismatch in shape"):
        (x * 2).backward(core.ones(2, dtype=core.float64))
    with pytest.raises(GraphError, match="does not require grad"):
        core.ones(1).backward()
    backward([x.sum(), (x * 2)], [None, core.ones(3, dtype=core.float64)])
    assert x.grad is not None and x.grad.tolist() == [3.0] * 3


def test_a_graph_is_freed() -> None:
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(GraphError, match="retain_graph=True"):
        y.backward()


# -- hooks -------------------------------------------------------------------------------------------------------------


def test_hooks_change_the_gradient_and_can_be_removed() -> None:
    x = leaf(2)
    y = x * 3
    first = x.register_hook(lambda g: g * 10)
    second = y.register_hook(lambda g: g * 2)
    y.retain_grad()
    y.sum().backward(retain_graph=True)
    assert x.grad is not None and x.grad.tolist() == [60.0] * 2
    assert y.retains_grad and y.grad is not None and y.grad.tolist() == [2.0] * 2
    first.remove()
    second.remove()
    x.grad = None
    y.sum().backward()
    assert x.grad.tolist() == [3.0] * 2
    with x.register_hook(lambda g: g * 0):
        x.sum().backward()
    assert x.grad.tolist() == [3.0] * 2


def test_retain_grad_sees_the_work_of_later_hooks() -> None:
    y = leaf(2) * 3
    y.retain_grad()
    y.register_hook(lambda g: g * 5)
    y.sum().backward()
    assert y.grad is not None and y.grad.tolist() == [5.0] * 2


def test_hooks_run_once_with_the_whole_gradient() -> None:
    x, seen = leaf(1), []
    x.register_hook(lambda g: seen.append(g.item()))
    (x + x * 2 + x * 4).sum().backward()
    assert seen == [7.0]


def test_hooks_of_nodes() -> None:
    x = leaf(2)
    y = x * 3
    node = y.grad_fn
    assert node is not None and node.name() == "MulBackward0" and node.next_functions[0][0].variable is x
    node.register_hook(lambda pulled, grads: [g if g is None else g * 2 for g in pulled])
    node.register_prehook(lambda grads: (grads[0] * 5,))
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [30.0] * 2


def test_hooks_need_a_gradient() -> None:
    with pytest.raises(GraphError):
        core.ones(2).register_hook(print)
    with pytest.raises(GraphError):
        core.ones(2).retain_grad()
    with pytest.raises(GraphError):
        (leaf(2) * 2).register_post_accumulate_grad_hook(print)


# -- depth, width, memory ----------------------------------------------------------------------------------------------


def test_a_chain_of_ten_thousand() -> None:
    x = core.ones(1, requires_grad=True)
    y = x
    for _ in range(10_000):
        y = y + 1
    y.backward()
    assert x.grad is not None and x.grad.item() == 1.0
    node = weakref.ref(y.grad_fn)
    del y
    gc.collect()
    assert node() is None


def test_a_diamond_of_2_to_the_60_paths() -> None:
    x = core.ones(1, dtype=core.float64, requires_grad=True)
    y = x
    for _ in range(60):
        y = y + y
    y.backward()
    assert x.grad is not None and x.grad.item() == 2.0**60


def test_saved_memory_is_freed_during_backward() -> None:
    x = leaf(3)
    arrays: list[weakref.ref[Any]] = []
    alive: list[int] = []
    y = x
    for _ in range(4):
        y = y.exp()
        arrays.append(weakref.ref(y._a))
        y.register_hook(lambda g: alive.append(sum(a() is not None for a in arrays)))
    z = y.sum()
    del y
    z.backward()
    assert alive == [4, 3, 2, 1]
    assert not any(a() is not None for a in arrays)


def test_no_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        x = leaf(3)
        y = (x[1:] * 2).exp()
        node, array = weakref.ref(y.grad_fn), weakref.ref(y._a)
        y.sum().backward()
        del y
        assert node() is None and array() is None
    finally:
        gc.enable()


# -- functions of the user's own ---------------------------------------------------------------------------------------


class Cube(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, power: int = 3) -> Any:
        ctx.save_for_backward(x)
        ctx.power = power
        return x**power

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * ctx.power * x ** (ctx.power - 1), None


def test_function() -> None:
    x = leaf(3)
    assert gradcheck(lambda x: Cube.apply(x, 3), x) and gradgradcheck(lambda x: Cube.apply(x, 3), x)
    y = Cube.apply(x, 3)
    assert y.grad_fn.name() == "CubeBackward" and y.requires_grad
    assert not Cube.apply(core.ones(2), 3).requires_grad
    y.sum().backward()
    with pytest.raises(GraphError, match="freed"):
        y.sum().backward()


def test_function_with_setup_context() -> None:
    class Sine(Function):
        @staticmethod
        def forward(x: Any) -> Any:
            return x.sin()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.saved_tensors[0].cos()

    x = leaf(3)
    assert gradcheck(Sine.apply, x) and gradgradcheck(Sine.apply, x)


def test_function_frees_what_it_saved() -> None:
    x = leaf(3)
    z = x * 2
    array = weakref.ref(z._a)
    y = Cube.apply(z, 3).sum()
    del z
    y.backward()
    assert array() is None


def test_function_notices_an_overwritten_value() -> None:
    z = leaf(3) * 2
    y = Cube.apply(z, 3)
    z.zero_()
    with pytest.raises(GraphError, match="modified by an inplace operation"):
        y.sum().backward()


def test_function_in_place() -> None:
    class Double(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            x.mul_(2)
            ctx.mark_dirty(x)
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            assert ctx.saved_tensors[0].tolist() == [4.0, 4.0]
            return g * 2

    x = core.ones(2, requires_grad=True)
    y = x * 2
    assert Double.apply(y) is y
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [4.0, 4.0]
    with pytest.raises(GraphError, match="leaf"):
        Double.apply(core.ones(2, requires_grad=True))


@pytest.mark.parametrize("materialize", [True, False])
def test_function_of_several_outputs(materialize: bool) -> None:
    seen: list[Any] = []

    class Split(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            order = x.argsort()
            ctx.mark_non_differentiable(order)
            ctx.set_materialize_grads(materialize)
            return x * 2, order, x * 3

        @staticmethod
        def backward(ctx: Any, g2: Any, g_order: Any, g3: Any) -> Any:
            seen.extend([g2, g_order, g3])
            return g2 * 2

    x = core.ones(2, requires_grad=True)
    double, order, triple = Split.apply(x)
    assert double.requires_grad and triple.requires_grad and not order.requires_grad
    double.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2.0, 2.0]
    assert (seen[2] is None) == (not materialize) and (seen[1] is None) == (not materialize)


def test_function_that_hands_its_input_back() -> None:
    class Pass(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return -g

    x = core.ones(2, requires_grad=True)
    y = Pass.apply(x)
    assert y is not x and y.data_ptr() == x.data_ptr() and x.is_leaf
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda g: (g, g, g), "incorrect number of gradients"),
        (lambda g: g, "incorrect number of gradients"),
        (lambda g: (g[:1], None), "invalid gradient at index 0"),
        (lambda g: (1.0, None), "expected a Tensor or None"),
    ],
)
def test_function_with_wrong_gradients(result: Any, message: str) -> None:
    class Wrong(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any) -> Any:
            return x + y

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return result(g)

    with pytest.raises(GraphError, match=message):
        Wrong.apply(leaf(3), leaf(3)).sum().backward()


def test_once_differentiable() -> None:
    class Once(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2

    x = leaf(2)
    Once.apply(x).sum().backward()
    (g,) = grad((Once.apply(x) * x).sum(), [x], create_graph=True)
    with pytest.raises(GraphError, match="twice"):
        g.sum().backward()


# -- modes -------------------------------------------------------------------------------------------------------------


def test_recording_can_be_switched() -> None:
    x = leaf(2)
    with core.no_grad():
        assert not core.is_grad_enabled() and not (x * 2).requires_grad
        with core.enable_grad():
            assert (x * 2).requires_grad
        with core.set_grad_enabled(True):
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    with core.inference_mode():
        assert core.is_inference_mode_enabled() and not (x * 2).requires_grad
    assert core.is_grad_enabled() and not core.is_inference_mode_enabled()
    core.set_grad_enabled(False)
    assert not core.is_grad_enabled()
    core.set_grad_enabled(True)


def test_modes_are_decorators() -> None:
    x = leaf(2)
    for mode in (core.no_grad, core.no_grad(), core.inference_mode, core.inference_mode()):
        f = mode(lambda: (x * 2).requires_grad)
        assert not f() and core.is_grad_enabled()
    f = core.set_grad_enabled(False)(lambda: (x * 2).requires_grad)
    assert not f() and core.is_grad_enabled()

    @core.no_grad()
    def steps() -> Any:
        yield core.is_grad_enabled()
        yield core.is_grad_enabled()

    seen = []
    for off in steps():
        seen += [off, core.is_grad_enabled()]
    assert seen == [False, True, False, True]


def test_a_mode_ends_with_an_error() -> None:
    with pytest.raises(KeyError), core.no_grad():
        raise KeyError
    assert core.is_grad_enabled()


def test_threads_are_independent() -> None:
    seen: list[bool] = []
    with core.no_grad():
        thread = threading.Thread(target=lambda: seen.append(core.is_grad_enabled()))
        thread.start()
        thread.join(10)
    assert seen == [True]


def test_backward_in_threads() -> None:
    """Each thread its own graph, as ranks that are threads have it."""
    results: dict[int, list[float]] = {}

    def work(i: int) -> None:
        x = core.full((50,), float(i), requires_grad=True)
        for _ in range(20):
            (x * x).sum().backward()
        assert x.grad is not None
        results[i] = x.grad.tolist()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert results == {i: [40.0 * i] * 50 for i in range(4)}


def test_anomaly_mode_names_the_forward_line() -> None:
    x = core.tensor([0.0, 1.0], requires_grad=True)
    with detect_anomaly():
        y = (x * 0).sqrt() * 0  # the culprit
        with pytest.raises(GraphError, match=r"(?s)SqrtBackward0.*nan.*the culprit"):
            y.sum().backward()
    previous = set_detect_anomaly(False)
    del previous
    (x * 0).sqrt().sum().backward()


def test_saved_tensors_hooks() -> None:
    packed: list[Any] = []

    def pack(t: Any) -> Any:
        packed.append(t)
        return t.numpy().tobytes(), t.shape

    x = leaf(3)
    with saved_tensors_hooks(pack, lambda p: core.from_numpy(np.frombuffer(p[0]).reshape(p[1]).copy())):
        y = (x.exp() * x).sum()
    assert len(packed) >= 3
    y.backward(retain_graph=True)
    expected = x.detach().exp() * (x.detach() + 1)
    assert x.grad is not None and np.allclose(x.grad.numpy(), expected.numpy())
    with save_on_cpu():
        z = (x * x).sum()
    assert np.allclose(grad(z, [x])[0].numpy(), 2 * x.detach().numpy())


def test_batched_gradients() -> None:
    x = leaf(3)
    (rows,) = grad(x * x, [x], core.eye(3, dtype=core.float64), is_grads_batched=True)
    assert np.allclose(rows.numpy(), np.diag(2 * x.detach().numpy()))


def test_gradcheck_finds_a_wrong_gradient() -> None:
    class Wrong(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2.1

    assert not gradcheck(Wrong.apply, leaf(3), raise_exception=False)
    with pytest.raises(GraphError, match="central difference"):
        gradcheck(Wrong.apply, leaf(3))
    with pytest.raises(ArgumentError, match="float64"):
        gradcheck(Wrong.apply, core.ones(2, requires_grad=True))
    with pytest.raises(ArgumentError, match="requires grad"):
        gradcheck(Wrong.apply, core.ones(2))


@pytest.mark.parametrize("n", [3, 100], ids=["small", "large"])
def test_a_gradient_is_computed_where_it_is_to_live(n):
    """`ddp` gives parameters such a home."""
    w, x = core.randn(n + 1, n, requires_grad=True), core.randn(n + 2, n)
    w._home = home = np.zeros((n + 1, n), np.float32)
    core.nn.functional.linear(x, w).sum().backward()
    once = x.sum(0).numpy() * np.ones((n + 1, 1), np.float32)
    assert w.grad._a is home
    np.testing.assert_allclose(home, once, rtol=1e-5, atol=1e-5)
    (asked,) = core.autograd.grad(core.nn.functional.linear(x, 2 * w).sum() + core.nn.functional.linear(x, w).sum(), w)
    assert not np.shares_memory(asked._a, home)  # it is the caller's
    for uses, times in ((2, 2), (1, 3)):  # the second adds to the gradient that is there
        if uses == 2:
            w.grad = None
        sum(core.nn.functional.linear(x, w).sum() for _ in range(uses)).backward()
        assert w.grad._a is home
        np.testing.assert_allclose(home, times * once, rtol=1e-5, atol=1e-4)
    w.grad = None
    seen = []
    w.register_hook(seen.append)
    core.nn.functional.linear(x, w).sum().backward()
    assert w.grad._a is home and not np.shares_memory(seen[0]._a, home)


@pytest.mark.parametrize("name", sorted(name for name, op in OPS.items() if op.whole is not None))
@pytest.mark.parametrize("rows", [(4,), (2, 3)])
@pytest.mark.parametrize("wanted", [w for w in itertools.product((False, True), repeat=3) if any(w)])
def test_whole_gives_what_the_rules_give(name: str, rows: tuple[int, ...], wanted: tuple[bool, ...], monkeypatch: Any) -> None:
    """Of every op that has one; all of them take (x, weight, bias)."""
    op = OPS[name]
    core.manual_seed(0)
    xs = [core.randn(*rows, 5), core.randn(6, 5), core.randn(6)]
    for x, wants in zip(xs, wanted):
        x.requires_grad_(wants)

    def gradients() -> list[Any]:
        for x in xs:
            x.grad = None
        (op(*xs) ** 2).sum().backward()
        return [None if x.grad is None else x.grad.numpy() for x in xs]

    found = gradients()
    calls: list[int] = []

    def none(be: Any, g: Any, wanted: Any, x: Any, w: Any, w_home: Any) -> None:
        calls.append(1)

    monkeypatch.setattr(op, "whole", none)
    monkeypatch.setattr(op, "_plans", {})
    for a, b in zip(found, gradients(), strict=True):
        assert (a is None) == (b is None)
        np.testing.assert_array_equal(a, b)
    assert calls
