"""oneDNN's kernels against the plain backend, and how the library is found, cached, owned and shared between threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

import core
import core.nn as nn
import core.nn.functional as F
from core.backend import threads
from core.backend.base import Backend, conv_out_shape
from core.backend.cpu import CPUBackend, description
from core.backend.onednn import columns, convolution, images, kernels, library, primitives, stack, winograd
from core.errors import ArgumentError

needs_library = pytest.mark.skipif(library.get() is None, reason=f"no oneDNN here: {library.reason()}")
ROOT = Path(__file__).parent.parent


class Plain(Backend):
    """The oracle."""

    device_type = "cpu"
    array_type = np.ndarray
    xp = np


PLAIN, CPU = Plain(), CPUBackend()
TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(bfloat16): 2e-2}  # of the greatest magnitude in the result


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def close(found: Any, expected: Any, tolerance: float) -> None:
    found, expected = ((a if isinstance(a, tuple) else (a,)) for a in (found, expected))
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        f, e = f.astype(np.float64), e.astype(np.float64)
        np.testing.assert_allclose(f, e, rtol=0, atol=tolerance * max(1.0, np.abs(e).max(initial=0)))


# -- ways an array can lie -----------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "packed": np.ascontiguousarray,
    "transposed": np.asfortranarray,
    "channels_last": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "swapped": lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "every_second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "overlapping": lambda x: np.lib.stride_tricks.as_strided(x, x.shape, (*x.strides[:-2], x.itemsize, x.itemsize)),
    "window": lambda x: np.pad(x, [(1, 2)] * x.ndim)[tuple(slice(1, 1 + n) for n in x.shape)],
}


def repeated(x: np.ndarray) -> np.ndarray:
    """Zero strides, as the gradient of a sum has."""
    return np.broadcast_to(x[:1], x.shape)


# -- the table -----------------------------------------------------------------------------------------------------------
# a row: the kernel of the backends, its arrays, its parameters. Both backends get the same.

Row = tuple[str, tuple[np.ndarray, ...], tuple[Any, ...]]


def conv_rows() -> Iterator[tuple[str, Row]]:
    geometries = [
        # x, w, stride, padding, dilation, groups
        ((2, 3, 9, 8), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
        ((1, 1, 7, 7), (1, 1, 7, 7), (1, 1), (0, 0), (1, 1), 1),
        ((3, 8, 17, 15), (16, 4, 3, 2), (2, 3), (1, 0), (2, 1), 2),
        ((2, 32, 8, 8), (32, 1, 3, 3), (1, 1), (1, 1), (1, 1), 32),
        ((2, 17, 6, 6), (33, 17, 1, 1), (2, 2), (0, 0), (1, 1), 1),
        ((4, 1, 12, 12), (16, 1, 5, 5), (1, 1), (2, 2), (1, 1), 1),
        ((2, 5, 21), (7, 5, 4), (3,), (2,), (2,), 1),
        ((5, 6, 4, 3), (9, 6, 4, 3), (2, 1), (0, 0), (1, 1), 1),
        ((2, 4, 5, 6, 7), (6, 2, 2, 3, 3), (1, 2, 1), (1, 1, 0), (1, 1, 2), 2),
        ((3, 64, 6, 6), (32, 64, 4, 4), (2, 2), (1, 1), (1, 1), 1),  # filters share lines of the cache
        ((2, 1024, 3, 2), (16, 1024, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    ]
    for x, w, *rest, groups in geometries:
        stride, padding, dilation = rest
        out = conv_out_shape(x[2:], w[2:], stride, padding, dilation)
        places = (stride, padding, dilation, groups)
        name, g = "x".join(map(str, x)), drawn(x[0], w[0], *out)
        yield f"conv-{name}", ("conv", (drawn(*x), drawn(*w), drawn(w[0])), places)
        yield f"conv_relu-{name}", ("conv_relu", (drawn(*x), drawn(*w), drawn(w[0])), places)
        yield f"conv_input_grad-{name}", ("conv_input_grad", (g, drawn(*w)), (x, *places))
        yield f"conv_weight_grad-{name}", ("conv_weight_grad", (g, drawn(*x)), (w, *places))


def pool_rows() -> Iterator[tuple[str, Row]]:
    geometries = [
        # x, k, stride, padding, dilation, columns beyond the last whole window (ceil_mode)
        ((2, 3, 8, 8), (2, 2), (2, 2), (0, 0), (1, 1), 0),
        ((1, 5, 9, 11), (3, 3), (2, 1), (1, 1), (1, 1), 0),
        ((2, 2, 14), (4,), (3,), (2,), (1,), 1),
        ((2, 17, 10, 9), (3, 2), (1, 2), (0, 1), (2, 3), 0),
        ((1, 2, 6, 5, 7), (2, 2, 3), (2, 2, 2), (0, 1, 1), (1, 1, 1), 0),
        ((3, 2, 6, 5, 7), (2, 2, 3), (2, 2, 3), (0, 0, 0), (1, 1, 1), 0),
        ((1, 1, 20, 20), (17, 17), (1, 1), (0, 0), (1, 1), 0),  # more offsets than a byte can number
        ((7, 6, 64, 90), (2, 3), (2, 3), (0, 0), (1, 1), 0),  # some samples at a time
    ]
    for x, k, stride, padding, dilation, beyond in geometries:
        out = tuple(n + beyond for n in conv_out_shape(x[2:], k, stride, padding, dilation))
        name, g = "x".join(map(str, x)), drawn(*x[:2], *out)
        a = drawn(*x)
        yield f"max_pool-{name}", ("max_pool", (a,), (k, out, stride, padding, dilation))
        won = PLAIN.max_pool(a, k, out, stride, padding, dilation)[1]
        yield f"max_pool_grad-{name}", ("max_pool_grad", (g, won), (x, k, stride, padding, dilation))
        if dilation == (1,) * len(k):
            yield f"sum_pool-{name}", ("sum_pool", (a,), (k, out, stride, padding))
            yield f"sum_pool_grad-{name}", ("sum_pool_grad", (g,), (x, k, stride, padding))


def product_rows() -> Iterator[tuple[str, Row]]:
    for x, y in [
        ((64, 129), (129, 131)), ((1, 1024), (1024, 1025)), ((1025, 1), (1, 1027)), ((3, 5, 64, 33), (3, 5, 33, 70)),
        ((2, 3, 90, 80), (2, 3, 80, 100)),
        ((3, 1, 90, 80), (2, 80, 100)), ((9, 64, 65), (65, 40)), ((150, 90), (4, 90, 50)), ((4, 6), (6, 5)),
    ]:  # fmt: skip
        yield f"matmul-{'x'.join(map(str, x))}", ("matmul", (drawn(*x), drawn(*y)), ())
    for x, w in [((64, 129), (131, 129)), ((4, 33, 65), (200, 65)), ((2, 3), (4, 3)), ((65,), (7, 65))]:
        yield f"linear-{'x'.join(map(str, x))}", ("linear", (drawn(*x), drawn(*w), drawn(w[0])), ())


def row_rows() -> Iterator[tuple[str, Row]]:
    for shape, dim in [
        ((65, 67), 1),
        ((3, 5, 300), 2),
        ((70, 66), 0),
        ((1, 5000), 1),
        ((5000, 1), 1),
        ((4096,), 0),
        ((2, 3), 1),
    ]:
        name = "x".join(map(str, shape))
        y = PLAIN.softmax(drawn(*shape), dim)
        yield f"softmax-{name}", ("softmax", (drawn(*shape) * 5,), (dim,))
        yield f"softmax_grad-{name}", ("softmax_grad", (drawn(*shape, seed=1), y), (dim,))
    for shape, axes, affine in [
        ((65, 129), (1,), (129,)), ((3, 50, 70), (2,), (70,)), ((9, 1000), (1,), (1000,)), ((2, 3), (1,), (3,)),
        ((4, 6, 9, 7), (0, 2, 3), (1, 6, 1, 1)), ((2, 3, 41), (0, 2), (1, 3, 1)), ((300, 40), (0,), (40,)),
        ((3, 5, 2, 2), (0, 2, 3), (1, 5, 1, 1)), ((4, 24, 9, 7), (0, 2, 3), (1, 24, 1, 1)),
    ]:  # fmt: skip
        x, w, b, g = drawn(*shape) + 3, drawn(*affine), drawn(*affine, seed=1), drawn(*shape, seed=1)
        mean, var = PLAIN.moments(x, axes)
        rstd = 1 / np.sqrt(var + np.float32(1e-5))
        name = "x".join(map(str, shape))
        yield f"moments-{name}", ("moments", (x,), (axes,))
        yield f"normalize-{name}", ("normalize", (x, w, b), (axes, 1e-5))
        yield f"standardize-{name}", ("standardize", (x, w, b), (mean, rstd, axes))
        yield f"standardize_grad-{name}", ("standardize_grad", (g, x, w, b), (mean, rstd, axes))


def element_rows() -> Iterator[tuple[str, Row]]:
    for shape in [(5, 24, 13, 17), (4, 3, 40, 50), (20000,)]:
        name, x, y = "x".join(map(str, shape)), drawn(*shape), drawn(*shape, seed=1)
        yield f"relu-{name}", ("relu", (x,), ())
        if len(shape) > 1:
            yield f"sum_channels-{name}", ("sum_channels", (x,), ())
        yield f"relu_grad-{name}", ("relu_grad", (y, np.maximum(x, 0)), ())
        yield f"add-{name}", ("add", (x, y), ())


def large_weight_rows() -> Iterator[tuple[str, Row]]:
    """Weights from which on their gradient is a product of columns, or one in which samples and channels change roles."""
    for x, w, places in [
        ((2, 300, 5, 4), (420, 300, 3, 3), ((2, 1), (1, 0), (1, 1), 1)),
        ((1, 1100, 9), (1000, 1100, 1), ((1,), (2,), (1,), 1)),
        ((3, 90, 7, 7), (700, 90, 3, 6), ((1, 1), (2, 3), (3, 1), 1)),
        ((8, 200, 5, 5), (160, 200, 3, 3), ((2, 2), (1, 1), (1, 1), 1)),
        ((9, 1030, 4, 3), (260, 1030, 1, 1), ((2, 1), (0, 0), (1, 1), 1)),
    ]:
        out = conv_out_shape(x[2:], w[2:], *places[:3])
        g = drawn(x[0], w[0], *out)
        yield f"conv_weight_grad-large-{'x'.join(map(str, w))}", ("conv_weight_grad", (g, drawn(*x)), (w, *places))


WINOGRAD = [
    # x, w, padding
    ((3, 80, 23, 20), (96, 80, 3, 3), (1, 1)),  # tiles reach beyond the image
    ((2, 96, 18, 24), (112, 96, 3, 3), (0, 2)),
    ((40, 64, 12, 12), (64, 64, 3, 3), (1, 1)),  # samples in pieces
    ((12, 320, 8, 8), (256, 320, 3, 3), (1, 0)),  # filters in blocks
]


def winograd_rows() -> Iterator[tuple[str, Row]]:
    one = (1, 1)
    for x, w, padding in WINOGRAD:
        places = (one, padding, one, 1)
        g = drawn(x[0], w[0], *conv_out_shape(x[2:], w[2:], *places[:3]))
        name = "winograd-" + "x".join(map(str, x))
        yield f"conv-{name}", ("conv", (drawn(*x), drawn(*w), drawn(w[0])), places)
        yield f"conv_relu-{name}", ("conv_relu", (drawn(*x), drawn(*w), drawn(w[0])), places)
        yield f"conv_input_grad-{name}", ("conv_input_grad", (g, drawn(*w)), (x, *places))
        yield f"conv_weight_grad-{name}", ("conv_weight_grad", (g, drawn(*x)), (w, *places))


COLUMNS = [
    # x, w, stride, padding; several columns of the result as one
    ((8, 3, 28, 28), (6, 3, 5, 5), (1, 1), (2, 2)),  # two
    ((20, 6, 14, 13), (5, 6, 5, 5), (1, 1), (0, 0)),  # three
    ((80, 4, 12, 30), (2, 4, 3, 4), (2, 2), (1, 1)),  # five
    ((150, 7, 101), (3, 7, 4), (1,), (3,)),
]


def blocks_rows() -> Iterator[tuple[str, Row]]:
    """Gradients for few channels where strides are greater than 1; of the last, places meet no output."""
    for x, w, stride, padding in [
        ((4, 3, 32, 32), (32, 3, 4, 4), (2, 2), (1, 1)),
        ((9, 2, 40, 25), (30, 2, 4, 6), (2, 3), (0, 2)),
        ((25, 4, 101), (61, 4, 6), (3,), (1,)),
        ((25, 4, 103), (61, 4, 6), (3,), (1,)),
    ]:
        g = drawn(x[0], w[0], *conv_out_shape(x[2:], w[2:], stride, padding, (1,) * len(stride)))
        name = "blocks-" + "x".join(map(str, x))
        yield (
            f"conv_input_grad-{name}",
            ("conv_input_grad", (g, drawn(*w)), (x, stride, padding, (1,) * len(stride), 1)),
        )


def columns_rows() -> Iterator[tuple[str, Row]]:
    for x, w, stride, padding in COLUMNS:
        places = (stride, padding, (1,) * len(stride), 1)
        g = drawn(x[0], w[0], *conv_out_shape(x[2:], w[2:], *places[:3]))
        turned = drawn(w[1], w[0], *w[2:])  # of an x of few channels
        name = "columns-" + "x".join(map(str, x))
        for kernel in ("conv", "conv_relu"):
            yield f"{kernel}-{name}", (kernel, (drawn(*x), drawn(*w), drawn(w[0])), places)
        yield f"conv_weight_grad-{name}", ("conv_weight_grad", (g, drawn(*x)), (w, *places))
        if set(stride) == {1}:
            size = (o + k - 1 - 2 * p for o, k, p in zip(x[2:], w[2:], padding))
            yield f"conv_input_grad-{name}", ("conv_input_grad", (drawn(*x), turned), ((x[0], w[0], *size), *places))


ROWS: dict[str, Row] = {
    name: row
    for rows in (
        blocks_rows,
        columns_rows,
        winograd_rows,
        conv_rows,
        pool_rows,
        product_rows,
        row_rows,
        element_rows,
        large_weight_rows,
    )
    for name, row in rows()
}


@pytest.mark.parametrize("name", ROWS)
def test_same_numbers_as_the_plain_backend(name: str) -> None:
    kernel, arrays, params = ROWS[name]
    close(getattr(CPU, kernel)(*arrays, *params), getattr(PLAIN, kernel)(*arrays, *params), 2e-5)


@pytest.mark.parametrize("layout", [*LAYOUTS, "repeated"])
def test_arrays_may_lie_as_they_like(layout: str) -> None:
    lay = LAYOUTS.get(layout, repeated)
    for name in [n for n, (_, arrays, _) in ROWS.items() if arrays[0].ndim > 1][::2]:
        kernel, arrays, params = ROWS[name]
        laid = [lay(a) if a.ndim > 1 else a for a in arrays]
        kept = [a.copy() for a in laid]
        found = getattr(CPU, kernel)(*laid, *params)
        close(found, getattr(PLAIN, kernel)(*kept, *params), 2e-5)
        for a, k in zip(laid, kept):
            np.testing.assert_array_equal(a, k, err_msg=f"{name} changed its argument")


# what oneDNN leaves to the plain kernels is not its business: moments are float32 in any case, softmax along dimension 0 is NumPy's
_OTHERS = ("max_pool", "standardize", "moments", "normalize")
HALF = [n for n in ROWS if not n.startswith(_OTHERS) and not n.endswith("70x66")]


@needs_library
@pytest.mark.parametrize("name", HALF)
def test_bfloat16(name: str) -> None:
    """Against float32 on the rounded arrays: oneDNN accumulates in float32."""
    kernel, arrays, params = ROWS[name]
    half = [a.astype(bfloat16) for a in arrays]
    found = getattr(CPU, kernel)(*half, *params)
    if kernel in ("matmul", "conv", "linear") and arrays[0].ndim > 1:
        assert found.dtype == bfloat16
    close(found, getattr(PLAIN, kernel)(*[a.astype(np.float32) for a in half], *params), TOLERANCE[np.dtype(bfloat16)])


@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_none_and_one(n: int) -> None:
    one, two, none = (1, 1), (2, 2), (0, 0)
    x, w = drawn(n, 3, 6, 6), drawn(4, 3, 3, 3)
    for be in (CPU, PLAIN):
        assert be.matmul(drawn(n, 5), drawn(5, 2)).shape == (n, 2)
        assert be.linear(drawn(n, 5), drawn(2, 5), drawn(2)).shape == (n, 2)
        assert be.conv(x, w, None, one, none, one, 1).shape == (n, 4, 4, 4)
        assert be.max_pool(x, two, (3, 3), two, none, one)[0].shape == (n, 3, 3, 3)
        assert be.sum_pool(x, two, (3, 3), two, none).shape == (n, 3, 3, 3)
    np.testing.assert_array_equal(CPU.matmul(drawn(3, 0), drawn(0, 2)), np.zeros((3, 2)))


def test_other_dtypes_are_the_plain_backends() -> None:
    for dtype, rtol in (
        (np.float64, 1e-12),
        (np.int64, 0),
    ):  # with another number of threads BLAS adds in another order
        x, y = drawn(130, 140).astype(dtype), drawn(140, 150).astype(dtype)
        np.testing.assert_allclose(CPU.matmul(x, y), x @ y, rtol=rtol, atol=rtol)


@needs_library
def test_blas_has_one_thread_beside_openmp() -> None:
    """… and all of them for a large product that is its own."""
    code = (
        "import numpy as np; from core.backend import base, get, threads; be = get('cpu'); threads.set_num_threads(2);"
        "count = threads._openblas('get_num_threads'); plain = base.Backend.matmul;"
        "base.Backend.matmul = lambda self, *given: (print(count(), end=' '), plain(self, *given))[1];"
        "[be.matmul(a, a) for a in (np.ones((2, 4, 4)), np.ones((200, 200)))]; print(count(), threads.get_num_threads())"
    )
    if threads._openblas("get_num_threads") is None:
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["1", "2", "1", "2"]


def test_values_that_are_not_finite() -> None:
    x = drawn(2, 3, 40, 40)
    x[0, 0, 0, 0], x[1, 1, 3, 3], x[1, 2] = np.nan, np.inf, -np.inf
    geometry = ((2, 2), (20, 20), (2, 2), (0, 0), (1, 1))
    for found, expected in zip(CPU.max_pool(x, *geometry), PLAIN.max_pool(x, *geometry)):
        np.testing.assert_array_equal(found, expected)
    w, places = drawn(4, 3, 3, 3), ((1, 1), (1, 1), (1, 1), 1)
    huge = np.full((1, 16, 4, 4), 3e38, np.float32)  # ∞ − ∞ within a sum
    signs = np.ones((16, 16, 3, 3), np.float32) * np.float32([1, -1] * 8)[:, None, None]
    with np.errstate(invalid="ignore", over="ignore"):
        y = CPU.conv_relu(x, w, drawn(4), *places)
        np.testing.assert_array_equal(
            CPU.conv_relu(huge, signs, None, *places), CPU.relu(CPU.conv(huge, signs, None, *places))
        )
    assert np.isnan(y[0, :, 0, 0]).all() and np.isfinite(y[0, :, 3:]).all()
    x, w, places = drawn(64, 1, 28, 28), drawn(6, 1, 5, 5), ((1, 1), (2, 2), (1, 1), 1)
    assert columns.together(64, w.shape, (28, 28), (1, 1)) > 1
    x[3, 0, 10, 10] = np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(*(np.isfinite(be.conv(x, w, None, *places)) for be in (CPU, PLAIN)))
    masked = np.where(np.tri(80, dtype=bool), drawn(80, 80), np.float32(-np.inf))
    close(CPU.softmax(masked, 1), PLAIN.softmax(masked, 1), 1e-6)
    masked[3, 1] = np.nan
    assert np.isnan(CPU.softmax(masked, 1)[3]).all()


@needs_library
def test_where_the_stack_stands_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    g, x = (np.random.default_rng(k).standard_normal(1 << 14).astype(np.float32) for k in range(2))
    ask, zeros = stack._calibrated()
    found = []
    for more in ((), zeros):
        monkeypatch.setattr(stack, "correction", lambda more=more: more)
        found.append(kernels.gelu_grad(g, x, "none"))
    assert np.array_equal(*found)
    monkeypatch.undo()
    if ask is not None:  # the arguments move the stack by an odd multiple of 16
        longer = stack.shifted(ask)
        stood = []
        for f, more in ((ask, ()), (longer, zeros)):
            f(stack._mine.address, None, 0, None, *more)
            stood.append(stack._mine.pointer.value % 32)
        assert sorted(stood) == [0, 16]
        assert bool(stack.correction()) == bool(stood[0])


@needs_library
def test_winograd() -> None:
    """Where it pays, by the switch, and how far it is from the sum in float64: see the module."""
    kept = core.backends.mkldnn.flags(winograd=False)
    for x_shape, w_shape, padding in WINOGRAD:
        assert winograd.pays(x_shape, w_shape, padding)
    for x_shape, w_shape, padding in [
        ((16, 64, 32, 32), (64, 64, 5, 5), (2, 2)), ((1, 512, 4, 4), (512, 512, 3, 3), (1, 1)),
        ((16, 64, 2, 2), (64, 64, 1, 1), (0, 0)),
    ]:  # fmt: skip
        assert not winograd.pays(x_shape, w_shape, padding)
        assert not winograd.pays_for_weight_grad(x_shape, w_shape, padding)
    few_places = ((16, 512, 4, 4), (512, 512, 3, 3), (1, 1))
    assert winograd.pays_for_weight_grad(*few_places) and not winograd.pays(*few_places)
    x, w, places = drawn(6, 128, 16, 16), drawn(64, 128, 3, 3), ((1, 1), (1, 1), (1, 1), 1)
    g = drawn(6, 64, 16, 16)
    for kernel, arrays, params in [
        ("conv", (x, w, None), places),
        ("conv_input_grad", (g, w), (x.shape, *places)),
        ("conv_weight_grad", (g, x), (w.shape, *places)),
    ]:
        exact = getattr(PLAIN, kernel)(*(a if a is None else a.astype(np.float64) for a in arrays), *params)
        found = getattr(CPU, kernel)(*arrays, *params)
        with kept:
            direct = getattr(CPU, kernel)(*arrays, *params)
        assert 0 < np.abs(found - direct).max()
        for y, bound in (found, 2e-6), (direct, 1e-6):
            assert np.square(y - exact).mean() ** 0.5 < bound * exact.std()


@needs_library
@pytest.mark.parametrize("name", [n for n in ROWS if "winograd-" in n or "columns-" in n or "blocks-" in n])
def test_the_faster_way_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """… and not the general one instead, which would have the same numbers."""
    primitives.clear()
    monkeypatch.setattr(convolution, "_either", None)
    kernel, arrays, params = ROWS[name]
    getattr(CPU, kernel)(*map(LAYOUTS["channels_last"], arrays[:2]), *arrays[2:], *params)
    primitives.clear()


@needs_library
def test_filters_apart() -> None:
    """A copy where they share lines of the cache, and only there."""
    w = drawn(32, 64, 4, 4)
    y = convolution._apart(w)
    assert y.strides[0] % 4096 and not np.shares_memory(w, y)
    np.testing.assert_array_equal(w, y)
    for w in drawn(32, 65, 4, 4), drawn(8, 64, 4, 4), drawn(32, 64, 4, 4).astype(bfloat16):
        assert convolution._apart(w) is w


@needs_library
def test_columns_together() -> None:
    """How many, and that there are none where it does not pay."""
    found = []
    for x, w, stride, padding in COLUMNS:
        out = conv_out_shape(x[2:], w[2:], stride, padding, (1,) * len(stride))
        found.append(columns.together(x[0], w, out, stride))
    assert found == [2, 3, 5, 4]
    for n, w, out, stride in [
        (64, (9, 3, 5, 5), (28, 28), (1, 1)), (64, (8, 3, 5, 5), (28, 27), (1, 1)), (64, (8, 3, 1, 1), (28, 28), (1, 1)),
        (64, (8, 3, 3, 3), (28, 28), (2, 2)), (1, (6, 1, 5, 5), (28, 28), (1, 1)),
        (9, (4, 5, 3, 3, 3), (9, 10, 16), (1, 1, 1)),
    ]:  # fmt: skip
        assert columns.together(n, w, out, stride) == 1


@needs_library
def test_a_channels_last_image_stays_so() -> None:
    x = LAYOUTS["channels_last"](drawn(2, 8, 6, 6))
    y = CPU.conv(x, drawn(4, 8, 3, 3), None, (1, 1), (1, 1), (1, 1), 1)
    assert y.shape == (2, 4, 6, 6) and y.transpose(0, 2, 3, 1).flags.c_contiguous
    x = LAYOUTS["channels_last"](drawn(2, 24, 20, 20))
    y = CPU.conv(x, drawn(32, 24, 3, 3), None, (1, 1), (1, 1), (1, 1), 1)
    mean, var = CPU.moments(y, (0, 2, 3))
    w, b = drawn(1, 32, 1, 1), drawn(1, 32, 1, 1)
    z = CPU.standardize(y, w, b, mean, var, (0, 2, 3))
    pooled = CPU.max_pool(z, (2, 2), (10, 10), (2, 2), (0, 0), (1, 1))
    added, dx = CPU.add(y, z), CPU.standardize_grad(np.ascontiguousarray(z), y, w, b, mean, var, (0, 2, 3))[0]
    for a in (y, z, *pooled, added, CPU.relu(z), CPU.relu_grad(z, y), dx):
        assert images.lies_channels_last(a)
    np.testing.assert_array_equal(CPU.in_c_order(y), np.ascontiguousarray(y))
    assert CPU.in_c_order(y).flags.c_contiguous


def test_nobody_sees_the_order_in_memory() -> None:
    """Results that lie channels-last between layers look and behave as if they lay in C order."""
    core.manual_seed(0)
    x, w = core.randn(2, 16, 9, 8, requires_grad=True), core.randn(24, 16, 3, 3, requires_grad=True)
    norm, seen = nn.BatchNorm2d(24), []

    def layers(conv: Callable[..., Any]) -> Any:
        y = conv(x, w)
        z = F.relu(norm(y), inplace=True) + y
        z.register_hook(lambda g: seen.append((g.stride(), g.view(2, -1).sum().item())))
        return F.max_pool2d(z, 2)

    y = layers(lambda x, w: F.conv2d(x, w, padding=1))
    if library.get() is not None:
        assert y._inside is not None, "nothing is kept channels-last"
    assert y.shape == (2, 24, 4, 4) and y.dim() == 4 and y.dtype == core.float32
    g = core.autograd.grad(y.square().sum(), x, retain_graph=True)[0]
    y.square().sum().backward()
    for t in (y, y.detach(), g, x.grad, w.grad):
        assert t.is_contiguous() and t.stride() == core.empty(t.shape).stride()
        assert t.detach().numpy().flags.c_contiguous
    assert y.view(2, -1)[1, 17].item() == y[1, 1, 0, 1].item()
    assert core.equal(g, x.grad)

    expected = layers(
        lambda x, w: (F.unfold(x, 3, padding=1).transpose(1, 2) @ w.view(24, -1).t()).mT.reshape(2, 24, 9, 8)
    )
    assert core.allclose(y, expected, atol=1e-4)
    (e,) = core.autograd.grad(expected.square().sum(), x)
    assert core.allclose(g, e, atol=1e-2) and g.abs().max() > 10
    assert seen[0][0] == seen[-1][0] == (24 * 72, 72, 8, 1) and seen[0][1] == pytest.approx(seen[-1][1], abs=1e-1)


def test_gradients_of_gradients_of_images() -> None:
    """A gradient penalty: the same in float32, channels-last, and in float64, which NumPy computes in C order."""

    def penalty(dtype: Any) -> list[Any]:
        core.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(16, 24, 3, padding=1), nn.Softplus(), nn.BatchNorm2d(24), nn.ConvTranspose2d(24, 32, 2, 2), nn.ReLU(),
            nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(32, 1, 1),
        ).to(dtype)  # fmt: skip
        x = core.randn(3, 16, 8, 8).to(dtype).requires_grad_()
        (g,) = core.autograd.grad(net(x).square().sum(), x, create_graph=True)
        assert g.is_contiguous()
        (g.view(3, -1).norm(2, dim=1) - 1).square().mean().backward()
        return [g.detach(), x.grad, *(p.grad for p in net.parameters())]

    for found, expected in zip(penalty(core.float32), penalty(core.float64)):
        assert (found is None) == (expected is None)
        if found is not None:
            assert found.is_contiguous()
            assert (found.double() - expected).norm() <= 1e-4 * expected.norm() + 1e-5


def test_writes_to_what_lies_channels_last() -> None:
    x, w = core.randn(2, 16, 6, 6), core.randn(20, 16, 3, 3)
    y = F.conv2d(x, w)
    z, before = F.conv2d(x, w), y.clone()
    y += 1
    y.mul_(2).clamp_(min=0)
    assert core.equal(y, ((before + 1) * 2).clamp(min=0))
    z[0, 3] = 7.0
    assert (z[0, 3] == 7).all() and core.equal(z[1], before[1])
    y = F.conv2d(x, w)
    y.data = core.zeros_like(y)
    assert y._inside is None and not F.relu(y + 0).any()
    flat = before.view(-1)
    before.zero_()
    assert not flat.any()


@needs_library
@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
@pytest.mark.parametrize("shape", [(4, 24, 9, 7), (300, 40), (3, 17, 41)], ids=lambda shape: f"{len(shape)}d")
def test_batch_normalisation_and_the_rectifier_are_one(shape: Any, dtype: Any) -> None:
    """The bits are those of the two apart; the gradient drops what meets nothing positive, were it ∞ or NaN."""
    lay, axes, one = LAYOUTS["channels_last"], (0, *range(2, len(shape))), (1, shape[1], *(1,) * (len(shape) - 2))
    x, g = (lay(drawn(*shape, seed=s)).astype(dtype) for s in range(2))
    w, b = drawn(*one), drawn(*one, seed=1)
    y, mean, var, kept = CPU.normalize_relu(x, w, b, axes, 1e-5)
    z, *moments = CPU.normalize(x, w, b, axes, 1e-5)
    assert kept.size and y.dtype == dtype and 0 < np.count_nonzero(y) < y.size
    g[y == 0] = np.resize(np.array([np.nan, np.inf, 1], dtype), np.count_nonzero(y == 0))
    rstd = 1 / np.sqrt(var + np.float32(1e-5))
    together = CPU.normalize_relu_grad(g, x, w, b, y, mean, rstd, kept, axes)
    apart = CPU.standardize_grad(CPU.relu_grad(g, y), x, w, b, mean, rstd, axes)
    for found, expected in zip((y, mean, var, *together), (CPU.relu(z), *moments, *apart), strict=True):
        assert np.isfinite(expected.astype(np.float32)).all()
        np.testing.assert_array_equal(found, expected)


@needs_library
@pytest.mark.parametrize("given", range(3), ids=["x", "w", "b"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_batch_normalisation_and_the_rectifier_keep_nan(given: int, value: float) -> None:
    arrays = [LAYOUTS["channels_last"](drawn(4, 24, 9, 7)), drawn(1, 24, 1, 1), drawn(1, 24, 1, 1, seed=1)]
    arrays[given][0, 3, 0, 0] = value
    y, *_, kept = CPU.normalize_relu(*arrays, (0, 2, 3), 1e-5)
    expected = CPU.relu(CPU.normalize(*arrays, (0, 2, 3), 1e-5)[0])
    np.testing.assert_array_equal(y, expected)
    assert not kept.size and np.isnan(expected).any() == (np.isnan(value) or (np.isinf(value) and given == 0))


@needs_library
@pytest.mark.parametrize("layout", ["packed", "channels_last"])
def test_batch_normalisation_in_bfloat16(layout: str) -> None:
    lay, axes = LAYOUTS[layout], (0, 2, 3)
    x, g = (lay(drawn(4, 24, 9, 7, seed=s)).astype(bfloat16) for s in range(2))
    w, b = drawn(1, 24, 1, 1), drawn(1, 24, 1, 1, seed=1)
    wide = x.astype(np.float32)
    mean, var = CPU.moments(x, axes)
    close((mean, var), PLAIN.moments(wide, axes), 1e-4)
    assert mean.dtype == var.dtype == np.float32
    rstd = 1 / np.sqrt(var + np.float32(1e-5))
    y = CPU.standardize(x, w, b, mean, rstd, axes)
    assert y.dtype == bfloat16
    close(y, PLAIN.standardize(wide, w, b, mean, rstd, axes), 2e-2)
    found = CPU.standardize_grad(g, x, w, b, mean, rstd, axes)
    close(found, PLAIN.standardize_grad(g.astype(np.float32), wide, w, b, mean, rstd, axes), 2e-2)
    assert found[1].dtype == w.dtype


@needs_library
def test_casts_round_as_numpy_does() -> None:
    x = np.concatenate([drawn(9000) * 10.0**e for e in range(-30, 31, 10)]).astype(np.float32)
    x[:6] = np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38
    half = CPU.cast(x, np.dtype(bfloat16))
    np.testing.assert_array_equal(half.view(np.uint16)[1:], x.astype(bfloat16).view(np.uint16)[1:])
    assert np.isnan(half[0])
    np.testing.assert_array_equal(CPU.cast(half, np.dtype(np.float32)), half.astype(np.float32))


@pytest.mark.parametrize("size", [100, 20000, 40000])
@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_the_rectifier_keeps_nan_and_its_gradient_drops_infinity(dtype: Any, size: int) -> None:
    x = drawn(size).astype(dtype)
    x[:4] = np.nan, -np.nan, np.inf, -np.inf
    y = CPU.relu(x)
    assert np.isnan(y[:2].astype(np.float32)).all() and y[2] == np.inf and y[3] == 0
    y, g = y[2:], np.full(size - 2, np.inf, dtype)
    y[5] = -0.0
    dx = CPU.relu_grad(g, y)
    assert (dx[y > 0] == np.inf).all() and (dx[y == 0] == 0).all()


# -- ownership, cache and threads ----------------------------------------------------------------------------------------


@needs_library
def test_nothing_leaks_and_nothing_is_destroyed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    primitives.clear()
    monkeypatch.setattr(primitives, "CAPACITY", 5)
    before = set(library.Handle.alive)

    def some(n: int) -> None:
        for i in range(n):
            kernels.matmul(drawn(2 + i, 3), drawn(3, 4))
            convolution.conv(drawn(1, 2, 5 + i, 5), drawn(3, 2, 2, 2), None, (4 + i, 4), (1, 1), (0, 0), (1, 1), 1)

    some(5)
    full = len(library.Handle.alive)
    some(40)
    assert len(primitives._mine.calls) == 5
    assert len(library.Handle.alive) <= full + 20, "evicted calls keep their objects"
    primitives.clear()
    assert library.Handle.alive == before


@needs_library
def test_a_call_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    primitives.clear()
    x, y = drawn(20, 30), drawn(30, 10)
    first = kernels.matmul(x, y)
    monkeypatch.setattr(primitives, "Builder", None)  # a second build would fail
    assert first is not None
    np.testing.assert_array_equal(kernels.matmul(x + 0, y + 0), first)


@needs_library
def test_threads_share_nothing() -> None:
    """Many threads, the same and different shapes at once; their objects go with them."""
    before, failures = len(library.Handle.alive), []
    x, w = drawn(4, 8, 12, 12), drawn(16, 8, 3, 3)
    expected = PLAIN.conv(x, w, None, (1, 1), (1, 1), (1, 1), 1)

    def work(number: int) -> None:
        try:
            a, b = drawn(60 + number, 130), drawn(130, 140)
            for _ in range(20):
                close(CPU.conv(x, w, None, (1, 1), (1, 1), (1, 1), 1), expected, 2e-5)
                close(CPU.matmul(a, b), a @ b, 2e-5)
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    assert not failures
    assert len(library.Handle.alive) == before


@needs_library
def test_errors_name_the_call() -> None:
    lib = library.get()
    assert lib is not None
    with pytest.raises(
        library.OneDNNError, match=r"dnnl_engine_create: expected status 0, got 2 \(invalid arguments\)"
    ):
        library.Handle(lib, "dnnl_engine", "create", library.CPU, 99)


# -- finding it ----------------------------------------------------------------------------------------------------------


def in_process(code: str, **variables: str) -> str:
    """What the code prints in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WHO = """
import numpy as np
from core.backend import cpu, get
from core.backend.onednn import library
x = np.ones((200, 200), np.float32)
assert get("cpu").matmul(x, x)[0, 0] == 200
print(cpu.description()["onednn"])
"""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("off", "none (LOCKSTEP_ONEDNN=off)"),
        ("/nowhere/libdnnl.so.3", "none (/nowhere/libdnnl.so.3: "),
        (sys.executable, f"none ({sys.executable}: "),  # a file, but no library
        ("libc.so.6", "none (libc.so.6: "),  # a library, but not this one
    ],
)
def test_without_the_library_numpy_computes(value: str, expected: str) -> None:
    assert in_process(WHO, LOCKSTEP_ONEDNN=value).startswith(expected)


@needs_library
def test_the_path_may_be_given() -> None:
    lib = library.get()
    assert lib is not None
    assert in_process(WHO, LOCKSTEP_ONEDNN=lib.path).startswith("3.")


def test_importing_loads_nothing() -> None:
    code = "from core.backend import get, threads, cpu; get('cpu'); from core.backend.onednn import library as l; print(l._tried)"
    assert in_process(code) == "None"


def test_description_is_text() -> None:
    found = description()
    assert set(found) == {"processor", "numpy", "blas", "onednn", "threads"}
    assert all(type(v) is str and v for v in found.values())


# -- how many threads ----------------------------------------------------------------------------------------------------


def test_number_of_threads() -> None:
    code = (
        "import threading; from core.backend import threads, cpu; from core.backend.onednn import library as l;"
        "print(threads.get_num_threads(), end=' '); threads.set_num_threads(2); print(threads.get_num_threads(), end=' ');"
        "be = cpu.CPUBackend(); import numpy as np; x = np.ones((200, 200), 'f'); seen = [];"
        "f = lambda: (be.matmul(x, x), seen.append(l.get().max_threads() if l.get() and l.get().max_threads else 2));"
        "t = threading.Thread(target=f); t.start(); t.join(); print(seen[0])"
    )
    assert in_process(code, OMP_NUM_THREADS="1").split() == ["1", "2", "2"]


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "2"])
def test_wrong_numbers_of_threads(n: Any) -> None:
    with pytest.raises(ArgumentError, match="set_num_threads: expected a positive number of threads, got"):
        threads.set_num_threads(n)


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes() -> None:
    """OpenMP's threads do not survive a fork; a child that waited for them would hang."""
    code = (
        "import os, numpy as np; from core.backend import threads, get; be = get('cpu'); threads.set_num_threads(2);"
        "x = np.ones((300, 300), 'f'); be.matmul(x, x); pid = os.fork();"
        "pid or (be.matmul(x, x), os._exit(0 if threads.get_num_threads() == 1 else 3));"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    # the second core's worth of threads is there whatever the machine has
    assert in_process(code, OMP_NUM_THREADS="2") == "0"
