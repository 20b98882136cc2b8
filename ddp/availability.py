"""What there is: torch.distributed's questions that need no process group."""

from __future__ import annotations

import os
from importlib.util import find_spec

from core import cuda
from ddp.distributed import ALIASES, ReduceOp
from ddp.transport import TRANSPORTS


def is_available() -> bool:
    """True: nothing has to be compiled in."""
    return True


def is_mpi_available() -> bool:
    """Whether mpi4py is installed."""
    return find_spec("mpi4py") is not None


def is_gloo_available() -> bool:
    """True: a script that asks for "gloo" gets a transport of ours for tensors on the CPU."""
    return True


def is_nccl_available() -> bool:
    """Whether a script may ask for "nccl": there is a GPU to stage tensors from."""
    return bool(cuda.is_available())


def is_ucc_available() -> bool:
    """False: nothing of ours answers to that name on purpose."""
    return False


def is_backend_available(backend: str) -> bool:
    """Whether `init_process_group` takes this name."""
    return backend.lower() in TRANSPORTS or backend.lower() in ALIASES


def is_torchelastic_launched() -> bool:
    """Whether torchrun, or ddprun in its place, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_xccl_available() -> bool:
    """False: there is no transport of ours for Intel's GPUs."""
    return False


def supports_complex(op: str) -> bool:
    """Whether a reduction combines complex numbers."""
    return op in (ReduceOp.SUM, ReduceOp.PRODUCT, ReduceOp.AVG)
