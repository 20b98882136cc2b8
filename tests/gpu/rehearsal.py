"""Lets the device made of NumPy be "cuda" for this process, for good: with our kernels where there is a C++ compiler, a cuBLASLt and a NCCL
made of NumPy, and no cuDNN.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

from core import backend
from core.backend.cuda import gemm
from core.backend.cuda.kernels import INSTANCES
from tests.fake_cuda import FakeCUDA
from tests.gpu import shim
from tests.test_cuda_logic import FakeLt
from tests.test_cuda_nccl import FakeNccl


def install(kernels: bool = True) -> None:
    """`kernels`: whether ours run, which takes a minute to compile the first time."""
    backend.BACKENDS["cuda"] = "tests.fake_cuda:FakeCUDA"
    FakeCUDA.kernels = shim.Shim(INSTANCES) if kernels and shim.compiler() else None
    bindings = SimpleNamespace(cublasLt=FakeLt(), cublas=SimpleNamespace(ComputeType=FakeLt.ComputeType))
    sys.modules["nvmath"] = sys.modules["nvmath.bindings"] = bindings  # type: ignore[assignment]
    bindings.bindings = bindings
    nccl = FakeNccl()
    FakeCUDA.nccl = lambda self: nccl  # type: ignore[method-assign]
    be = backend.get("cuda")
    be.gemm = gemm.Gemm(be.xp)  # type: ignore[attr-defined]


def is_plain() -> bool:
    """Whether none of our kernels run here, so that a step with counts cannot be captured."""
    return is_on() and backend.get("cuda").launch is None  # type: ignore[attr-defined]


def is_on() -> bool:
    """Whether what is "cuda" here is no GPU."""
    return isinstance(backend.get("cuda"), FakeCUDA)
