"""Mixed precision: which op computes in which dtype, against PyTorch's CPU lists where it is installed; GradScaler by its rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import core
import core.nn.functional

MIXED: dict[str, Callable[[Any], Any]] = {
    "matmul": lambda t: t.ones(2, 3) @ t.ones(3, 2),
    "mm": lambda t: t.mm(t.ones(2, 3), t.ones(3, 2)),
    "bmm": lambda t: t.bmm(t.ones(2, 2, 3), t.ones(2, 3, 2)),
    "addmm": lambda t: t.addmm(t.ones(2, 2), t.ones(2, 3), t.ones(3, 2)),
    "linear": lambda t: t.nn.functional.linear(t.ones(2, 3), t.ones(4, 3), t.ones(4)),
    "conv2d": lambda t: t.nn.functional.conv2d(t.ones(1, 2, 4, 4), t.ones(3, 2, 3, 3)),
    "attention": lambda t: t.nn.functional.scaled_dot_product_attention(*[t.ones(1, 2, 3, 4)] * 3),
    "lstm": lambda t: t.nn.LSTM(3, 2)(t.ones(4, 2, 3))[0],
    "gru": lambda t: t.nn.GRU(3, 2)(t.ones(4, 2, 3))[0],
    "relu": lambda t: t.relu(t.ones(2).bfloat16()),
    "softmax": lambda t: t.softmax(t.ones(2, 3).bfloat16(), 1),
    "add": lambda t: t.ones(2).bfloat16() + t.ones(2),
    "exp": lambda t: t.exp(t.ones(2).bfloat16()),
    "sum": lambda t: t.ones(2).bfloat16().sum(),
    "prod": lambda t: t.ones(2).bfloat16().prod(),
    "layer_norm": lambda t: t.nn.functional.layer_norm(t.ones(2, 3).bfloat16(), (3,)),
    "mse_loss": lambda t: t.nn.functional.mse_loss(t.ones(2).bfloat16(), t.ones(2)),
    "cross_entropy": lambda t: t.nn.functional.cross_entropy(t.ones(2, 3).bfloat16(), t.tensor([0, 1])),
    "nll_loss": lambda t: t.nn.functional.nll_loss(t.ones(2, 3).bfloat16(), t.tensor([0, 1])),
    "cat": lambda t: t.cat([t.ones(2).bfloat16(), t.ones(2)]),
    "stack": lambda t: t.stack([t.ones(2).bfloat16(), t.ones(2)]),
    "doubles": lambda t: t.ones(2, 3).double() @ t.ones(3, 2).double(),
    "avg_pool2d": lambda t: t.nn.functional.avg_pool2d(t.ones(1, 1, 4, 4).bfloat16(), 2),
    "max_pool2d": lambda t: t.nn.functional.max_pool2d(t.ones(1, 1, 4, 4).bfloat16(), 2),
}


@pytest.mark.parametrize("name", MIXED)
def test_dtypes_are_torchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    with core.amp.autocast("cpu", dtype=core.bfloat16):
        ours = MIXED[name](core)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        theirs = MIXED[name](torch)
    assert str(ours.dtype).removeprefix("core.") == str(theirs.dtype).removeprefix("torch.")


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_bfloat16_is_that_of_float32(causal: bool) -> None:
    core.manual_seed(0)
    half = [core.randn(2, 3, 160, 16).bfloat16().requires_grad_() for _ in range(3)]
    wide = [t.detach().float().requires_grad_() for t in half]
    attend = core.nn.functional.scaled_dot_product_attention
    y, expected = attend(*half, is_causal=causal), attend(*wide, is_causal=causal)
    assert y.dtype is core.bfloat16 and core.allclose(y.float(), expected, atol=2e-2)
    y.float().square().sum().backward()
    expected.square().sum().backward()
    for h, w in zip(half, wide):
        assert h.grad.dtype is core.bfloat16 and core.allclose(h.grad.float(), w.grad, atol=4e-2)


def test_lstm_in_bfloat16_is_near_that_of_float32() -> None:
    core.manual_seed(0)
    layer, x = core.nn.LSTM(40, 64, num_layers=2, proj_size=24), core.randn(9, 16, 40)
    expected = layer(x)[0]
    expected.square().sum().backward()
    exact = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    with core.autocast("cpu"):
        y, (h, cell) = layer(x)
    assert y.dtype is h.dtype is cell.dtype is core.bfloat16
    assert core.allclose(y.float(), expected, atol=2e-2)
    y.float().square().sum().backward()
    for p, e in zip(layer.parameters(), exact):
        assert p.grad.dtype is core.float32
        assert (p.grad - e).norm() < 0.03 * e.norm()


def test_weights_get_float32_gradients() -> None:
    layer = core.nn.Linear(3, 2)
    with core.autocast("cpu"):
        y = layer(core.ones(4, 3))
        assert y.dtype is core.bfloat16 and core.is_autocast_enabled()
    y.float().sum().backward()
    assert layer.weight.grad.dtype is core.float32 and not core.is_autocast_enabled()


def test_other_dtypes_switch_it_off() -> None:
    with pytest.warns(UserWarning, match="off"), core.amp.autocast("cpu", dtype=core.float32):
        assert (core.ones(2, 2) @ core.ones(2, 2)).dtype is core.float32


def test_grad_scaler_skips_a_step_that_overflowed() -> None:
    w = core.ones(2, requires_grad=True)
    optimizer = core.optim.SGD([w], lr=1.0)
    scaler = core.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
    scaler.scale((w * 0.5).sum()).backward()
    assert w.grad.tolist() == [2.0, 2.0]
    scaler.step(optimizer)
    scaler.update()
    assert w.tolist() == [0.5, 0.5] and scaler.get_scale() == 8.0
    w.grad = core.tensor([math.inf, 1.0])
    scaler.step(optimizer)
    scaler.update()
    assert w.tolist() == [0.5, 0.5] and scaler.get_scale() == 4.0
    with pytest.raises(core.errors.CoreError, match="No inf checks"):
        scaler.update()
