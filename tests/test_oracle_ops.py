"""The engine against PyTorch, where it is installed: the table of `tests.cases`, promotion, random streams, printed text."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import core
from core.errors import CoreError
from tests.cases import IDS, ROWS, Case, Row

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own

DTYPES = "bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128".split()


def pair(x: Any, dtype: str | None = None) -> tuple[Any, Any]:
    """A case's input as a tensor of ours and one of torch's, floats in another dtype if one is given."""
    if isinstance(x, np.ndarray):
        ours, theirs = core.from_numpy(x.copy(order="K")), torch.from_numpy(x.copy(order="K"))
        if dtype is not None:
            ours, theirs = ours.to(getattr(core, dtype)), theirs.to(getattr(torch, dtype))
        return ours, theirs
    if isinstance(x, list):
        pairs = [pair(y, dtype) for y in x]
        return [p for p, _ in pairs], [q for _, q in pairs]
    return x, x


def theirs_of(row: Row) -> Callable[..., Any]:
    if callable(row.torch):
        return lambda *args, **params: row.torch(torch, *args, **params)
    found: Any = torch
    for part in row.torch.split("."):
        found = getattr(found, part) if hasattr(found, part) else getattr(torch.Tensor, part)
    return found


def drawn(name: str, number: int) -> tuple[Row, Case]:
    row = ROWS[name]
    if row.torch is None:
        pytest.skip("torch has no such function")
    return row, row.cases[number]


def listed(y: Any) -> list[Any]:
    return list(y) if isinstance(y, (tuple, list)) else [y]


def same(ours: Any, theirs: Any, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    """Equal dtype and shape, values as near as the dtype allows."""
    assert str(ours.dtype).removeprefix("core.") == str(theirs.dtype).removeprefix("torch.")
    assert tuple(ours.shape) == tuple(theirs.shape)
    theirs = theirs.detach()
    a = ours.detach()
    if a.dtype is core.bfloat16:
        a, theirs = a.float(), theirs.float()
    np.testing.assert_allclose(a.numpy(), theirs.numpy(force=True), rtol=rtol, atol=atol)


@pytest.mark.parametrize(("name", "number"), IDS)
def test_values_strides_and_gradients(name: str, number: int) -> None:
    row, case = drawn(name, number)
    arrays = case.arrays()
    pairs = [pair(x) for x in arrays]
    ours, theirs = [p for p, _ in pairs], [q for _, q in pairs]
    smooth = [row.smooth(case, k, x) for k, x in enumerate(arrays)]
    if isinstance(arrays[0], list):
        leaves = list(zip(ours[0], theirs[0]))
    else:
        leaves = [(p, q) for p, q, s in zip(ours, theirs, smooth) if s]
    for p, q in leaves:
        p.requires_grad_()
        q.requires_grad_()
    ys, es = listed(row.call(*ours, **case.params)), listed(theirs_of(row)(*theirs, **case.params))
    assert len(ys) == len(es)
    for y, e in zip(ys, es):
        same(y, e)
        if y._base is not None and y.numel() > 1:
            strides = [(s, t) for s, t, length in zip(y.stride(), e.stride(), y.shape) if length > 1]
            assert all(s == t for s, t in strides), "strides of a view"
    live = [(y, e) for y, e in zip(ys, es) if e.requires_grad and name != "norm"]
    assert all(y.requires_grad for y, _ in live)
    if (
        not live or not leaves or (name, number) in (("scatter_add", 1), ("scatter", 2))
    ):  # torch wants src as large as the index
        return
    weights = [pair(np.random.default_rng(7).standard_normal(y.shape).astype(y.dtype.numpy)) for y, _ in live]
    first = core.autograd.grad(
        [y for y, _ in live], [p for p, _ in leaves], [w for w, _ in weights], create_graph=True, allow_unused=True
    )
    expected = torch.autograd.grad(
        [e for _, e in live], [q for _, q in leaves], [w for _, w in weights], create_graph=True, allow_unused=True
    )
    for g, e in zip(first, expected):
        assert (g is None) == (e is None)
        if g is not None:
            same(g, e, 1e-9)
    second = [(g, e) for g, e in zip(first, expected) if e is not None and e.requires_grad and g.requires_grad]
    if not second:
        return
    got = core.autograd.grad(
        sum((g * g).sum().real if g.is_complex() else (g * g).sum() for g, _ in second)
        if not second[0][0].is_complex()
        else sum(g.abs().square().sum() for g, _ in second),
        [p for p, _ in leaves],
        allow_unused=True,
    )
    want = torch.autograd.grad(
        sum((e.abs() if e.is_complex() else e).square().sum() for _, e in second),
        [q for _, q in leaves],
        allow_unused=True,
    )
    for g, e in zip(got, want):
        if e is not None and (g is not None or e.abs().max() > 0 if e.numel() else False):
            same(g, e, 1e-8, 1e-10)


PRECISION = {"float16": 4e-3, "bfloat16": 4e-2, "float32": 2e-5, "complex64": 2e-5}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name, r in ROWS.items() if r.dtypes])
def test_every_dtype(name: str, dtype: str) -> None:
    """The same result in every dtype, or an error where torch has one."""
    row = ROWS[name]
    rule = PRECISION.get(dtype, 1e-7)
    if name in ("amax", "amin") and dtype.startswith("complex"):
        pytest.skip("torch orders complex numbers where there is a dim; we refuse")
    for case in row.cases:
        arrays = case.arrays()
        pairs = [pair(x, dtype if isinstance(x, np.ndarray) and x.dtype.kind == "f" else None) for x in arrays]
        es, theirs_error = attempted(theirs_of(row), [q for _, q in pairs], case.params)
        ys, ours_error = attempted(row.call, [p for p, _ in pairs], case.params)
        if theirs_error is not None or ours_error is not None:
            agree(ours_error, theirs_error, case)
            continue
        for y, e in zip(ys, es):
            same(y, e, rule, rule)


def agree(ours: Exception | None, theirs: Exception | None, what: Any) -> None:
    """Both refuse; or we compute where torch merely has no kernel."""
    no_kernel = theirs is not None and any(
        s in str(theirs) for s in ("not implemented", "does not support", "not supported for")
    )
    assert (ours is None) == (theirs is None) or (ours is None and no_kernel), (what, ours, theirs)


def attempted(f: Callable[..., Any], inputs: list[Any], params: dict[str, Any]) -> tuple[list[Any], Exception | None]:
    try:
        return listed(f(*inputs, **params)), None
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, CoreError) as error:
        return [], error


# -- promotion ---------------------------------------------------------------------------------------------------------

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y, "mul": lambda x, y: x * y, "div": lambda x, y: x / y, "lt": lambda x, y: x < y, "eq": lambda x, y: x == y,
    "sub": lambda x, y: x - y, "pow": lambda x, y: x**y, "floordiv": lambda x, y: x // y, "mod": lambda x, y: x % y,
}  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_promotion(operator: str, dtype: str) -> None:
    """Tensors, 0-d tensors and numbers, on both sides."""
    f = OPERATORS[operator]
    x = pair(np.array([1, 2]), dtype), pair(np.array(2), dtype)
    others = [pair(np.array(v), d) for d in DTYPES for v in (1, [1, 3])] + [(v, v) for v in (True, 2, 1.5, 1 + 1j)]
    for (ours, theirs), (other, their_other), swap in itertools.product(x, others, (False, True)):
        a, e = ((other, ours), (their_other, theirs)) if swap else ((ours, other), (theirs, their_other))
        ys, ours_error = attempted(f, list(a), {})
        es, theirs_error = attempted(f, list(e), {})
        agree(ours_error, theirs_error, a)
        if theirs_error is None and es[0].dtype != torch.complex32:  # which we have not got
            same(ys[0], es[0], 1e-2)


# -- random numbers ----------------------------------------------------------------------------------------------------

SEEDS = (0, 1, 2**31, 2**40 + 3, -5)


def same_normals(ours: core.Tensor, theirs: Any) -> None:
    """To the last bit in float32, where PyTorch runs its kernel for AVX2; in float64 its library has its own log and cos."""
    if theirs.dtype is torch.float32 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    else:
        near(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_and_normal_streams(seed: int, dtype: str) -> None:
    ours, theirs = getattr(core, dtype), getattr(torch, dtype)
    core.manual_seed(seed)
    torch.manual_seed(seed)
    for size in [*range(1, 41), 1000]:
        np.testing.assert_array_equal(core.rand(size, dtype=ours).numpy(), torch.rand(size, dtype=theirs).numpy())
        same_normals(core.randn(size, dtype=ours), torch.randn(size, dtype=theirs))
    for shape in ((7, 5), (3,), (100, 100)):
        ours_, theirs_ = core.empty(*shape, dtype=ours), torch.empty(*shape, dtype=theirs)
        same_normals(ours_.normal_(2.0, 3.0), theirs_.normal_(2.0, 3.0))
        same_normals(core.normal(-1.0, 0.3, shape, dtype=ours), torch.normal(-1.0, 0.3, shape, dtype=theirs))
    near(core.empty(4, 5, dtype=ours).uniform_(-2.0, 3.0), torch.empty(4, 5, dtype=theirs).uniform_(-2.0, 3.0))


def near(ours: Any, theirs: Any) -> None:
    """Within a few units in the last place: log and cos are computed by different libraries."""
    eps = np.finfo(ours.numpy().dtype).eps
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize("seed", SEEDS)
def test_integer_streams(seed: int) -> None:
    core.manual_seed(seed)
    torch.manual_seed(seed)
    for low, high in ((0, 10), (-5, 5), (0, 2**31), (0, 2**33), (-(2**62), 2**62)):
        assert core.randint(low, high, (50,)).tolist() == torch.randint(low, high, (50,)).tolist()
    for n in (0, 1, 2, 10, 1000):
        assert core.randperm(n).tolist() == torch.randperm(n).tolist()
    assert core.empty(20).random_(7).tolist() == torch.empty(20).random_(7).tolist()
    assert core.empty(20).random_().tolist() == torch.empty(20).random_().tolist()
    assert (
        core.zeros(20, dtype=core.int64).random_(3, 9).tolist()
        == torch.zeros(20, dtype=torch.int64).random_(3, 9).tolist()
    )
    p = np.linspace(0, 1, 30)
    assert core.bernoulli(core.tensor(p)).tolist() == torch.bernoulli(torch.tensor(p)).tolist()


# -- printing ----------------------------------------------------------------------------------------------------------


def _printed() -> list[Any]:
    rng = np.random.default_rng(0)
    values: list[Any] = [
        np.array(v, dtype=np.float32)
        for v in (
            [], 0.0, 3.0, 3.5, -0.25, 1e-5, 1e5, 12345678.0, 1e9, 123456789.0, float("nan"), float("inf"), [1.0, 2.0],
                [1.0, -2.5], [1e-4, 1.0],
            [1e-5, 1.0], [1e4, 1.0], [1e3, 0.1], [1e3, 1.0], [1e8, 1.0], [0.0, 0.0], [float("nan"), 1.0],
                [float("inf"), 1.5],
            [float("-inf"), 2.0, float("nan")], [float("nan"), float("nan")], [0.1 + 1e-7], [99999.0, 0.5], [999.9999,
                1.0], [1e10, 1e-10],
            [[1.0, 2.0], [3.0, 4.0]], [[-1.5, 2.0]], [[[1.0]]], [-0.0, 0.0],
        )
    ]  # fmt: skip
    values += [
        np.array(v)
        for v in (0, -5, [1, 2, 3], [1, -200, 3], [[1, 2], [300, 4]], True, [True, False], [[True], [False]])
    ]
    values += [np.array([1, 2], dtype=d) for d in (np.int8, np.int16, np.int32, np.uint8, np.float16, np.float64)]
    values += [np.array([1 + 2j, -0.5 - 1j], dtype=d) for d in (np.complex64, np.complex128)] + [
        np.array(1 - 1j, dtype=np.complex64)
    ]
    values += [np.zeros(s, dtype=np.float32) for s in ((0,), (0, 3), (2, 0), (1, 0, 2))] + [
        np.zeros((0,), dtype=np.int64)
    ]
    values += [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.arange(2000), np.arange(2000, dtype=np.float32),
            np.arange(10000).reshape(100, 100),
        rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal((20, 30, 4)).astype(np.float32),
            rng.standard_normal(30).astype(np.float32),
        rng.standard_normal((2, 2, 2, 2)).astype(np.float32), rng.standard_normal((2, 40)),
            (rng.standard_normal(40) * 1000).astype(np.int64),
        rng.standard_normal((3, 500)).astype(np.float32), np.ones((2, 1001), dtype=np.float32), np.arange(1001) > 500,
    ]  # fmt: skip
    return values


@pytest.mark.parametrize("number", range(len(_printed())))
def test_printed_text(number: int) -> None:
    ours, theirs = pair(_printed()[number])
    assert str(ours) == str(theirs).replace("torch.", "core.")
    if ours.is_floating_point():
        assert repr(ours.clone().requires_grad_()) == repr(theirs.clone().requires_grad_()).replace("torch.", "core.")
        assert repr(ours.clone().requires_grad_() * 2) == repr(theirs.clone().requires_grad_() * 2).replace(
            "torch.", "core."
        )
        assert repr(ours.bfloat16()) == repr(theirs.bfloat16()).replace("torch.", "core.")


@pytest.mark.parametrize("options", [{"precision": 2}, {"sci_mode": True}, {"sci_mode": False}, {"linewidth": 40},
    {"threshold": 3, "edgeitems": 1},
                                     {"profile": "short"}, {"profile": "full"}])  # fmt: skip
def test_print_options(options: dict[str, Any]) -> None:
    try:
        core.set_printoptions(**options)
        torch.set_printoptions(**options)
        for value in (np.array([1.5, 1e-6, 3.0]), np.arange(30.0), np.arange(2000).reshape(2, -1)):
            ours, theirs = pair(value)
            assert str(ours) == str(theirs).replace("torch.", "core.")
    finally:
        core.set_printoptions(profile="default")
        torch.set_printoptions(profile="default")


@pytest.mark.parametrize("seed", SEEDS)
def test_streams_of_other_distributions(seed: int) -> None:
    def both(f: Callable[[Any], Any]) -> None:
        core.manual_seed(seed)
        torch.manual_seed(seed)
        np.testing.assert_allclose(f(core).numpy(), f(torch).numpy(), rtol=1e-12)

    both(lambda t: t.empty(9, dtype=t.float64).cauchy_(1.0, 2.0))
    both(lambda t: t.empty(9, dtype=t.float64).log_normal_(0.5, 0.25))
    both(lambda t: t.empty(9, dtype=t.float64).geometric_(0.3))
    both(lambda t: t.poisson(t.tensor([0.0, 0.5, 3.0, 9.0, 20.0, 100.0], dtype=t.float64)))
    both(lambda t: t.randint_like(t.zeros(3, 4, dtype=t.int64), 2, 9))
