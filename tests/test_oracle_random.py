"""Random streams against PyTorch's, number by number: in every floating dtype, for lengths around the blocks that are drawn at once."""

from __future__ import annotations

import numpy as np
import pytest

import core
from core.functions.sampling import standard_gamma_draws

torch = pytest.importorskip("torch")

DTYPES = ["float16", "bfloat16", "float32", "float64"]


def seeded(seed: int = 3) -> None:
    core.manual_seed(seed)
    torch.manual_seed(seed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 16, 17, 20_000])
def test_uniform_numbers_are_torchs_to_the_last_bit(dtype: str, n: int) -> None:
    for a, b in ((0, 1), (-0.3, 0.7), (-1e-3, 1e-3), (2.0, 5.0)):
        seeded()
        ours = core.empty(n, dtype=getattr(core, dtype)).uniform_(a, b)
        np.testing.assert_array_equal(
            ours.double().numpy(), torch.empty(n, dtype=getattr(torch, dtype)).uniform_(a, b).double().numpy()
        )
    seeded()
    np.testing.assert_array_equal(
        core.rand(n, dtype=ours.dtype).double().numpy(), torch.rand(n, dtype=getattr(torch, dtype)).double().numpy()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 32, 33, 1000])
def test_normal_numbers_come_from_the_same_draws(dtype: str, n: int) -> None:
    seeded()
    ours = core.randn(n, dtype=getattr(core, dtype)).double().numpy()
    theirs = torch.randn(n, dtype=getattr(torch, dtype)).double().numpy()
    np.testing.assert_allclose(
        ours, theirs, rtol={"float16": 2e-3, "bfloat16": 2e-2, "float32": 2e-6, "float64": 1e-12}[dtype], atol=1e-6
    )
    assert core.rand(()).item() == torch.rand(()).item()  # and as many of them


@pytest.mark.parametrize(("count", "p"), [(5, 0.3), (50, 0.4), (100, 0.9), (1000, 0.02), (40, 0.5), (3, 0.0), (3, 1.0)])
def test_binomial_numbers(count: int, p: float) -> None:
    seeded()
    ours = core.binomial(core.full((200,), float(count)), core.full((200,), p))
    theirs = torch.binomial(torch.full((200,), float(count)), torch.full((200,), p))
    assert ours.dtype is core.float32 and ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5, 30.0])
def test_gamma_numbers(alpha: float) -> None:
    seeded()
    theirs = torch._standard_gamma(torch.full((100,), alpha, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(standard_gamma_draws(np.full(100, alpha)), theirs, rtol=1e-6)
