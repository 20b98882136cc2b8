"""Orthogonal weights by parametrization: orthogonal after every step, and PyTorch's where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import core
from core import nn
from core.errors import ArgumentError
from core.nn.utils.parametrizations import orthogonal

SHAPES = [(4, 4), (5, 3), (3, 5)]
MAPS = ["matrix_exp", "cayley", "householder", None]


def is_orthogonal(w: Any) -> bool:
    w = w.detach().numpy()
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return np.allclose(gram, np.eye(len(gram)), atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("trivialized", [True, False])
def test_weights_stay_orthogonal(shape: Any, name: Any, trivialized: bool) -> None:
    core.manual_seed(0)
    layer = orthogonal(nn.Linear(shape[1], shape[0]).double(), orthogonal_map=name, use_trivialization=trivialized)
    assert is_orthogonal(layer.weight)
    optimizer = core.optim.SGD(layer.parameters(), lr=0.3)
    before = layer.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        layer(core.ones(2, shape[1]).double()).square().sum().backward()
        optimizer.step()
    assert is_orthogonal(layer.weight) and not np.allclose(before.numpy(), layer.weight.detach().numpy(), atol=1e-4)


def test_an_orthogonal_weight_may_be_assigned() -> None:
    core.manual_seed(0)
    q = core.linalg.qr(core.randn(4, 4).double()).Q
    layer = orthogonal(nn.Linear(4, 4).double())
    layer.weight = q
    np.testing.assert_allclose(layer.weight.detach().numpy(), q.numpy(), atol=1e-12)
    with pytest.raises(ArgumentError, match="has to be one of"):
        orthogonal(nn.Linear(2, 2), orthogonal_map="nothing")
    with pytest.raises(ArgumentError, match="matrix"):
        orthogonal(nn.Linear(2, 2), "bias")
    with pytest.raises(ArgumentError, match="complex"):
        orthogonal(nn.Linear(2, 2, dtype=core.complex64), orthogonal_map="householder")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MAPS)
def test_weights_and_gradients_are_torchs(shape: Any, name: Any) -> None:
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(0).standard_normal(shape)
    x = np.random.default_rng(1).standard_normal((2, shape[1]))
    for trivialized in (True, False):
        found = []
        for lib in (core, torch):
            lib.manual_seed(0)
            layer = lib.nn.Linear(shape[1], shape[0]).double()
            layer.weight.data = lib.tensor(start)
            layer.bias.data = lib.zeros(shape[0]).double()
            lib.nn.utils.parametrizations.orthogonal(layer, orthogonal_map=name, use_trivialization=trivialized)
            layer(lib.tensor(x)).pow(2).sum().backward()
            found.append(
                (
                    layer.weight.detach().numpy(),
                    layer.parametrizations.weight.original.grad.numpy(),
                    sorted(layer.state_dict()),
                )
            )
        for a, b in zip(*(f[:2] for f in found)):
            np.testing.assert_allclose(a, b, atol=1e-9)
        assert found[0][2] == found[1][2]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["conv", "transposed", "linear"])
def test_normalisation_folds_into_the_layer_before_it(kind: str, bias: bool) -> None:
    from core.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

    core.manual_seed(0)
    if kind == "linear":
        layer, bn, x = nn.Linear(4, 3, bias=bias), nn.BatchNorm1d(3), core.randn(5, 4)
    else:
        make = nn.Conv2d if kind == "conv" else nn.ConvTranspose2d
        layer, bn, x = make(4, 3, 3, bias=bias), nn.BatchNorm2d(3), core.randn(2, 4, 6, 6)
    model = nn.Sequential(layer, bn).double()
    nn.init.uniform_(bn.weight, 0.5, 2.0)
    nn.init.normal_(bn.bias)
    for _ in range(3):
        model(x.double() * 3 + 1)  # statistics other than 0 and 1
    fuse = fuse_linear_bn_eval if kind == "linear" else fuse_conv_bn_eval
    with pytest.raises(ArgumentError, match="eval"):
        fuse(layer, bn)
    model.eval()
    fused = fuse(layer, bn, *([True] if kind == "transposed" else []))
    assert type(fused) is type(layer) and fused is not layer and fused.bias.requires_grad
    np.testing.assert_allclose(fused(x.double()).detach().numpy(), model(x.double()).detach().numpy(), atol=1e-12)
