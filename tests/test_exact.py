"""Corners of PyTorch's arithmetic that programs meet, written down: each was found by random programs run on both."""

from __future__ import annotations

import math

import numpy as np
import pytest

import core
from core.errors import DTypeError

FLOATS = [[1.0, 2.0, 4.0], [3.0, 0.5, 2.0]]


def test_integers_are_not_divided_by_zero() -> None:
    x = core.tensor([4, -5])
    for f in (
        lambda: x // 0,
        lambda: x % core.tensor([1, 0]),
        lambda: core.fmod(x, 0),
        lambda: core.div(x, 0, rounding_mode="trunc"),
    ):
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            f()
    assert (x[:0] // 0).shape == (0,) and (x / 0).tolist() == [math.inf, -math.inf] and (x.float() % 0).isnan().all()


def test_negative_numbers_wrap_around_in_unsigned_types() -> None:
    x = core.tensor([5, 250], dtype=core.uint8)
    assert (x + -1).tolist() == [4, 249] and (x * -1).tolist() == [251, 6] and x.dtype == (x + -1).dtype
    assert (
        (x == -6).tolist() == [False, True]
        and (x > -10).tolist() == [False, True]
        and (-3 < x).tolist() == [False, False]
    )
    assert (x / -5).tolist() == [-1, -50] and core.sub(x, x, alpha=-1).tolist() == [10, 244]
    with pytest.raises(RuntimeError):
        x + 300


def test_products_of_integers_keep_every_digit() -> None:
    for dtype in (core.int16, core.uint8, core.int32, core.int64):
        x = core.arange(3000, dtype=core.int64).reshape(2, 1500).to(dtype)
        exact = x.numpy() @ x.numpy().T
        np.testing.assert_array_equal((x @ x.T).numpy(), exact)
        np.testing.assert_array_equal(core.einsum("ij,kj->ik", x, x).numpy(), exact)


def test_powers_of_integers() -> None:
    x = core.tensor([1, -1, 2, -3])
    assert x.pow(core.tensor([-1, -3, -1, -2])).tolist() == [1, -1, 0, 0] and (2 ** core.tensor([-1, 3])).tolist() == [
        0,
        8,
    ]
    for base in (x, core.tensor([True])):
        with pytest.raises(RuntimeError, match="negative integer powers"):
            base**-1
    y = core.tensor([4, -1])
    y **= core.tensor(-1)
    assert y.tolist() == [0, -1]


def test_gradients_of_powers_at_zero_and_of_complex_ones() -> None:
    y = core.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    core.zeros(3).pow(y).sum().backward()
    assert y.grad.tolist() == [-math.inf, 0, 0]
    z, w = core.tensor([1.5 + 0.5j], requires_grad=True), core.tensor([0.5 - 2j], requires_grad=True)
    assert core.autograd.gradcheck(
        lambda z, w: z**w,
        (z.to(core.complex128).detach().requires_grad_(), w.to(core.complex128).detach().requires_grad_()),
    )


def test_an_empty_list_of_dimensions_is_all_of_them() -> None:
    x = core.tensor(FLOATS, requires_grad=True)
    for f in (core.sum, core.mean, core.amax, core.amin, core.std, core.var, core.count_nonzero):
        assert f(x, dim=[]).shape == ()
    core.amax(x, dim=[]).backward()
    assert x.grad.tolist() == [[0, 0, 1], [0, 0, 0]]
    assert core.roll(core.arange(4).reshape(2, 2), 1, dims=[]).tolist() == [[3, 0], [1, 2]]


def test_reductions_of_nothing() -> None:
    for f in (core.amax, core.argmax, core.mode, core.max):
        with pytest.raises((IndexError, RuntimeError), match="with elements"):
            f(core.zeros(2, 0), dim=1)
    assert (
        core.zeros(0).median().isnan()
        and core.zeros(2, 0).softmax(1).shape == (2, 0)
        and core.zeros(0).logsumexp(0).item() == -math.inf
    )


def test_dtypes_of_reductions() -> None:
    old = core.tensor([1, 0], dtype=core.uint8)
    assert old.any().dtype is core.uint8 and old.all().item() == 0 and core.tensor([1, 0]).any().dtype is core.bool
    z = core.tensor([1 + 1j, 2 - 3j, 0.5])
    np.testing.assert_allclose(z.var().item(), np.var(z.numpy(), ddof=1), rtol=1e-6)
    assert z.std().dtype is core.float32 and core.ones(3, dtype=core.bfloat16).var().dtype is core.bfloat16
    assert core.tensor([True, False]).logsumexp(0).dtype is core.float32
    x = core.ones(3, requires_grad=True)
    x.sum(dtype=core.float64).backward()
    assert x.grad.dtype is core.float32 and core.autograd.grad(x.sum(dtype=core.float64), x)[0].dtype is core.float32
    assert (
        core.softmax(x, 0, dtype=core.float64).dtype is core.float64
        and x.log_softmax(0, core.float64).dtype is core.float64
    )
    assert core.norm(core.ones(4), dtype=core.float64).dtype is core.float64


def test_a_number_over_a_tensor_is_rounded_as_torchs() -> None:
    x = core.tensor([3.0, 7.0, 11.0, 13.0])
    assert (10 / x).tolist() == (x.reciprocal() * 10).tolist()
    assert (2 / core.tensor([4])).tolist() == [0.5]


def test_in_place_keeps_the_kind_of_number() -> None:
    x = core.tensor([7, 8])
    for f in (lambda: x.floor_divide_(1.5), lambda: x.__ifloordiv__(0.5), lambda: x.float_power_(2)):
        with pytest.raises(DTypeError, match="can't be cast"):
            f()
    x //= 2
    assert x.tolist() == [3, 4] and x.copy_(2.9).tolist() == [2, 2]


def test_indices_mixed_with_true_and_false() -> None:
    x = core.tensor(FLOATS)
    assert x[True].shape == (1, 2, 3) and x[False].shape == (0, 2, 3)
    assert x[:, core.tensor([0, 2]), True].shape == (2, 2) and x[core.tensor([1]), False].shape == (0, 3)


def test_values_at_the_ends() -> None:
    ends = core.tensor([-math.inf, math.inf, math.nan])
    assert core.erfc(ends)[:2].tolist() == [2, 0] and core.angle(ends)[:2].tolist() == [np.float32(math.pi), 0]
    assert core.erfc(ends)[2].isnan() and core.angle(ends)[2].isnan()
    x = core.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    core.logit(x).nansum().backward()
    assert x.grad[1].item() == 4 and x.grad[[0, 2]].isnan().all()
    b = core.tensor([2.0, math.nan, 1.0, 3.0], dtype=core.bfloat16)
    assert b.argsort().tolist() == [2, 0, 3, 1] and core.sort(b).values[:3].tolist() == [1, 2, 3]
    assert core.xlogy(core.tensor([0, 3], dtype=core.uint8), -3)[0].item() == 0


def test_a_device_is_a_place_for_new_tensors() -> None:
    with core.device("cpu") as outer:
        assert outer == core.device("cpu") and core.get_default_device() == outer and core.ones(2).device == outer
        with core.device("cpu", 0):
            assert core.get_default_device().index == 0
        assert core.get_default_device().index is None
    assert core.creation._default_device is None
