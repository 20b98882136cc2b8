"""Training on W ranks gives the parameters of one process on the whole batch, whatever carries the gradients."""

import numpy as np
import pytest

import core
import ddp
from tests import jobs
from tests.programs.train import train

TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture(scope="module")
def alone():
    """What one process makes of it."""
    return {dtype: ddp.run_threads(1, lambda d=dtype: train(getattr(core, d)))[0] for dtype in TOLERANCE}


def assert_same(params, expected, dtype):
    assert len(params) == len(expected)
    for p, e in zip(params, expected):
        assert np.abs(p - e).max() <= TOLERANCE[dtype] * np.abs(e).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_threads(size, dtype, alone):
    for params in ddp.run_threads(size, lambda: train(getattr(core, dtype))):
        assert_same(params, alone[dtype], dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("launcher", ["ddprun", pytest.param("mpiexec", marks=jobs.needs_mpi)])
def test_processes(launcher, size, dtype, alone, tmp_path):
    out = tmp_path / "params.npz"
    jobs.run(jobs.command(launcher, size, "train.py", out, dtype))
    saved = np.load(out)
    assert_same([saved[k] for k in saved.files], alone[dtype], dtype)
