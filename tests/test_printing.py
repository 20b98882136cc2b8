"""Printed tensors: PyTorch's text, written down; `test_oracle_ops` compares many more."""

from __future__ import annotations

from typing import Any

import pytest

import core
import core.nn
from tests import devices

fake = devices.fake

# what torch 2.13 prints, with `torch.` read as `core.`
TEXTS = [
    ('tensor(1.5)', 'tensor(1.5000)'),
    ('tensor([])', 'tensor([])'),
    ('tensor([1, -20, 3])', 'tensor([  1, -20,   3])'),
    ('tensor([True, False])', 'tensor([ True, False])'),
    ('tensor([1.0, 2.0, 3.0])', 'tensor([1., 2., 3.])'),
    ('tensor([1.0, 2.5, -3.25])', 'tensor([ 1.0000,  2.5000, -3.2500])'),
    ('tensor([1e-5, 1.0])', 'tensor([1.0000e-05, 1.0000e+00])'),
    ('tensor([1e9, 1.0])', 'tensor([1.0000e+09, 1.0000e+00])'),
    ('tensor([nan, 1.0, -inf])', 'tensor([nan, 1., -inf])'),
    ('tensor([[1.5, 2], [3, 4]], dtype=float64)', 'tensor([[1.5000, 2.0000],\n        [3.0000, 4.0000]], dtype=core.float64)'),
    ('tensor([1, 2], dtype=int32)', 'tensor([1, 2], dtype=core.int32)'),
    ('tensor([1.5, 2], dtype=bfloat16)', 'tensor([1.5000, 2.0000], dtype=core.bfloat16)'),
    ('tensor([1 + 2j, -0.5j])', 'tensor([1.+2.0000j, -0.-0.5000j])'),
    ('zeros(0, 3)', 'tensor([], size=(0, 3))'),
    ('zeros(2, 0, dtype=int64)', 'tensor([], size=(2, 0), dtype=core.int64)'),
    ('arange(24).reshape(2, 3, 4)',
     'tensor([[[ 0,  1,  2,  3],\n'
     '         [ 4,  5,  6,  7],\n'
     '         [ 8,  9, 10, 11]],\n'
     '\n'
     '        [[12, 13, 14, 15],\n'
     '         [16, 17, 18, 19],\n'
     '         [20, 21, 22, 23]]])'),
    ('arange(2000)', 'tensor([   0,    1,    2,  ..., 1997, 1998, 1999])'),
    ('ones(2, requires_grad=True)', 'tensor([1., 1.], requires_grad=True)'),
    ('ones(2, requires_grad=True) * 2', 'tensor([2., 2.], grad_fn=<MulBackward0>)'),
    ('ones(2, 2, requires_grad=True).sum()', 'tensor(4., grad_fn=<SumBackward0>)'),
    ('ones(30, dtype=float64)',
     'tensor([1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1.,\n'
     '        1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1.], dtype=core.float64)'),
    ('nn.Parameter(ones(2))', 'Parameter containing:\ntensor([1., 1.], requires_grad=True)'),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "text"), TEXTS)
def test_text(expression: str, text: str) -> None:
    core.tensor(0)  # loads the names
    t: Any = eval(expression, {**vars(core), "nan": float("nan"), "inf": float("inf"), "nn": core.nn})
    assert repr(t) == text


def test_as_torch_prints_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.dtype, "prefix", "torch")
    assert repr(core.ones(1, dtype=core.int32)) == "tensor([1], dtype=torch.int32)"
    assert repr(core.float32) == "torch.float32" and repr(core.ones(2).shape) == "torch.Size([2])"


def test_device_is_named(fake: str) -> None:
    assert repr(core.ones(1, device="cuda")) == "tensor([1.], device='cuda:0')"


def test_options() -> None:
    try:
        core.set_printoptions(precision=2, sci_mode=False, linewidth=20)
        assert str(core.tensor([1.23456, 1e-6, 3.0, 4.0])) == "tensor([1.23, 0.00,\n        3.00, 4.00])"
        core.set_printoptions(profile="full")
        assert "..." not in str(core.arange(2000))
    finally:
        core.set_printoptions(profile="default")
    assert "..." in str(core.arange(2000))
