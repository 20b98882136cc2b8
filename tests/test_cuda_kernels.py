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
from core.backend.base import Backend
from core.backend.cuda import channels, optimizers, pointwise, rows
from core.backend.cuda.kernels import FLOATS, INSTANCES, Instance, body, names
from core.backend.cuda.kernels.pointwise import ROWS
from core.backend.cuda.philox import Draw
from core.philox import PhiloxGenerator
from tests import devices, test_ops
from tests.cases import IDS
from tests.cases import ROWS as OPS
from tests.fake_cuda import Array, FakeCUDA
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
    loss, lse = be.cross_entropy(Array(x), Array(target), Array(w), -100)
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
    wrong = be.cross_entropy(Array(x), Array(np.full(6, 40)), None, -100)[0].host
    assert np.isnan(wrong).all()


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
        close(be.standardize(*up(x, ws, bs, *low), axes), ORACLE.standardize(*wide(x, ws, bs, *low), axes), dtype, 4)
        expected = ORACLE.standardize_grad(*wide(g, x, ws, bs, *low), axes)
        close(be.standardize_grad(*up(g, x, ws, bs, *low), axes), expected, dtype, 4)
    ran(be, "row_moments", "row_standardize", "row_norm_grad", "column_sums", "column_join")


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
}
CHAINS = {
    "erf": erf,
    "bias_gelu": lambda x, b: (x + b) * (1 + erf((x + b) / math.sqrt(2))) / 2,
    "bias_gelu_tanh": lambda x, b: (
        (x + b) / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * ((x + b) + 0.044715 * (x + b) ** 3)))
    ),
    "swiglu": lambda x, y: x / (1 + np.exp(-x)) * y,
    "dropout_add": lambda x, mask, y: x * mask + y,
    "affine": lambda x, w, b: x * w + b,
}


def reference(row, arrays):
    """What the op, or its gradient rule, gives in float64 on the CPU."""
    if row in CHAINS:
        return CHAINS[row](*arrays)
    name, _, gradient = row.partition(".")
    params = dict(PARAMS.get(name, {}), **({"approximate": "tanh"} if name == "gelu_tanh" else {}))
    op = core.ops.op.OPS[name.removesuffix("_tanh")]
    if not gradient:
        return op(core.from_numpy(arrays[0]), **params).numpy()
    g, v = arrays
    if "y" in ROWS[row].arrays:  # the rule reads the output: find the input
        v = {"sigmoid": lambda y: np.log(y / (1 - y)), "tanh": np.arctanh}.get(name, lambda y: y)(v)
        if name == "elu":
            p = params
            v = np.where(
                v > 0, v / p["scale"], np.log1p(np.minimum(v, 0) / (p["alpha"] * p["scale"])) / p["input_scale"]
            )
    x = core.from_numpy(v).requires_grad_()
    op(x, **params).backward(core.from_numpy(g))
    return x.grad.numpy()


def inputs(row, dtype, *shape):
    found = [drawn(dtype, *shape, seed=k) for k in range(len(ROWS[row].arrays.split()))]
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
    numbers = list(PARAMS.get(row.partition(".")[0], {}).values())
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
    x = drawn("float32", 3, 4)
    for key in be.fused:
        name, *gradient = key if isinstance(key, tuple) else (key,)
        op = core.ops.op.OPS[name]
        params = {**op.defaults, **PARAMS.get(name, {})}
        if not gradient:
            got, expected = be.fused[key](be, Array(x), **params), op.forward(ORACLE, x.astype(float), **params)
        else:
            plan = op.plan(1)
            ((_, rule, _),) = plan.rules
            needs = list(inspect.signature(rule).parameters)[2:]
            out = op.forward(ORACLE, x.astype(float), **params)
            values = {"x": x.astype(float), "out": out, **params}
            expected = rule(core.ops.op.Raw.of(ORACLE), np.ones_like(x, float), *(values[n] for n in needs))
            low = {n: Array(v.astype(np.float32)) if isinstance(v, np.ndarray) else v for n, v in values.items()}
            got = be.fused[key](core.ops.op.Raw.of(be), Array(np.ones_like(x)), *(low[n] for n in needs))
        close(got, expected, "float32", 4)


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
    embedding index_put gelu normal_cdf conv attention F.batch_norm F.layer_norm F.group_norm F.max_pool2d F.avg_pool2d F.embedding
""".split()])  # fmt: skip
def test_ops_and_their_gradients(shim, monkeypatch, name, number):
    """Rows of the op table whose kernels are ours, by the body that runs on every device."""
    monkeypatch.setattr(FakeCUDA, "kernels", shim)
    devices.install_fake(monkeypatch)
    assert OPS[name]
    test_ops.test_value(name, number, "cuda")
    test_ops.test_gradients(name, number, "cuda")
