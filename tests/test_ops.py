"""Every op on every device, by the table in `tests.cases`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import core
from core import methods
from core.autograd import gradcheck, gradgradcheck
from core.ops.op import OPS, Op
from tests import cases, devices
from tests.cases import IDS, ROWS, Case, Row

device = devices.device

every_case = pytest.mark.parametrize(("name", "number"), IDS)


def tensors(x: Any, device: str) -> Any:
    """The case's input, with arrays as tensors."""
    if isinstance(x, np.ndarray):
        return core.from_numpy(x).to(device)
    return [tensors(y, device) for y in x] if isinstance(x, list) else x


def on_device(params: dict[str, Any], device: str) -> dict[str, Any]:
    """Index arrays inside of a parameter, where the device can use them."""

    def moved(v: Any) -> Any:
        return tensors(v, device)._a if isinstance(v, np.ndarray) else v

    return {k: tuple(map(moved, v)) if isinstance(v, tuple) else v for k, v in params.items()}


def numpy_dtypes(params: dict[str, Any]) -> dict[str, Any]:
    return {k: core.dtypes.of(np.dtype(v)) if k == "dtype" else v for k, v in params.items()}


def called(row: Row, inputs: list[Any], params: dict[str, Any]) -> list[Any]:
    """The results, as a list."""
    y = row.call(*inputs, **params)
    return list(y) if isinstance(y, tuple) else [y]


def drawn(name: str, number: int, device: str) -> tuple[Row, Case, list[Any], dict[str, Any]]:
    row = ROWS[name]
    case = row.cases[number]
    return row, case, case.arrays(), on_device(numpy_dtypes(case.params), device)


def test_every_op_and_public_function_has_a_row() -> None:
    assert cases.required() - set(ROWS) == set(), "no row in tests/cases.py"
    assert {name for name in ROWS if "." not in name} - cases.required() == set(), "a row without an op"


@every_case
def test_value(name: str, number: int, device: str) -> None:
    row, case, arrays, params = drawn(name, number, device)
    inputs = [tensors(x, device) for x in arrays]
    results = called(row, inputs, params)
    expected = row.oracle(*(arrays[0] if isinstance(arrays[0], list) else arrays), **case.params)
    expected = list(expected) if isinstance(expected, tuple) else [expected]
    assert len(results) == len(expected)
    for y, e in zip(results, expected):
        assert str(y.device).startswith(device)
        np.testing.assert_allclose(y.cpu().numpy(), e, rtol=1e-10, atol=1e-12)
        assert y.shape == np.shape(e)
        assert y.dtype.numpy == np.asarray(e).dtype
    for x, before in zip(inputs, case.arrays()):
        if isinstance(x, core.Tensor):
            np.testing.assert_array_equal(x.cpu().numpy(), before, err_msg="an input was changed")


@every_case
def test_gradients(name: str, number: int, device: str) -> None:
    row, case, arrays, params = drawn(name, number, device)
    variadic = isinstance(arrays[0], list)
    if variadic:
        case, arrays = cases.c(*case.inputs[0]), arrays[0]
    inputs = [tensors(x, device) for x in arrays]
    wanted = [x for k, x in enumerate(inputs) if row.smooth(case, k, arrays[k])]

    def f(*xs: Any) -> Any:
        return tuple(called(row, [list(xs)] if variadic else list(xs), params))

    for x in wanted:
        x.requires_grad_()
    if not any(y.requires_grad for y in f(*inputs)):
        pytest.skip("nothing to differentiate")
    assert gradcheck(f, inputs)
    assert gradgradcheck(f, inputs)


def check_device(name: str, number: int, device: str) -> None:
    """Values and gradients lie on a device, which need not be the current one, and are those of the CPU."""
    test_value(name, number, device)
    found = []
    for where in ("cpu", device):
        row, _, arrays, params = drawn(name, number, where)
        variadic = isinstance(arrays[0], list)
        xs = [tensors(a, where) for a in (arrays[0] if variadic else arrays)]
        leaves = [t.requires_grad_() for t in xs if isinstance(t, core.Tensor) and t.dtype.is_floating_point]
        ys = [y for y in called(row, [xs] if variadic else xs, params) if y.requires_grad]
        if not ys:
            return
        sum((y.abs() * 0.5).sum() for y in ys).backward()
        grads = [t.grad for t in leaves if t.grad is not None]
        assert all(str(g.device).startswith(where) for g in grads)
        found.append([g.cpu().numpy() for g in grads])
    for g, e in zip(*found, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-9)


def check_bfloat16(name: str, number: int, device: str) -> None:
    """Of bfloat16 inputs a device makes what the CPU makes: dtypes of results and gradients, and values within rounding."""
    found = []
    for where in ("cpu", device):
        row, _, arrays, params = drawn(name, number, where)
        variadic = isinstance(arrays[0], list)
        xs = [tensors(a, where) for a in (arrays[0] if variadic else arrays)]
        xs = [x.to(core.bfloat16) if isinstance(x, core.Tensor) and x.dtype == core.float64 else x for x in xs]
        leaves = [x.requires_grad_() for x in xs if isinstance(x, core.Tensor) and x.dtype == core.bfloat16]
        try:
            ys = called(row, [xs] if variadic else xs, params)
            smooth = [y for y in ys if y.requires_grad]
            if smooth:
                sum(y.float().abs().sum() for y in smooth).backward()
        except (TypeError, RuntimeError, ValueError, AttributeError):
            if where == "cpu":
                pytest.skip("the CPU has no bfloat16 for this")
            raise
        found.append([*ys, *(x.grad for x in leaves)])
    for e, y in zip(*found, strict=True):
        if e is None or e.dtype != core.bfloat16:
            continue
        assert y.dtype == e.dtype
        e, y = (t.detach().cpu().float().numpy() for t in (e, y))
        np.testing.assert_allclose(y, e, rtol=0.05, atol=0.05 * max(1.0, np.abs(e[np.isfinite(e)]).max(initial=0)))


LOW = set(
    "leaky_relu elu normal_cdf gelu silu mish softplus logsigmoid hardtanh hardswish hardsigmoid softshrink hardshrink threshold "
    "huber logit lerp where attention sigmoid tanh relu exp clamp".split()
)


def test_bfloat16_stays(device: str) -> None:
    """What is made of bfloat16 is bfloat16."""
    for name, number in IDS:
        if name in LOW:
            row, _, arrays, params = drawn(name, number, device)
            variadic = isinstance(arrays[0], list)
            xs = [tensors(a, device) for a in (arrays[0] if variadic else arrays)]
            xs = [x.to(core.bfloat16) if isinstance(x, core.Tensor) and x.dtype == core.float64 else x for x in xs]
            ys = called(row, [xs] if variadic else xs, params)
            assert {y.dtype for y in ys} == {core.bfloat16}, (name, number)


@every_case
def test_keywords(name: str, number: int) -> None:
    """torch's names of the arguments."""
    row, _, arrays, params = drawn(name, number, "cpu")
    op = row.call
    if not isinstance(op, Op) or op.variadic:
        pytest.skip("a function: its parameters are in the table by keyword")
    inputs = [tensors(x, "cpu") for x in arrays]
    names = {array: public for public, array in op.public.items()}  # the last of them is torch's
    named = {names[k]: x for k, x in zip(op.inputs, inputs)}
    positional = dict(zip(op.params, inputs[op.arity :]))
    for y, e in zip(called(row, inputs, params), [op(**named, **positional, **params)]):
        e = e[0] if isinstance(e, tuple) else e
        np.testing.assert_array_equal(y.numpy(), e.numpy())


IN_PLACE = [(name, k) for name, k in IDS if name in methods.INPLACE]


@pytest.mark.parametrize(("name", "number"), IN_PLACE)
def test_in_place(name: str, number: int, device: str) -> None:
    """name_ writes what name returns, with the same gradients."""
    row, case, arrays, params = drawn(name, number, device)
    if not isinstance(arrays[0], np.ndarray):
        pytest.skip("a number cannot be written to")
    inputs = [tensors(x, device) for x in arrays]
    for k, x in enumerate(inputs):
        if row.smooth(case, k, arrays[k]):
            x.requires_grad_()
    wanted = [x for x in inputs if isinstance(x, core.Tensor) and x.requires_grad]
    y = row.call(*inputs, **params)
    target = inputs[0].clone()
    in_place = getattr(core.Tensor, name + "_")
    if y.shape != target.shape or y.dtype.category > target.dtype.category:
        with pytest.raises((RuntimeError, TypeError)):
            in_place(target, *inputs[1:], **params)
        return
    assert in_place(target, *inputs[1:], **params) is target
    np.testing.assert_array_equal(target.detach().cpu().numpy(), y.detach().cpu().numpy())
    if not y.requires_grad or y.dtype is not target.dtype:
        return
    expected = core.autograd.grad(y.sum(), wanted, allow_unused=True)
    try:
        got = core.autograd.grad(target.sum(), wanted, allow_unused=True)
    except core.errors.GraphError as error:  # the rule needs what was overwritten: torch says so, too
        assert "modified by an inplace operation" in str(error)
        return
    for g, e in zip(got, expected):
        if e is not None:
            np.testing.assert_allclose(g.cpu().numpy(), e.cpu().numpy(), rtol=1e-12)


def test_in_place_names_have_rows() -> None:
    assert {*methods.INPLACE} <= set(OPS)
    assert {name for name, _ in IN_PLACE} == set(methods.INPLACE)


@pytest.mark.parametrize("name", ["F.relu"])
def test_relu_in_place_spellings(name: str) -> None:
    x = core.tensor([-1.0, 2.0])
    core.nn.functional.relu(x, inplace=True)
    y = core.nn.functional.relu_(core.tensor([-1.0, 2.0]))
    assert x.tolist() == y.tolist() == [0.0, 2.0]
