"""Random numbers: PyTorch's streams, written down, so that they are held without PyTorch; `test_oracle_ops` compares many more."""

from __future__ import annotations

import numpy as np
import pytest

import core
import core.nn.functional as F
from core import rng
from core.errors import ArgumentError, DTypeError
from core.philox import PhiloxGenerator
from tests import devices

device = devices.device

# what torch 2.13 gives after torch.manual_seed(0)
RAND = [0.49625658988952637, 0.7682217955589294, 0.08847743272781372]
RANDN = [1.5409960746765137, -0.293428897857666, -2.1787893772125244]
RANDN_20 = [-1.1258398294448853, -1.1523602008819580, -0.2505785822868347, -0.4338788092136383]
RANDINT = [4, 9, 3, 0, 3, 9, 7, 3]
RANDPERM = [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]
DROPOUT = [0, 0, 2, 0, 0, 0, 2, 2, 0, 2]


@pytest.fixture(autouse=True)
def seeded() -> None:
    core.manual_seed(0)


def test_uniform_stream(device: str) -> None:
    assert core.rand(3, device=device).tolist() == RAND


def test_normal_streams(device: str) -> None:
    np.testing.assert_allclose(core.randn(3, device=device).tolist(), RANDN, rtol=5e-7)
    core.manual_seed(0)
    np.testing.assert_allclose(core.randn(4, 5, device=device).flatten()[:4].tolist(), RANDN_20, rtol=5e-7)


def test_integer_streams(device: str) -> None:
    assert core.randint(10, (8,), device=device).tolist() == RANDINT
    core.manual_seed(0)
    assert core.randperm(10, device=device).tolist() == RANDPERM


def test_dropout(device: str) -> None:
    x = core.ones(10, device=device, requires_grad=True)
    y = F.dropout(x, 0.5)
    expected = DROPOUT
    if device != "cpu":  # a GPU draws its masks itself, by Philox
        expected = [2.0 * k for k in (PhiloxGenerator(0).uniform(10, np.dtype(np.float64)) < 0.5)]
    assert y.tolist() == expected
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == expected
    assert F.dropout(x, 0.5, training=False) is x and F.dropout(x, 1.0).tolist() == [0.0] * 10
    with pytest.raises(ArgumentError, match="between 0 and 1"):
        F.dropout(x, 1.5)


def test_in_place(device: str) -> None:
    x = core.empty(3, device=device)
    assert x.uniform_().tolist() == RAND
    core.manual_seed(0)
    np.testing.assert_allclose(x.normal_(1.0, 2.0).tolist(), [1 + 2 * z for z in RANDN], rtol=1e-6)
    core.manual_seed(0)
    assert core.empty(8, device=device).random_(10).tolist() == RANDINT
    assert set(core.empty(100, device=device).bernoulli_(0.3).tolist()) == {0.0, 1.0}
    with pytest.raises(RuntimeError, match="leaf"):
        core.ones(2, requires_grad=True).normal_()


def test_moments() -> None:
    z, u = core.randn(100_000), core.rand(100_000)
    assert abs(z.mean().item()) < 0.01 and abs(z.std().item() - 1) < 0.01
    assert abs(u.mean().item() - 0.5) < 0.01 and 0 <= u.min().item() and u.max().item() < 1
    n = core.normal(core.zeros(1000), core.full((1000,), 2.0))
    assert abs(n.std().item() - 2) < 0.2
    assert abs(core.bernoulli(core.full((10_000,), 0.3)).mean().item() - 0.3) < 0.02


def test_seed_and_state() -> None:
    assert core.initial_seed() == 0
    core.randn(5)  # leaves half a pair behind
    state = core.get_rng_state()
    first = core.randn(3).tolist(), core.rand(700).tolist()
    core.set_rng_state(state)
    assert (core.randn(3).tolist(), core.rand(700).tolist()) == first
    with core.fork_rng():
        core.rand(10)
    core.set_rng_state(state)
    assert core.randn(3).tolist() == first[0]
    assert core.seed() == core.initial_seed()
    with pytest.raises(ArgumentError, match="what get_state returned"):
        core.set_rng_state(core.zeros(3))


def test_generators_are_independent() -> None:
    g = core.Generator().manual_seed(0)
    core.rand(100)
    assert core.rand(3, generator=g).tolist() == RAND
    assert core.randperm(10, generator=g.manual_seed(0)).tolist() == RANDPERM


def test_mistakes() -> None:
    with pytest.raises(DTypeError, match="floating dtype"):
        core.rand(2, dtype=core.int64)
    with pytest.raises(ArgumentError, match="low < high"):
        core.randint(5, 5, (2,))
    with pytest.raises(ArgumentError, match="from 0 to 1"):
        core.bernoulli(core.tensor([2.0]))


@pytest.mark.parametrize("d", [core.float16, core.bfloat16, core.float32, core.float64], ids=str)
def test_dtypes(d: core.dtype) -> None:
    assert core.rand(20, dtype=d).dtype is core.randn(3, dtype=d).dtype is core.randn(20, dtype=d).dtype is d
    x = core.zeros(2, 2, dtype=d)
    assert core.rand_like(x).dtype is core.randn_like(x).dtype is d


@pytest.mark.parametrize("p", [0.0, 0.1, 1 / 3, 1 - 2**-53, 1.0, 1 / 2**21, ((1 << 32) + 8) / 2**53])
def test_below_is_what_uniform_says(p: float) -> None:
    class Tied(rng.Generator):
        def words(self, n: int) -> np.ndarray:
            return np.tile(np.array([(5 << 21) | 1, 7, 1, 8, 1, 9, 2, 0], np.uint64), n // 8)

    for one, other in ((rng.Generator(), rng.Generator()), (Tied(), Tied())):
        assert np.array_equal(one.below(400, p), other.uniform(400, np.dtype(np.float64)) < p)
