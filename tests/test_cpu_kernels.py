"""The CPU's fused kernels against the plain backend, at sizes where they leave it: attention, recurrence, sums, scatter, cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.backend.base import Backend
from core.backend.cpu import CPUBackend
from core.backend.onednn import attention, library, steps
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


def close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    for f, e in zip(found, expected, strict=True):
        assert (f is None) == (e is None)
        if e is not None:
            assert f.shape == e.shape and f.dtype == e.dtype
            np.testing.assert_allclose(f, e, rtol=0, atol=tolerance * max(1.0, np.abs(e).max(initial=0)))


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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_attention_carries_what_is_not_finite(bad):
    q, k, v = heads(*HEADS["one block"])
    q = q.copy()
    q[0, 0, 5, 0] = bad
    with np.errstate(invalid="ignore"):
        y, _ = CPU.attention(q, k, v, None, None, False, 0.3)
    assert np.isnan(y[0, 0, 5]).all() and np.isfinite(np.delete(y[0, 0], 5, axis=0)).all()


# -- recurrence ----------------------------------------------------------------------------------------------------------

SIZES = {"even": (16,) * 6, "packed": (16, 16, 16, 11, 11, 3)}


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
@pytest.mark.parametrize("transposed", [False, True])
def test_products_with_one_weight(transposed):
    w = drawn(48, 80).T if transposed else drawn(80, 48)
    add = steps.adder(w, 8)
    assert add is not None
    z = [drawn(8, 48, seed=k) for k in range(3)]
    expected = [a + drawn(8, 80, seed=k) @ w for k, a in enumerate(z)]
    for k, a in enumerate(z):
        add(drawn(8, 80, seed=k), a)
    close(z, expected)


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
    (loss, p), (expected, lse) = CPU.cross_entropy(x, t, w, ignored), PLAIN.cross_entropy(x, t, w, ignored)
    close([loss], [expected])
    _, total = PLAIN.cross_entropy_total(loss, x, t, w, ignored, mean)
    for g in (drawn(40, seed=2), np.float32(0.7)):
        args = (total if mean else None, ignored)
        close([CPU.cross_entropy_grad(g, x, t, w, p, *args)], [PLAIN.cross_entropy_grad(g, x, t, w, lse, *args)])


def test_cross_entropy_names_a_target_that_is_no_class():
    with pytest.raises(RangeError, match="Target 4 is out of bounds: expected classes 0 to 2"):
        CPU.cross_entropy(drawn(2, 3), np.array([0, 4]), None, -100)
