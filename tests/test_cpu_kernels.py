"""The CPU's fused kernels against the plain backend, at sizes where they leave it: attention, recurrence, sums, scatter, cross-entropy."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import dtypes
from core.backend import threads as threads_of
from core.backend.base import Backend
from core.backend.cpu import CPUBackend
from core.backend.onednn import attention, kernels, library, steps
from core.backend.onednn.primitives import Builder
from core.errors import RangeError

needs_library = pytest.mark.skipif(library.get() is None, reason=f"no oneDNN here: {library.reason()}")


class Plain(Backend):
    """The oracle."""

    device_type = "cpu"
    array_type = np.ndarray
    xp = np


PLAIN, CPU = Plain(), CPUBackend()


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


# What multiplies by a matrix of five columns: by an AVX-512 kernel of OpenBLAS that computes with memory that nobody has written.
FIVE = {
    "a matrix and a vector": lambda x: CPU.matmul(x, x[0]),
    "a matrix and a column": lambda x: CPU.matmul(x, x[:1].T),
    "a row and a matrix": lambda x: CPU.matmul(x[:1], x.T),
    "linear to one": lambda x: CPU.linear(x, x[:1], None),
    "linear of one": lambda x: CPU.linear(x[:1], x, None),
    "cross-entropy": lambda x: CPU.cross_entropy(x, np.zeros(len(x), np.int64), None, -100),
    "log_softmax": lambda x: CPU.log_softmax(np.tile(x, (1000, 1)), 1),
}


@pytest.mark.parametrize("name", FIVE)
def test_unread_lanes_raise_no_warning(name):
    def leave_signalling_numbers():
        """On the stack, where the next product has its buffers."""
        numbers = np.full(400, 0x7FA00000, np.uint32).view(np.float32)[::2]
        with np.errstate(all="ignore"):
            np.zeros((4, 200), np.float32).dot(numbers)
            numbers.dot(np.zeros((200, 4), np.float32))

    x = drawn(6, 5)
    leave_signalling_numbers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FIVE[name](x)


def close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    for f, e in zip(found, expected, strict=True):
        assert (f is None) == (e is None)
        if e is not None:
            assert f.shape == e.shape and f.dtype == e.dtype
            np.testing.assert_allclose(f, e, rtol=0, atol=tolerance * max(1.0, np.abs(e).max(initial=0)))


# -- products ------------------------------------------------------------------------------------------------------------

# (n, k, m), whether each operand lies transposed, whether blocks of both are copied side by side first
PRODUCTS = {
    "a weight's gradient": (130, 70, 90, True, False, True),
    "a weight's gradient of aliased rows": (1024, 70, 90, True, False, False),
    "widening": (1030, 100, 800, False, True, True),
    "narrowing": (1030, 800, 100, False, True, False),
    "back to what is wider": (70, 130, 600, False, False, True),
    "back to what is narrower": (70, 600, 130, False, False, False),
}


@needs_library
@pytest.mark.parametrize("n, k, m, tx, ty, copied", PRODUCTS.values(), ids=PRODUCTS)
def test_products_of_either_implementation(n, k, m, tx, ty, copied):
    x, y = drawn(k, n).T if tx else drawn(n, k), drawn(m, k).T if ty else drawn(k, m)
    assert kernels._by(x, y) == ("gemm" if copied else "")
    found, bias = kernels.matmul(x, y, drawn(m)), drawn(m)
    assert found is not None
    close([found], [(x.astype(float) @ y + bias).astype(np.float32)])


@needs_library
def test_an_implementation_by_name():
    lib = library.get()
    assert lib is not None
    b = Builder(lib)
    d = b.packed((64, 64), library.F32)
    first, *named = (b.implementation(b.descriptor("matmul", d, d, None, d, by=by)) for by in ("", "ref", "no such"))
    assert named[0].startswith("ref") and named[1] == first and not first.startswith("ref")


# -- attention -----------------------------------------------------------------------------------------------------------

HEADS = {
    # (N, heads, L, S, E, V); queries, keys and values are cut from rows of channels where L = S and E = V
    "one block": (3, 4, 64, 64, 16, 16),
    "blocks, and a rest": (2, 2, 200, 200, 16, 16),
    "wide values": (2, 2, 130, 130, 8, 24),
    "fewer keys": (2, 3, 130, 70, 16, 16),
    "more keys": (2, 3, 70, 130, 16, 16),
}


def heads(n: int, h: int, length: int, keys: int, e: int, v: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if length != keys or e != v:
        return drawn(n, h, length, e), drawn(n, keys, h, e, seed=1).swapaxes(1, 2), drawn(n, h, keys, v, seed=2)
    rows = drawn(n, length, 3, h, e)
    return rows[:, :, 0].swapaxes(1, 2), rows[:, :, 1].swapaxes(1, 2), rows[:, :, 2].swapaxes(1, 2)


@needs_library
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("mask", [None, "causal", "seen", "added", "padding"])
@pytest.mark.parametrize("shape", HEADS.values(), ids=HEADS)
def test_attention(shape, mask, dropped):
    n, h, length, keys, *_ = shape
    q, k, v = heads(*shape)
    rng = np.random.default_rng(0)
    m: Any = None
    if mask == "seen":
        m = rng.random((length, keys)) > 0.3
        m[3] = False  # sees nobody
    elif mask == "added":
        m = drawn(n, 1, length, keys, seed=3)
    elif mask == "padding":
        m = np.where(rng.random((n, 1, 1, keys)) > 0.5, 0, -np.inf).astype(np.float32)
    drop = ((rng.random((n, h, length, keys)) > 0.1) / np.float32(0.9)).astype(np.float32) if dropped else None
    args = q, k, v, m, drop, mask == "causal", 0.3
    assert attention.attention(*args) is not None, "left to the plain kernel"
    (y, p), (expected, plain_p) = CPU.attention(*args), PLAIN.attention(*args)
    close([y], [expected])
    g = drawn(*y.shape, seed=4)
    close(CPU.attention_grad(g, q, k, v, drop, p, 0.3), PLAIN.attention_grad(g, q, k, v, drop, plain_p, 0.3))


@needs_library
def test_attention_lies_as_its_query():
    q, k, v = heads(*HEADS["blocks, and a rest"])
    y, _ = CPU.attention(q, k, v, None, None, True, 0.3)
    assert y.swapaxes(1, 2).flags.c_contiguous, "heads do not join again without a copy"


def test_gradients_of_pieces_lie_as_pieces():
    q, k, v = heads(*HEADS["one block"])
    y, p = CPU.attention(q, k, v, None, None, False, 0.25)
    grads = CPU.attention_grad(np.ones_like(y), q, k, v, None, p, 0.25)
    pieces = [g.swapaxes(1, 2).reshape(3, 64, 64) for g in grads]  # (N, L, channels)
    expected = np.concatenate(pieces, axis=2)
    whole = CPU.rejoined(pieces, 2)
    assert (whole is None) == (library.get() is None)
    if whole is not None:
        assert np.shares_memory(whole, grads[0]) and np.array_equal(whole, expected)
    assert CPU.rejoined(pieces[::-1], 2) is None
    assert CPU.rejoined(pieces[:2], 2) is None
    assert CPU.rejoined([g.copy() for g in pieces], 2) is None
    for others in ((q, q, q), (q, k, k), (q, k, v.copy())):  # which overlap, or are not of one array
        dq, dk, dv = CPU.attention_grad(np.ones_like(y), *others, None, p, 0.25)
        assert not (np.shares_memory(dq, dk) or np.shares_memory(dk, dv) or np.shares_memory(dq, dv))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_attention_carries_what_is_not_finite(bad):
    q, k, v = heads(*HEADS["one block"])
    q = q.copy()
    q[0, 0, 5, 0] = bad
    with np.errstate(invalid="ignore"):
        y, _ = CPU.attention(q, k, v, None, None, False, 0.3)
    assert np.isnan(y[0, 0, 5]).all() and np.isfinite(np.delete(y[0, 0], 5, axis=0)).all()


# -- recurrence ----------------------------------------------------------------------------------------------------------

SIZES = {"even": (16,) * 17, "packed": (16, 16, 16, 11, 11, 3)}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    "kind, gates, relu", [("rnn", 1, False), ("rnn", 1, True), ("lstm", 4, None), ("gru", 3, None)]
)
def test_recurrence(kind, gates, relu, sizes, reverse):
    n, rows, i, h = sizes[0], sum(sizes), 24, 64
    x, w, u = drawn(rows, i), drawn(gates * h, i, seed=1) * 0.2, drawn(gates * h, h, seed=2) * 0.2
    b, c, state, cell = drawn(gates * h, seed=3), drawn(gates * h, seed=4), drawn(n, h, seed=5), drawn(n, h, seed=6)
    states = (state, cell) if kind == "lstm" else (state,)
    last: tuple[Any, ...] = (None,) if kind == "lstm" else ()
    options = (sizes, reverse) if relu is None else (sizes, reverse, relu)
    found = getattr(CPU, kind)(x, *states, w, u, b, c, *last, *options)
    expected = getattr(PLAIN, kind)(x, *states, w, u, b, c, *last, *options)
    close(found, expected)
    gs = [drawn(rows, h, seed=7), *(drawn(n, h, seed=8) for _ in states)]
    saved = {"rnn": (x, w, u, found[0]), "lstm": (x, w, u, None), "gru": (x, w, u)}[kind] + tuple(
        found[1 + len(states) :]
    )
    for want_dx in (True, False):
        mine = getattr(CPU, kind + "_grad")(*gs, *saved, *options, want_dx)
        assert (mine[0] is not None) == want_dx
        close(mine, getattr(PLAIN, kind + "_grad")(*gs, *saved, *options, want_dx), 5e-5)


@needs_library
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_lstm_in_chunks(reverse, biased, threads):
    t, n, i, h = 40, 5, 24, 16
    x, w, u = drawn(t * n, i), drawn(4 * h, i, seed=1) * 0.2, drawn(4 * h, h, seed=2) * 0.2
    b, c = (drawn(4 * h, seed=3), drawn(4 * h, seed=4)) if biased else (None, None)
    state, cell, sizes = drawn(n, h, seed=5), drawn(n, h, seed=6), (n,) * t
    gs = [drawn(t * n, h, seed=7), drawn(n, h, seed=8), drawn(n, h, seed=9)]

    def run(be):
        found = be.lstm(x, state, cell, w, u, b, c, None, sizes, reverse, True)
        grads = [be.lstm_grad(*gs, x, w, u, None, *found[3:], sizes, reverse, True) for _ in range(2)]
        assert be.lstm_grad(*gs, x, w, u, None, *found[3:], sizes, reverse, False)[0] is None
        assert all(a is z is None or np.array_equal(a, z) for a, z in zip(*grads))
        return found, grads[0]

    before = threads_of.get_num_threads()
    try:
        threads_of.set_num_threads(1)
        (once, once_back), (plain, plain_back) = run(CPU), run(PLAIN)
        threads_of.set_num_threads(threads)
        found, back = run(CPU)
    finally:
        threads_of.set_num_threads(before)
    assert found[3].dtype == np.uint8
    close(found[:3], plain[:3])
    close(back[:-1], plain_back[:-1], 5e-5)
    assert back[-1] is None
    assert all(np.array_equal(a, z) for a, z in zip((*found[:3], *back[:-1]), (*once[:3], *once_back[:-1])))


@needs_library
@pytest.mark.parametrize(
    "sizes, h, by_primitive",
    [
        ((5,) * 16, 16, (True, True)), ((5,) * 17, 16, (False, False)), ((5,) * 3, 16, (False, False)),
        ((5, 5, 5, 4), 16, (False, False)), ((5,) * 4, 256, (False, True)), ((5,) * 4, 512, (False, False)),
    ],
)  # fmt: skip
def test_which_lstm_is_computed_in_chunks(sizes, h, by_primitive):
    x, w, u = drawn(sum(sizes), 8), drawn(4 * h, 8, seed=1), drawn(4 * h, h, seed=2)
    args = (x, drawn(5, h), drawn(5, h), w, u, None, None, None, sizes, False)
    assert tuple(CPU.lstm(*args, want_dx)[3].dtype == np.uint8 for want_dx in (False, True)) == by_primitive


@needs_library
@pytest.mark.parametrize("gap", [0, 16])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_with_one_weight(transposed, gap):
    w = drawn(48, 80).T if transposed else drawn(80, 48)
    add = steps.adder(w, 8, (80 + gap, 48 + gap))
    assert add is not None
    x, z = ([drawn(8, m + gap, seed=k)[:, :m] for k in range(3)] for m in (80, 48))
    expected = [b + a @ w for a, b in zip(x, z)]
    for a, b in zip(x, z):
        add(a, b)
    close(z, expected)


def test_rows_that_lie_apart():
    for n, m in ((5, 1024), (5, 24)):
        room = CPU.apart(n, m, np.float32)
        assert room.shape == (n, m) and room.strides[0] % 1024
        room[...] = drawn(n, m)
        close([CPU.sum_rows(room)], [drawn(n, m).sum(0)])


# -- sums, scatter, normalisation, loss ----------------------------------------------------------------------------------


def test_sum_rows():
    x = drawn(7, 90, 33)
    close([CPU.sum_rows(x), CPU.sum_rows(x.swapaxes(0, 1))], [x.sum((0, 1))] * 2)


def test_scatter_counts_every_row():
    rows, g = np.random.default_rng(0).integers(0, 9, (40, 5)), drawn(40, 5, 3, 4)
    found, expected = np.zeros((12, 3, 4), np.float32), np.zeros((12, 3, 4), np.float32)
    CPU.add_at_(found, (rows,), g)
    PLAIN.add_at_(expected, (rows,), g)
    close([found], [expected])


def test_normalize():
    x, w, b = drawn(6, 40, 64), drawn(64, seed=1), drawn(64, seed=2)
    close(CPU.normalize(x, w, b, (2,), 1e-5), PLAIN.normalize(x, w, b, (2,), 1e-5))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [-100, 2])
@pytest.mark.parametrize("mean", [False, True])
def test_cross_entropy(weighted, ignored, mean):
    x, t = drawn(40, 9) * 30, np.random.default_rng(0).integers(0, 9, 40)
    w = np.abs(drawn(9, seed=1)) if weighted else None
    (loss, p, count), (expected, lse, _) = CPU.cross_entropy(x, t, w, ignored), PLAIN.cross_entropy(x, t, w, ignored)
    close([loss], [expected])
    summed, total = PLAIN.cross_entropy_total(loss, x, t, w, ignored, mean, None)
    close(CPU.cross_entropy_total(loss, x, t, w, ignored, mean, count), [summed, total])
    for g in (drawn(40, seed=2), np.float32(0.7)):
        args = (total if mean else None, ignored)
        close([CPU.cross_entropy_grad(g, x, t, w, p, *args)], [PLAIN.cross_entropy_grad(g, x, t, w, lse, *args)])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.uint64])
@pytest.mark.parametrize("logits", ["columns", "float16", "bfloat16"])
def test_cross_entropy_of_other_dtypes_and_orders(logits, dtype):
    x = drawn(12, 7)
    x = np.asfortranarray(x) if logits == "columns" else x.astype(getattr(dtypes, logits).numpy)
    t = np.random.default_rng(0).integers(0, 7, 12).astype(dtype)
    (loss, p, _), (expected, lse, _) = CPU.cross_entropy(x, t, None, -100), PLAIN.cross_entropy(x, t, None, -100)
    close([loss], [expected])
    args = np.float32(12), -100
    found, wanted = (be.cross_entropy_grad(np.float32(0.7), x, t, None, k, *args) for be, k in ((CPU, p), (PLAIN, lse)))
    assert found.dtype == wanted.dtype == x.dtype
    close([found.astype(np.float32)], [wanted.astype(np.float32)], 1e-3 if x.itemsize == 2 else 2e-5)


@pytest.mark.parametrize("target", [3, -1, 2**32 + 1])
@pytest.mark.parametrize("rows", [2, 200])
def test_cross_entropy_names_a_negative_or_a_great_target(target, rows):
    with pytest.raises(RangeError, match=f"Target {target} is out of bounds"):
        CPU.cross_entropy(drawn(rows, 3), np.array([0] * (rows - 1) + [target]), None, -100)


def test_axpy_of_many_takes_what_blas_can_and_leaves_the_rest():
    shapes = (3,), (40, 5), (), (0, 2)
    pairs = [(drawn(*s), drawn(*s, seed=1)) for s in shapes]
    pairs.append((drawn(6, 4).T, drawn(4, 6, seed=1)))  # in another order
    pairs.append((drawn(4), drawn(3, 4, seed=1)))  # broadcasts
    pairs.append((drawn(5), drawn(5, seed=1).astype(np.float64)))
    expected = [y + x * np.float32(-0.5) for x, y in pairs]
    CPU.axpy_each_(-0.5, *zip(*pairs))
    close([y for _, y in pairs], expected, 1e-6)
    for size in (8, 1 << 13):  # below and above where one alone is given to BLAS
        fixed = drawn(size)
        fixed.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            CPU.axpy_each_(1.0, [drawn(size)], [fixed])


def test_cross_entropy_names_a_target_that_is_no_class():
    with pytest.raises(RangeError, match="Target 4 is out of bounds: expected classes 0 to 2"):
        CPU.cross_entropy(drawn(2, 3), np.array([0, 4]), None, -100)


@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(40, 500), (4, 5, 1000)])
def test_log_softmax(shape, bad):
    x, g = drawn(*shape) * 8, drawn(*shape, seed=1)
    if bad is not None:
        x[1, 2] = bad
    dim = x.ndim - 1
    with np.errstate(invalid="ignore"):
        y, expected = CPU.log_softmax(x, dim), PLAIN.log_softmax(x, dim)
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)
        if bad is None:
            close([CPU.log_softmax_grad(g, y, dim)], [PLAIN.log_softmax_grad(g, y, dim)])


# -- updates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["one after the other", "transposed"])
@pytest.mark.parametrize("keep", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("greatest", [False, True])
@pytest.mark.parametrize("rows", [200, 1500])  # the second is more than one piece
def test_a_step_of_adam(keep, layout, greatest, rows):
    def state() -> list[Any]:
        arrays = [drawn(rows, 180, seed=k) for k in range(4)]
        arrays[3] **= 2
        if greatest:
            arrays.append(np.full((rows, 180), 0.5, np.float32))
        arrays = [a.T if layout == "transposed" else a for a in arrays]
        return arrays if greatest else [*arrays, None]

    mine, plain = state(), state()
    for be, (x_, g, m_, v_, top_) in ((CPU, mine), (PLAIN, plain)):
        for _ in range(3):
            be.adam_step_(x_, g, m_, v_, top_, 0.01, (0.9, 0.99), 1e-8, keep)
    close(mine, plain)
    close([mine[1]], [state()[1]], 0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("size", [100, 5000, 1 << 17, (1 << 18) + 5])
def test_a_step_with_momentum(size, decay):
    found, expected = ([drawn(size, seed=k) for k in range(3)] for _ in range(2))
    for be, (x_, g, v_) in ((CPU, found), (PLAIN, expected)):
        for _ in range(2):
            be.momentum_step_(x_, g, v_, 0.1, 0.9, 0.8, decay)
    close(found, expected, 2e-6)


@pytest.mark.parametrize("shape", [(), (3,), (1024,), (5000,), (64, 784), (2, 3, 5)])
def test_sums_of_squares_keep_their_digits(shape):
    x = drawn(*shape) if shape else np.float32(1.5)
    expected = np.square(np.float64(x)).sum()
    np.testing.assert_allclose(CPU.square_sum(np.asarray(x)), expected, rtol=3e-7)
    np.testing.assert_allclose(CPU.square_sum(np.asarray(x).astype(np.float64)), expected, rtol=1e-14)
    np.testing.assert_allclose(CPU.square_sum(np.asarray(x).T), expected, rtol=1e-6)


def test_sigmoid_of_many():
    x = drawn(90, 100) * 30
    x[0, :5] = np.nan, np.inf, -np.inf, 200, -200
    found, expected = CPU.sigmoid(x), PLAIN.sigmoid(x.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=4e-7, atol=2e-38)
    np.testing.assert_allclose(CPU.sigmoid(x.T), expected.T, rtol=4e-7, atol=2e-38)


# -- where arrays lie ----------------------------------------------------------------------------------------------------

# whether what the system knows of the memory of the last of some arrays of 1 MB says that it may have large pages
PAGES = """
import numpy as np
from core import backend
backend.get("cpu")
arrays = [np.ones(1 << 18, np.float32) for _ in range(16)]
inside = False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        first, end = (int(n, 16) for n in line.split()[0].split("-"))
        inside = first <= arrays[-1].ctypes.data < end
    elif inside and line.startswith("VmFlags:"):
        print("hg" in line.split())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/sys/kernel/mm/transparent_hugepage").exists(),
    reason="no glibc, or a system without large pages",
)
@pytest.mark.parametrize("variable", ["", "NUMPY_MADVISE_HUGEPAGE=0", "MALLOC_ARENA_MAX=4"])
def test_arrays_lie_in_large_pages(variable):
    """… unless the environment says otherwise."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "NUMPY_MADVISE"))}
    env.update([variable.split("=")] if variable else [])
    found = subprocess.run([sys.executable, "-c", PAGES], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(not variable)]
