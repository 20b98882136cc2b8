"""Our CUDA kernels without a GPU: g++ compiles them for the CPU (`tests.gpu.shim`), the CUDA backend launches them, NumPy says what is
right.

So dispatch, packing of arguments, grids and the kernels themselves are one thing here, as on a GPU. The plain backend in float64 is the
oracle.
"""

import inspect
import math

import numpy as np
import pytest
from ml_dtypes import bfloat16

import core
import core.nn.functional as F
from core.backend.base import Backend
from core.backend.cuda import channels, optimizers, pointwise, rows
from core.backend.cuda.kernels import FLOATS, INSTANCES, Instance, body, names
from core.backend.cuda.kernels.pointwise import ROWS
from core.backend.cuda.philox import Draw
from core.cuda import guard
from core.errors import CoreError
from core.nn.modules import chains
from core.philox import PhiloxGenerator, drawing_from
from tests import devices, test_ops
from tests.cases import IDS
from tests.cases import ROWS as OPS
from tests.fake_cuda import Array, Cuda, FakeCUDA, State
from tests.gpu.shim import Shim, compiler

pytestmark = pytest.mark.skipif(
    compiler() is None, reason="NO C++ COMPILER: no CUDA kernel is executed here; install g++ or set $CXX"
)

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": bfloat16, "float64": np.float64}
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2, "float64": 1e-13}


@pytest.fixture(scope="module")
def shim():
    return Shim(INSTANCES)


@pytest.fixture
def be(shim, monkeypatch):
    """The CUDA backend on the fake device, with kernels."""
    monkeypatch.setattr(FakeCUDA, "kernels", shim)
    monkeypatch.setattr(Array, "allocate", None)
    shim.launched.clear()
    return FakeCUDA()


@pytest.fixture
def gpu(shim, monkeypatch):
    """The fake device with kernels is "cuda"."""
    monkeypatch.setattr(FakeCUDA, "kernels", shim)
    devices.install_fake(monkeypatch)
    shim.launched.clear()
    yield "cuda"
    State.graph = State.stream = Array.allocate = None


class Oracle(Backend):
    """The plain kernels, in float64."""

    device_type, array_type, xp = "cpu", np.ndarray, np


ORACLE = Oracle()


def drawn(dtype, *shape, seed=0, low=None):
    x = np.random.default_rng((seed, *shape)).standard_normal(shape)
    return (x if low is None else np.abs(x) + low).astype(DTYPES[dtype])


def up(*arrays):
    return [a if a is None else Array(a) for a in arrays]


def wide(*arrays):
    return [None if a is None else a.astype(np.float64) if a.dtype.kind in "fV" else a for a in arrays]


def close(got, expected, dtype, factor=1.0):
    """Within the dtype's rounding of values of this size, and of the dtype and shape that the plain kernel gives."""
    got = got if isinstance(got, tuple) else (got,)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(got) == len(expected)
    for y, e in zip(got, expected):
        if e is None:
            assert y is None
            continue
        assert isinstance(y, Array) and y.shape == np.shape(e), (y.shape, np.shape(e))
        scale = max(1.0, float(np.abs(np.where(np.isfinite(e), e, 0)).max(initial=0)))
        np.testing.assert_allclose(y.host.astype(np.float64), e, rtol=0, atol=TOLERANCE[dtype] * factor * scale)


def ran(be, *kernels):
    found = {kernel for _, kernel in be.kernels.launched}
    assert set(kernels) <= found, f"expected {kernels} to have run, got {found}"


each_dtype = pytest.mark.parametrize("dtype", FLOATS)
WEIGHTS = [(t, t) for t in FLOATS] + [("bfloat16", "float32"), ("float16", "float32")]


# -- rows --------------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("shape, dim", [((3, 7), 1), ((2, 300), -1), ((5, 1), 1), ((2, 3, 4), 1), ((1, 2500), 1)])
def test_softmax(be, dtype, shape, dim):
    x, g = drawn(dtype, *shape), drawn(dtype, *shape, seed=1)
    dim %= len(shape)
    for name in ("softmax", "log_softmax"):
        y = getattr(ORACLE, name)(*wide(x), dim)
        close(getattr(be, name)(*up(x), dim), y, dtype, 4)
        low = y.astype(DTYPES[dtype])
        close(
            getattr(be, name + "_grad")(*up(g, low), dim), getattr(ORACLE, name + "_grad")(*wide(g, low), dim), dtype, 4
        )
    ran(be, "softmax", "softmax_grad")


def test_softmax_of_infinities(be):
    x = np.array([[0, -np.inf, 1], [-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1], [-np.inf, np.nan, 0]], np.float32)
    with np.errstate(invalid="ignore"):
        expected = ORACLE.softmax(x, 1)
    np.testing.assert_allclose(be.softmax(Array(x), 1).host, expected, rtol=1e-6)


@each_dtype
def test_cross_entropy(be, dtype):
    x, target, w = drawn(dtype, 6, 40), np.array([3, 39, -100, 0, 7, 7]), drawn("float64", 40, low=0.5)
    loss, lse, _ = be.cross_entropy(Array(x), Array(target), Array(w), -100)
    logp = ORACLE.log_softmax(*wide(x), 1)
    keep = target >= 0
    target_ = np.where(keep, target, 0)
    weights = np.where(keep, w[target_], 0)
    close(loss, -logp[np.arange(6), target_] * weights, dtype, 4)
    total, g = Array(np.array(weights.sum())), Array(np.array([1.5]))
    onehot = np.eye(40)[target_]
    expected = (np.exp(logp) - onehot) * weights[:, None] * 1.5 / weights.sum()
    close(be.cross_entropy_grad(g, Array(x), Array(target), Array(w), lse, total, -100), expected, dtype, 4)
    each = Array(drawn("float64", 6))
    expected = (np.exp(logp) - onehot) * weights[:, None] * each.host[:, None]
    close(be.cross_entropy_grad(each, Array(x), Array(target), Array(w), lse, None, -100), expected, dtype, 4)
    for mean in (False, True):
        value, divisor = be.cross_entropy_total(loss, Array(x), Array(target), Array(w), -100, mean, None)
        close(divisor, weights.sum(), "float32" if dtype != "float64" else dtype, 4)
        close(value, (-logp[np.arange(6), target_] * weights).sum() / (weights.sum() if mean else 1), dtype, 8)
    assert be.cross_entropy_total(loss, Array(x), Array(target), None, -100, True, None)[1].host == 5
    wrong = Array(np.full(6, 40))
    assert np.isnan(be.cross_entropy(Array(x), wrong, None, -100)[0].host).all()
    assert (be.cross_entropy_grad(g, Array(x), wrong, None, lse, None, -100).host == 0).all()
    ran(be, "cross_entropy", "cross_entropy_total", "cross_entropy_grad")


# -- normalisation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, weights", WEIGHTS)
@pytest.mark.parametrize("shape, over", [((4, 33), 1), ((40, 6), 1), ((2, 3, 4, 5), 2)])
def test_layer_norm(be, monkeypatch, dtype, weights, shape, over):
    monkeypatch.setattr(rows, "_COLUMN_ROWS", 16)  # so that sums over columns come in several parts
    axes = tuple(range(len(shape) - over, len(shape)))
    x, g = drawn(dtype, *shape) + DTYPES[dtype](1), drawn(dtype, *shape, seed=1)
    w, b = drawn(weights, *shape[-over:]), drawn(weights, *shape[-over:], seed=1)
    mean, var = ORACLE.moments(*wide(x), axes)
    close(be.moments(*up(x), axes), (mean, var), "float64" if dtype == "float64" else "float32", 2)
    rstd = 1 / np.sqrt(var + 1e-5)
    kind = np.float64 if dtype == "float64" else np.float32
    low = [mean.astype(kind), rstd.astype(kind)]
    for ws, bs in ((w, b), (w, None), (None, None)):
        y = ORACLE.standardize(*wide(x, ws, bs, *low), axes)
        close(be.standardize(*up(x, ws, bs, *low), axes), y, dtype, 4)
        whole = be.fused["standardize"](be, *up(x, ws, bs), axes=axes, eps=1e-5)
        close(whole[0], y, dtype, 4)
        close(whole[1:], (mean, rstd), "float64" if dtype == "float64" else "float32", 8)
        expected = ORACLE.standardize_grad(*wide(g, x, ws, bs, *low), axes)
        close(be.standardize_grad(*up(g, x, ws, bs, *low), axes), expected, dtype, 4)
    ran(be, "row_norm", "row_moments", "row_standardize", "row_norm_grad", "column_sums", "column_join")


@pytest.mark.parametrize("dtype, weights", WEIGHTS)
def test_rms_norm(be, dtype, weights):
    x, g, w = drawn(dtype, 5, 70), drawn(dtype, 5, 70, seed=1), drawn(weights, 70)
    y, rstd = ORACLE.rms_norm(*wide(x, w), (1,), 1e-5)
    close(be.rms_norm(*up(x, w), (1,), 1e-5), (y, rstd), dtype, 4)
    low = rstd.astype(np.float64 if dtype == "float64" else np.float32)
    close(be.rms_norm_grad(*up(g, x, w, low), (1,)), ORACLE.rms_norm_grad(*wide(g, x, w, low), (1,)), dtype, 4)
    ran(be, "row_rms_norm", "row_norm_grad")


@pytest.mark.parametrize("dtype, weights", WEIGHTS)
@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (2, 35, 9), (6, 40), (5, 2, 120)])
@pytest.mark.parametrize("last", [False, True])
def test_batch_norm(be, monkeypatch, dtype, weights, shape, last):
    monkeypatch.setattr(channels, "_PART", 256)  # so that a channel comes in several parts
    if len(shape) > 2 and not last:  # many channels are a case of their own channels-last only
        shape = (shape[0], min(shape[1], 5), *shape[2:])
    axes, c = (0, *range(2, len(shape))), shape[1]
    x, g = drawn(dtype, *shape) + DTYPES[dtype](3), drawn(dtype, *shape, seed=1)
    w, b = drawn(weights, 1, c, *[1] * (len(shape) - 2)), drawn(weights, 1, c, *[1] * (len(shape) - 2), seed=1)
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    mean, var = ORACLE.moments(*wide(x), axes)
    close(be.moments(*up(x), axes), (mean, var), "float64" if dtype == "float64" else "float32", 4)
    kind = np.float64 if dtype == "float64" else np.float32
    low = [mean.astype(kind), (1 / np.sqrt(var + 1e-5)).astype(kind)]
    for ws, bs in ((w, b), (None, None)):
        y = be.standardize(*up(x, ws, bs, *low), axes)
        close(y, ORACLE.standardize(*wide(x, ws, bs, *low), axes), dtype, 4)
        assert y.strides == x.strides, "it is to lie as its input does"
        whole = be.fused["standardize"](be, *up(x, ws, bs), axes=axes, eps=1e-5)
        close(whole[0], ORACLE.standardize(*wide(x, ws, bs, *low), axes), dtype, 4)
        expected = ORACLE.standardize_grad(*wide(g, x, ws, bs, *low), axes)
        close(be.standardize_grad(*up(g, x, ws, bs, *low), axes), expected, dtype, 8)
    ran(be, "channel_moments", "channel_standardize", "channel_sums", "channel_norm_grad")


# -- pooling -----------------------------------------------------------------------------------------------------------

POOLS = [  # size of the images, kernel, stride, padding, dilation
    ((9,), (3,), (2,), (1,), (1,)),
    ((8, 7), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((8, 7), (3, 2), (1, 2), (1, 1), (2, 1)),
    ((5, 6, 4), (2, 3, 2), (2, 1, 2), (1, 1, 0), (1, 1, 1)),
    ((20, 20), (17, 16), (3, 2), (0, 0), (1, 1)),  # more offsets than a byte counts
]


@each_dtype
@pytest.mark.parametrize("size, k, stride, padding, dilation", POOLS)
@pytest.mark.parametrize("last", [False, True])
def test_pooling(be, dtype, size, k, stride, padding, dilation, last):
    from core.backend.base import conv_out_shape

    out = conv_out_shape(size, k, stride, padding, dilation)
    x, g = drawn(dtype, 2, 3, *size), drawn(dtype, 2, 3, *out, seed=1)
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    y, won = ORACLE.max_pool(x.copy(), k, out, stride, padding, dilation)
    got, winners = be.max_pool(Array(x), k, out, stride, padding, dilation)
    assert got.strides == won_strides(got, last) and winners.dtype == won.dtype
    np.testing.assert_array_equal(got.host, y)
    np.testing.assert_array_equal(winners.host, won)
    args = k, stride, padding, dilation
    expected = ORACLE.max_pool_grad(*wide(g), won, x.shape, *args)
    close(be.max_pool_grad(Array(g), winners, x.shape, *args), expected, dtype, 4)
    np.testing.assert_array_equal(be.max_pool_pick(Array(x), winners, *args).host, y)
    if dilation == (1,) * len(k):
        close(
            be.sum_pool(Array(x), k, out, stride, padding), ORACLE.sum_pool(*wide(x), k, out, stride, padding), dtype, 8
        )
        expected = ORACLE.sum_pool_grad(*wide(g), x.shape, k, stride, padding)
        close(be.sum_pool_grad(Array(g), x.shape, k, stride, padding), expected, dtype, 8)
    ran(be, "max_pool", "max_pool_grad", "max_pool_pick")


def won_strides(y, last):
    like = np.empty(y.shape, y.dtype)
    return (np.moveaxis(np.empty((y.shape[0], *y.shape[2:], y.shape[1]), y.dtype), -1, 1) if last else like).strides


def test_pooling_of_nan(be):
    x = np.array([[[1, np.nan, 2, 3, 3, -np.inf]]], np.float32)
    y, won = be.max_pool(Array(x), (2,), (3,), (2,), (0,), (1,))
    np.testing.assert_array_equal(y.host, [[[np.nan, 3, 3]]])
    assert won.host.tolist() == [[[1, 1, 0]]]


# -- recurrence --------------------------------------------------------------------------------------------------------

SIZES_OF_STEPS = [(3, 3, 2, 1), (2, 2)]


@each_dtype
@pytest.mark.parametrize("sizes", SIZES_OF_STEPS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrent_cells(be, dtype, sizes, reverse, biases, kind):
    gates, states, size = (4, 2, 5) if kind == "lstm" else (3, 1, 5)
    x, w, u = drawn(dtype, sum(sizes), 6), drawn(dtype, gates * size, 6), drawn(dtype, gates * size, size)
    b, c = ((drawn(dtype, gates * size, seed=k) if biases else None) for k in (1, 2))
    first = [drawn(dtype, sizes[0], size, seed=k) for k in range(states)]
    no_projection = [None] * (kind == "lstm")
    got = getattr(be, kind)(*up(x, *first, w, u, b, c, *no_projection), sizes, reverse)
    expected = getattr(ORACLE, kind)(*wide(x, *first, w, u, b, c, *no_projection), sizes, reverse)
    close(got[: 1 + states], expected[: 1 + states], dtype, 4)
    gs = [drawn(dtype, sum(sizes), size, seed=9), *(drawn(dtype, sizes[0], size, seed=k) for k in range(5, 5 + states))]
    grads = getattr(be, kind + "_grad")(*up(*gs, x, w, u, *no_projection), *got[1 + states :], sizes, reverse, True)
    right = getattr(ORACLE, kind + "_grad")(
        *wide(*gs, x, w, u, *no_projection), *expected[1 + states :], sizes, reverse, True
    )
    close(tuple(grads), tuple(right), dtype, 30)
    assert (
        getattr(be, kind + "_grad")(*up(*gs, x, w, u, *no_projection), *got[1 + states :], sizes, reverse, False)[0]
        is None
    )
    ran(be, f"{kind}_cell", f"{kind}_cell_grad")


# -- embedding ---------------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("kind", [np.int64, np.int32])
@pytest.mark.parametrize("rows, shape, d", [(5, (7,), 3), (30, (2, 40), 300), (9, (1500,), 8)])
def test_embedding_gradient(be, dtype, kind, rows, shape, d):
    index = np.random.default_rng(0).integers(-1, rows, shape).astype(kind)
    g, x = drawn(dtype, *shape, d), drawn(dtype, rows, d)
    expected = x.astype(np.float64)
    np.add.at(expected, index, g.astype(np.float64))
    device = Array(x.copy())
    be.add_at_(device, (Array(index),), Array(g))
    close(device, expected, dtype, 4)
    ran(be, "embedding_grad")


def test_other_scatters_are_plain(be):
    x = Array(np.zeros((3, 4), bfloat16))
    be.add_at_(x, (Array(np.array([0, 0])), Array(np.array([1, 1]))), Array(np.ones(2, bfloat16)))
    assert x.host[0, 1] == 2 and not be.kernels.launched


# -- pointwise ---------------------------------------------------------------------------------------------------------

erf = np.vectorize(math.erf)
PARAMS = {
    "softplus": {"beta": 1.5, "threshold": 1.0},
    "elu": {"alpha": 1.3, "scale": 0.9, "input_scale": 0.7},
    "leaky_relu": {"negative_slope": 0.2},
    "hardtanh": {"lo": -0.7, "hi": 0.9},
    "huber": {"delta": 0.8},
}
NUMBERS = {"rstd": {"eps": 0.1}, "axpby": {"a": 1.5, "b": -0.7}}  # of chains
CHAINS = {
    "erf": erf,
    "add_relu": lambda x, y: np.maximum(x + y, 0),
    "add_gelu": lambda x, y: reference("gelu", [x + y]),
    "add_gelu_tanh": lambda x, y: reference("gelu_tanh", [x + y]),
    "add_gelu.x": lambda g, x, y: reference("gelu.x", [g, x + y]),
    "add_gelu_tanh.x": lambda g, x, y: reference("gelu_tanh.x", [g, x + y]),
    "rstd": lambda x: 1 / np.sqrt(x + 0.1),
    "axpby": lambda x, y: 1.5 * x - 0.7 * y,
}


def reference(row, arrays):
    """What the op, or its gradient rule, gives in float64 on the CPU."""
    if row in CHAINS:
        return CHAINS[row](*arrays)
    name, _, gradient = row.partition(".")
    params = dict(PARAMS.get(name, {}), **({"approximate": "tanh"} if name == "gelu_tanh" else {}))
    op = core.ops.op.OPS[name.removesuffix("_tanh")]
    if not gradient:
        return op(*map(core.from_numpy, arrays), **params).numpy()
    g, v, *others = arrays
    if ROWS[row].arrays == "g y":  # the rule reads the output: find the input
        v = {"sigmoid": lambda y: np.log(y / (1 - y)), "tanh": np.arctanh}.get(name, lambda y: y)(v)
        if name == "elu":
            p = params
            v = np.where(
                v > 0, v / p["scale"], np.log1p(np.minimum(v, 0) / (p["alpha"] * p["scale"])) / p["input_scale"]
            )
    x = core.from_numpy(v).requires_grad_()
    op(x, *map(core.from_numpy, others), **params).backward(core.from_numpy(g))
    return x.grad.numpy()


def inputs(row, dtype, *shape):
    found = [drawn(dtype, *shape, seed=k) for k in range(len(ROWS[row].arrays.split()))]
    if row == "rstd":
        return [np.abs(found[0])]
    if ROWS[row].arrays.endswith(" y") and row in (
        "sigmoid.x",
        "tanh.x",
        "elu.x",
    ):  # an output: within the range of the function
        found[1] = (np.abs(np.tanh(found[1].astype(float))) * 0.8 + 0.1).astype(DTYPES[dtype])
        found[1][::2] *= DTYPES[dtype](1 if row == "sigmoid.x" else -1)
    return found


@each_dtype
@pytest.mark.parametrize("row", ROWS)
def test_pointwise(be, dtype, row):
    numbers = list((PARAMS | NUMBERS).get(row.partition(".")[0], {}).values())
    arrays = inputs(row, dtype, 9, 101)
    expected = reference(row, wide(*arrays))
    close(pointwise.run(be, row, up(*arrays), numbers), expected, dtype, 4)
    columns = [np.asfortranarray(a) for a in arrays]
    y = pointwise.run(be, row, up(*columns), numbers)
    close(y, expected, dtype, 4)
    assert y.strides == columns[0].strides and {k for _, k in be.kernels.launched} == {"flat"}
    one = [arrays[0][:, ::2], *(a[:1, ::2] for a in arrays[1:])]
    expected = reference(row, [np.broadcast_to(a, one[0].shape).copy() for a in wide(*one)])
    close(pointwise.run(be, row, up(*one), numbers), expected, dtype, 4)
    ran(be, "strided")


def test_dimensions_are_merged():
    assert pointwise.merged((2, 3, 4), [[12, 4, 1], [0, 0, 0]]) == ([24], [[1], [0]])
    assert pointwise.merged((2, 1, 4), [[4, 9, 1]]) == ([8], [[1]])
    assert pointwise.merged((2, 3, 4), [[12, 4, 1], [0, 4, 1]]) == ([2, 12], [[12, 1], [0, 1]])
    assert pointwise.merged((1, 1), [[5, 7]]) == ([], [[]])


def test_stand_ins_have_the_signatures_of_ops(be):
    """What `fused` offers is called as the op's own functions are."""
    for key in pointwise.fused():
        name, *gradient = key if isinstance(key, tuple) else (key,)
        op = core.ops.op.OPS[name]
        params = {**op.defaults, **PARAMS.get(name, {})}
        arrays = [drawn("float32", 3, 4, seed=k) for k in range(op.arity)]
        double = dict(zip(op.inputs, wide(*arrays)))
        out = op.forward(ORACLE, *double.values(), **params)
        if not gradient:
            got, expected = be.fused[key](be, *up(*arrays), **params), out
        else:
            ((_, rule, _),) = op.plan(1).rules
            needs = list(inspect.signature(rule).parameters)[2:]
            values = {**double, "out": out, **params}
            expected = rule(core.ops.op.Raw.of(ORACLE), np.ones((3, 4)), *(values[n] for n in needs))
            low = {n: Array(v.astype(np.float32)) if isinstance(v, np.ndarray) else v for n, v in values.items()}
            got = be.fused[key](be, Array(np.ones((3, 4), np.float32)), *(low[n] for n in needs))
        close(got, expected, "float32", 4)


def test_ops_on_the_device_run_them(shim, monkeypatch):
    """Calling an op, in place or not, and going back through it, launches what stands in for it; the CPU notices nothing."""
    monkeypatch.setattr(FakeCUDA, "kernels", shim)
    devices.install_fake(monkeypatch)
    for name in pointwise.OPS:
        op = core.ops.op.OPS[name]
        arrays = [drawn("float32", 3, 4, seed=k) for k in range(op.arity)]
        results = {}
        for device in ("cpu", "cuda"):
            shim.launched.clear()
            x, *others = (core.from_numpy(a.copy()).to(device) for a in arrays)
            y = op(x.requires_grad_(), *others, **PARAMS.get(name, {}))
            y.backward(core.ones(3, 4).to(device))
            results[device] = y.detach().cpu().numpy(), x.grad.cpu().numpy()
            ran_here = {of for of, _ in shim.launched}
            expected = (
                {f"pointwise.{r}<float32>" for r in (name, f"{name}.x") if r in ROWS} if device == "cuda" else set()
            )
            assert ran_here == expected, f"{name} on {device}: {ran_here}"
        for got, expected in zip(results["cuda"], results["cpu"]):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=name)
    shim.launched.clear()
    x = core.from_numpy(drawn("float32", 3, 4)).to("cuda")
    x.sigmoid_()
    np.testing.assert_allclose(x.cpu().numpy(), 1 / (1 + np.exp(-drawn("float32", 3, 4))), rtol=1e-5)
    assert [k for _, k in shim.launched] == ["flat"]


def test_layer_norm_is_one_launch(shim, monkeypatch):
    monkeypatch.setattr(FakeCUDA, "kernels", shim)
    devices.install_fake(monkeypatch)
    x, w, b = (drawn("float32", *s) for s in ((6, 40), (40,), (40,)))
    shim.launched.clear()
    y = F.layer_norm(*(core.from_numpy(a).to("cuda") if isinstance(a, np.ndarray) else a for a in (x, (40,), w, b)))
    assert [k for _, k in shim.launched] == ["row_norm"]
    expected = F.layer_norm(core.from_numpy(x), (40,), core.from_numpy(w), core.from_numpy(b))
    np.testing.assert_allclose(y.cpu().numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


# -- chains ------------------------------------------------------------------------------------------------------------

NEIGHBOURS = {  # a model, its input, and the kernels of forward and backward that are not products, copies or sums of rows
    "linear relu": (lambda: core.nn.Sequential(core.nn.Linear(8, 16), core.nn.ReLU()), (5, 8), ["add_relu", "relu.x"]),
    "linear gelu": (
        lambda: core.nn.Sequential(core.nn.Linear(8, 16), core.nn.GELU("tanh")), (5, 8), ["gelu_tanh", "gelu_tanh.x"],
    ),
    "conv relu": (lambda: core.nn.Sequential(core.nn.Conv2d(2, 3, 3), core.nn.ReLU()), (2, 2, 6, 6), ["add_relu", "relu.x"]),
    "conv gelu": (lambda: core.nn.Sequential(core.nn.Conv2d(2, 3, 3), core.nn.GELU()), (2, 2, 6, 6), ["add_gelu", "add_gelu.x"]),
    "conv gelu_tanh": (
        lambda: core.nn.Sequential(core.nn.Conv1d(2, 3, 3), core.nn.GELU("tanh")), (2, 2, 9), ["add_gelu_tanh", "add_gelu_tanh.x"],
    ),
    "residual": (lambda: Residual(), (2, 3, 6, 6), ["add_relu", "relu.x"]),
}  # fmt: skip


class Residual(core.nn.Module):
    """x and twice x, summed and rectified."""

    def __init__(self):
        super().__init__()
        self.relu, self.scale = core.nn.ReLU(inplace=True), core.nn.Parameter(core.tensor(2.0))

    def forward(self, x):
        return chains.add_relu(self.relu, x * self.scale, x)


def both(model, x, gpu, shim):
    """Values and gradients on both devices, and the pointwise kernels that ran."""
    found = []
    for device in ("cpu", gpu):
        net = model.to(device)
        t = core.from_numpy(x).to(device).requires_grad_()
        shim.launched.clear()
        y = net(t)
        y.sin().sum().backward()
        found.append([a.detach().cpu().numpy() for a in (y, t.grad, *(p.grad for p in net.parameters()))])
        net.zero_grad()
    for got, expected in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)
    return [of.removeprefix("pointwise.").partition("<")[0] for of, _ in shim.launched if of.startswith("pointwise")]


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours_are_one_kernel(gpu, shim, name):
    core.manual_seed(0)
    make, shape, expected = NEIGHBOURS[name]
    ran_ = [k for k in both(make(), drawn("float32", *shape), gpu, shim) if k not in ("add", "mul")]
    assert ran_ == expected


def test_hooks_see_every_layer(gpu, shim):
    """With a hook on it a layer is called by itself; so is one whose numbers would be others."""
    seen = []
    net = core.nn.Sequential(core.nn.Linear(8, 16), core.nn.ReLU(), core.nn.Linear(16, 4, bias=False), core.nn.ReLU())
    net[1].register_forward_hook(lambda module, args, y: seen.append(args[0].shape))
    ran_ = both(net, drawn("float32", 5, 8), gpu, shim)
    assert seen == [(5, 16)] * 2 and "add_relu" not in ran_
    with pytest.raises(Exception, match=r"expected input \(…, 8\) for weight \(16, 8\)"):
        core.nn.Sequential(core.nn.Linear(8, 16), core.nn.ReLU()).to(gpu)(core.ones(2, 3, device=gpu))


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_layer_drops_and_adds_in_one_kernel(gpu, shim, norm_first):
    """In lockstep mode it is the CPU's, mask for mask; without the fused kernels, too."""
    core.manual_seed(0)
    net = core.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True, norm_first=norm_first)
    x, found = drawn("float32", 2, 5, 8), []
    for device in ("cpu", gpu):
        net = net.to(device)
        t = core.from_numpy(x).to(device).requires_grad_()
        shim.launched.clear()
        with drawing_from(PhiloxGenerator(5, step=2)) as generator:
            y = net(t)
            y.sin().sum().backward()
        found.append([a.detach().cpu().numpy() for a in (y, t.grad, *(p.grad for p in net.parameters()))])
        assert generator.call == 4  # attention, behind it, inside and behind the feed-forward part
        net.zero_grad()
    for got, expected in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5)
    kernels = [k for _, k in shim.launched]
    assert kernels.count("dropout_add") == 2 and kernels.count("kept") == 2 and kernels.count("dropout_mask") == 2


def test_launches_of_a_graph_drop_anew_and_add(gpu):
    layer, x = core.nn.Dropout(0.5), core.ones(64, device=gpu)
    graphed = core.cuda.GraphedStep(lambda x: chains.residual(x, layer, x), x)
    drawn_ = [graphed(x).clone() for _ in range(3)]
    assert not any((a == b).all() for k, a in enumerate(drawn_) for b in drawn_[:k])
    assert all(set(a.tolist()) == {1.0, 3.0} for a in drawn_)


@pytest.mark.parametrize("rule", [core.optim.SGD, core.optim.AdamW])
def test_kernels_of_two_devices(gpu, monkeypatch, rule):
    """Every kernel is started where its arrays lie; what an optimizer reads of the scale comes to each device."""
    monkeypatch.setattr(Cuda, "count", 2)

    def trained(first, second):
        core.manual_seed(0)
        a = core.nn.Sequential(core.nn.Linear(8, 16), core.nn.ReLU(), core.nn.LayerNorm(16)).to(first)
        b = core.nn.Sequential(core.nn.Linear(16, 8), core.nn.GELU("tanh"), core.nn.Linear(8, 3)).to(second)
        optimizer = rule([*a.parameters(), *b.parameters()], lr=0.01)
        scaler, losses = core.amp.GradScaler(core.device(first).type, init_scale=8.0), []
        x, target = core.from_numpy(drawn("float32", 5, 8)).to(first), core.tensor([0, 1, 2, 0, 1]).to(second)
        for k in range(4):
            optimizer.zero_grad()
            loss = F.cross_entropy(b(a(x).to(second)), target)
            scaler.scale(loss).backward()
            if k == 2:
                a[0].weight.grad[0, 0] = math.inf
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        return [*losses, scaler.get_scale()]

    try:
        np.testing.assert_allclose(trained("cuda:1", "cuda:0"), trained("cpu", "cpu"), rtol=1e-4)
        assert core.cuda.current_device() == 0
    finally:
        guard.remove()


# -- random numbers ----------------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_dropout_has_the_bits_of_the_cpu(be, dtype, p):
    generator = PhiloxGenerator(1 << 40 | 77, step=3, shard=2)
    generator.call = 9
    keep = generator.uniform(1037, np.dtype(np.float64)) < 1 - p
    mask = be.dropout_mask((17, 61), np.dtype(DTYPES[dtype]), p, Draw(1 << 40 | 77, 3, 2, 9))
    assert mask.shape == (17, 61)
    np.testing.assert_array_equal(
        mask.host.reshape(-1), np.where(keep, 0 if p == 1 else 1 / (1 - p), 0).astype(DTYPES[dtype])
    )
    advanced = be.dropout_mask(
        (17, 61), np.dtype(DTYPES[dtype]), p, Draw(1 << 40 | 77, 1, 2, 9), Array(np.array(2, np.uint32))
    )
    np.testing.assert_array_equal(advanced.host, mask.host)


@each_dtype
def test_dropout_and_a_sum_are_one_launch(be, dtype):
    """What `dropout_mask`, its product and a sum make, and the gradient, of what was kept."""
    x, residual, g = (drawn(dtype, 17, 61, seed=k) for k in range(3))
    draw = Draw(1 << 40 | 77, 3, 2, 9)
    mask = be.dropout_mask(x.shape, np.dtype(DTYPES[dtype]), 0.3, draw)
    be.kernels.launched.clear()
    y, keep = be.dropout_add(*up(x, residual), 1 / 0.7, 0.3, draw, None)
    assert [k for _, k in be.kernels.launched] == ["dropout_add"] and keep.dtype == np.bool_
    np.testing.assert_array_equal(keep.host, mask.host != 0)
    close(y, wide(residual)[0] + wide(x)[0] * wide(mask.host)[0], dtype, 2)
    np.testing.assert_array_equal(be.kept(Array(g), keep, 1 / 0.7).host, (g * mask.host).astype(DTYPES[dtype]))
    later = be.dropout_add(*up(x, residual), 1 / 0.7, 0.3, draw._replace(step=1), Array(np.array(2, np.uint32)))
    np.testing.assert_array_equal(later[0].host, y.host)


# -- optimizers --------------------------------------------------------------------------------------------------------

SIZES = [(3,), (130, 129), (1,), (0,), *[(2, 2)] * 70]  # several launches, several pieces, one that is empty


def parameters(dtype, seed=0):
    return [drawn(dtype, *shape, seed=(seed + k)) for k, shape in enumerate(SIZES)]


def trained(cls, xs, gradients, **options):
    """What our optimizer makes of them on the CPU in float64, one array at a time."""
    ps = [core.from_numpy(x.astype(np.float64)).requires_grad_() for x in xs]
    optimizer = cls(ps, **options)
    for gs in gradients:
        for p, g in zip(ps, gs):
            p.grad = core.from_numpy(g.astype(np.float64))
        optimizer.step()
    return [p.detach().numpy() for p in ps]


SGD = [
    {},
    {"weight_decay": 0.1, "maximize": True},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
]


@each_dtype
@pytest.mark.parametrize("options", SGD)
def test_sgd(be, dtype, options):
    xs, gradients = parameters(dtype), [parameters(dtype, 100), parameters(dtype, 200)]
    expected = trained(core.optim.SGD, xs, gradients, lr=0.1, **options)
    device, buffers = up(*xs), up(*(np.full_like(x, np.nan) for x in xs))
    for k, gs in enumerate(gradients):
        be.sgd_(device, up(*gs), buffers, lr=0.1, fresh=k == 0, **options)
    for y, e in zip(device, expected):
        close(y, e, dtype, 4)
    assert len(be.kernels.launched) == 4  # 74 parameters: two launches a step


ADAM = [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}, {"tops": True, "maximize": True}]


@each_dtype
@pytest.mark.parametrize("options", ADAM)
@pytest.mark.parametrize("on_device", [False, True])
def test_adam(be, dtype, options, on_device):
    options = dict(options)
    tops = options.pop("tops", False)
    xs, gradients = parameters(dtype), [parameters(dtype, 100), parameters(dtype, 200)]
    cls = core.optim.AdamW if options.get("decoupled") else core.optim.Adam
    given = {k: v for k, v in options.items() if k != "decoupled"}
    expected = trained(cls, xs, gradients, lr=0.01, amsgrad=tops, **{"weight_decay": 0, **given})
    device, (ms, vs, most) = up(*xs), (up(*map(np.zeros_like, xs)) for _ in range(3))
    steps = up(*(np.zeros((), np.float32) for _ in xs)) if on_device else None
    control = optimizers.Control(lr=Array(np.array(0.01, np.float32))) if on_device else optimizers.Control()
    for k, gs in enumerate(gradients):
        be.adam_(
            device, up(*gs), ms, vs, most if tops else None, lr=math.nan if on_device else 0.01, betas=(0.9, 0.999), eps=1e-8,
            step=k + 1, steps=steps, control=control, **options,
        )  # fmt: skip
    for y, e in zip(device, expected):
        close(y, e, dtype, 4 if dtype != "float64" or not on_device else 1e6)  # a float32 learning rate
    assert steps is None or all(s.host == 2 for s in steps)


@each_dtype
def test_overflow_skips_the_step(be, dtype):
    xs, gs = parameters(dtype), parameters(dtype, 100)
    inverse, found = Array(np.array(0.5, np.float32)), Array(np.array(0, np.float32))
    device = up(*(g.copy() for g in gs))
    be.unscale_(device, inverse, found)
    for y, g in zip(device, gs):
        close(y, g.astype(np.float64) * 0.5, dtype)
    assert found.host == 0
    for bad in (np.inf, np.nan):
        gs[-1][1, 1] = bad
        found.host[...] = 0
        be.unscale_(up(*(g.copy() for g in gs)), inverse, found)
        assert found.host == 1
    device, buffers, steps = up(*(x.copy() for x in xs)), up(*xs), up(*(np.zeros((), np.float32) for _ in xs))
    control = optimizers.Control(found_inf=found)
    be.sgd_(device, up(*gs), buffers, lr=1.0, control=control)
    be.adam_(device, up(*gs), buffers, buffers, None, lr=1.0, betas=(0.9, 0.9), eps=1.0, steps=steps, control=control)
    for y, x, s in zip(device, xs, steps):
        np.testing.assert_array_equal(y.host, x)
        assert s.host == 0


DROPOUTS = [
    lambda x: F.dropout(x, 0.3),
    lambda x: F.dropout2d(x, 0.5),
    lambda x: F.alpha_dropout(x, 0.4, True),
    lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
]


@pytest.mark.parametrize("drop", DROPOUTS)
@pytest.mark.parametrize("kernels", [True, False])
def test_dropout_is_drawn_on_the_device(gpu, shim, monkeypatch, drop, kernels):
    """In lockstep mode with the bits of the CPU, else from the device's generator, which `manual_seed` starts over."""
    if not kernels:
        monkeypatch.setattr(FakeCUDA, "kernels", None)
    x = core.from_numpy(drawn("float32", 2, 3, 5, 4))
    results = []
    for device in ("cpu", gpu):
        with drawing_from(PhiloxGenerator(11, step=5, shard=2)) as generator:
            results.append([drop(x.to(device)).cpu().numpy() for _ in range(2)])
            assert generator.call == 2
    for y, e in zip(results[1], results[0]):
        np.testing.assert_allclose(y, e, rtol=1e-5, atol=1e-6)
    assert (results[0][0] != results[0][1]).any()
    assert ("dropout_mask" in {k for _, k in shim.launched}) == kernels
    x = x.to(gpu)
    core.manual_seed(3)
    first, second = drop(x), drop(x)
    state = core.cuda.get_rng_state()
    third = drop(x)
    core.cuda.manual_seed(3)
    assert (drop(x) == first).all() and not (first == second).all() and core.cuda.initial_seed() == 3
    core.cuda.set_rng_state(state)
    assert (drop(x) == third).all()
    host = core.get_rng_state()
    drop(x)
    assert (core.get_rng_state() == host).all(), "the host's stream goes on as if nothing had been drawn"


def test_launches_of_a_graph_draw_anew(gpu):
    """The k-th launch draws what step k of the generator would: with a launch a step, the numbers of lockstep mode."""
    x = core.ones(64, device=gpu)
    with drawing_from(PhiloxGenerator(7, step=10)):
        g = core.cuda.CUDAGraph()
        with core.cuda.graph(g):
            y, z = F.dropout(x), F.dropout(x)
    for step in (10, 11, 12):
        g.replay()
        with drawing_from(PhiloxGenerator(7, step=step)):
            assert (y == F.dropout(x)).all() and (z == F.dropout(x)).all()
    core.manual_seed(0)
    graphed = core.cuda.GraphedStep(lambda x: F.dropout(x), x)
    drawn_ = [graphed(x).clone() for _ in range(3)] + [F.dropout(x)]
    assert not any((a == b).all() for k, a in enumerate(drawn_) for b in drawn_[:k])


OPTIMIZERS = [
    (core.optim.SGD, {}),
    (core.optim.SGD, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    (core.optim.SGD, {"momentum": 0.9, "nesterov": True, "maximize": True}),
    (core.optim.Adam, {"weight_decay": 0.01}),
    (core.optim.Adam, {"amsgrad": True}),
    (core.optim.AdamW, {}),
]


def fitted(cls, options, device, steps=4, dtype=None):
    """A small model after some steps, and its optimizer; after half of them the state went through a dictionary."""
    core.manual_seed(0)
    model = core.nn.Sequential(core.nn.Linear(4, 8), core.nn.Tanh(), core.nn.Linear(8, 1)).to(device)
    optimizer = cls(model.parameters(), lr=0.05, **options)
    x = core.from_numpy(drawn("float32", 5, 4)).to(device)
    for k in range(steps):
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
        if k == steps // 2:
            state = optimizer.state_dict()
            optimizer = cls(model.parameters(), lr=0.05, **options)
            optimizer.load_state_dict(state)
    return [p.detach().cpu().numpy() for p in model.parameters()], optimizer


@pytest.mark.parametrize("cls, options", OPTIMIZERS)
def test_optimizers_step_all_parameters_at_once(gpu, shim, cls, options):
    expected, plain = fitted(cls, options, "cpu")
    shim.launched.clear()
    found, optimizer = fitted(cls, options, gpu)
    for y, e in zip(found, expected):
        np.testing.assert_allclose(y, e, rtol=2e-5, atol=1e-6)
    launched = [k for of, k in shim.launched if of.startswith("optimizers")]
    assert launched == (["sgd"] * 4 if cls is core.optim.SGD else ["count_steps", "adam"] * 4)
    states = zip(optimizer.state_dict()["state"].values(), plain.state_dict()["state"].values(), strict=True)
    for s, e in states:
        assert s.keys() == e.keys() and all(t.is_cuda for t in s.values())
        for name in s:
            np.testing.assert_allclose(s[name].cpu().numpy(), e[name].numpy(), rtol=2e-5, atol=1e-6)


def test_what_is_not_served_steps_as_everywhere(gpu, shim):
    class Mine(core.optim.SGD):
        def update(self, be, x_, g, state, group):
            x_ -= g

    for cls, options in ((Mine, {}), (core.optim.SGD, {"fused": False}), (core.optim.RMSprop, {})):
        found, _ = fitted(cls, options, gpu)
        for y, e in zip(found, fitted(cls, options, "cpu")[0]):
            np.testing.assert_allclose(y, e, rtol=1e-4, atol=1e-5)
    assert not any(of.startswith("optimizers") for of, _ in shim.launched)
    whole, turned = core.ones(2, 3, device=gpu), core.ones(3, 2, device=gpu).t()
    ps = [core.nn.Parameter(whole), core.nn.Parameter(turned)]
    for p in ps:
        p.grad = core.ones(2, 3, device=gpu)
    core.optim.SGD(ps, lr=core.tensor(0.5, device=gpu)).step()
    assert all((p == 0.5).all() for p in ps) and [k for _, k in shim.launched].count("sgd") == 1


def test_counts_on_the_host_are_not_captured(gpu):
    p = core.nn.Parameter(core.ones(3, device=gpu))
    for cls, works in ((core.optim.NAdam, False), (core.optim.Adam, True), (core.optim.SGD, True)):
        optimizer = cls([p], lr=0.1)

        def step(x, optimizer=optimizer):
            optimizer.zero_grad()
            (p * x).sum().backward()
            optimizer.step()

        if works:
            core.cuda.GraphedStep(step, core.ones(3, device=gpu))
        else:
            with pytest.raises(
                CoreError, match="NAdam: expected state on the GPU while a graph is captured, got counts on the host"
            ):
                core.cuda.GraphedStep(step, core.ones(3, device=gpu))


@pytest.mark.parametrize("cls", [core.optim.SGD, core.optim.AdamW])
def test_a_scaled_step_is_captured(gpu, cls):
    """Loss scale, verdict, step counts and learning rate live on the device, so launches of a graph train as eager steps do."""

    def made(device):
        core.manual_seed(1)
        model = core.nn.Linear(4, 3).to(device)
        lr = core.tensor(0.05, device=device)
        optimizer, scaler = (
            cls(model.parameters(), lr=lr),
            core.amp.GradScaler(device, init_scale=8.0, growth_interval=2),
        )

        def step(x):
            optimizer.zero_grad()
            loss = model(x).pow(2).mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            core.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            return loss

        return model, optimizer, scaler, step, lr

    batches = [drawn("float32", 5, 4, seed=k) for k in range(7)]
    batches[4][0, 0] = np.inf
    model, optimizer, scaler, step, lr = made("cpu")
    expected = []
    for k, b in enumerate([batches[0], *batches]):
        if k == 6:
            lr.fill_(0.01)
        with np.errstate(all="ignore"):  # the gradients of infinite inputs, clipped
            expected.append(step(core.from_numpy(b)).item())
    model_, optimizer_, scaler_, step_, lr_ = made(gpu)
    graphed = core.cuda.GraphedStep(step_, core.from_numpy(batches[0]).to(gpu), warm_up=1)
    found = [expected[0]]
    for k, b in enumerate(batches, 1):
        if k == 6:
            lr_.fill_(0.01)
        found.append(graphed(core.from_numpy(b)).item())
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert scaler_.get_scale() == scaler.get_scale() != 8.0
    assert scaler_.state_dict() == scaler.state_dict()
    for p, e in zip(model_.parameters(), model.parameters()):
        np.testing.assert_allclose(p.detach().cpu().numpy(), e.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_the_scale_on_the_device(gpu):
    """Its rule is that of the host."""
    p = core.nn.Parameter(core.ones(3, device=gpu))
    q = core.nn.Parameter(
        core.ones(2, 3, device=gpu).t()
    )  # no case of the kernels: the optimizer has to be told on the host
    optimizer = core.optim.SGD([p, q], lr=1.0)
    scaler = core.amp.GradScaler(gpu, init_scale=4.0, growth_interval=2)
    for bad, scale in ((False, 4.0), (False, 8.0), (True, 4.0), (False, 4.0)):
        before = p.detach().clone()
        scaler.scale((p * p).sum() + q.sum()).backward()
        if bad:
            q.grad[0, 0] = math.inf
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale and bool((p == before).all()) == bad
        optimizer.zero_grad()
    scaler.update(16.0)
    assert scaler.get_scale() == 16.0
    other = core.amp.GradScaler(gpu)
    other.load_state_dict(scaler.state_dict())
    assert other.scale(core.ones(1, device=gpu)).item() == 16.0


# -- the table ---------------------------------------------------------------------------------------------------------


def test_what_a_compiler_gets():
    assert len(set(INSTANCES)) == len(INSTANCES)
    for of in INSTANCES:
        assert names(of), f"{of} has no kernels"
        assert "#include" not in body(of)  # CuPy's cache knows a kernel by its text
    assert str(Instance("norms", "bfloat16", "float32")) == "norms<bfloat16, float32>"


def test_every_kernel_ran(shim, request):
    """What the tests above launched is every kernel with every type of elements."""
    if request.config.getoption("-k") or any("::" in a for a in request.config.args):
        pytest.skip("only some tests run")
    kernels = {(of.source, of.T, name) for of in INSTANCES for name in names(of)}
    assert kernels - {(of.source, of.T, name) for of, name in shim.ever} == set()


@pytest.mark.parametrize("name, number", [i for i in IDS if i[0] in """
    softmax softmax_grad log_softmax log_softmax_grad standardize rms_norm max_pool max_pool_grad max_pool_pick sum_pool sum_pool_grad
    lstm_layer gru_layer cross_entropy_rows F.cross_entropy embedding index_put gelu normal_cdf conv attention F.batch_norm F.layer_norm
    F.group_norm F.max_pool2d F.avg_pool2d F.embedding
""".split()])  # fmt: skip
def test_ops_and_their_gradients(shim, monkeypatch, name, number):
    """Rows of the op table whose kernels are ours, by the body that runs on every device."""
    monkeypatch.setattr(FakeCUDA, "kernels", shim)
    devices.install_fake(monkeypatch)
    assert OPS[name]
    test_ops.test_value(name, number, "cuda")
    test_ops.test_gradients(name, number, "cuda")
