"""Many processes train one model: torch.distributed's API over MPI, ZeroMQ, or threads.

Importing this package opens nothing and loads little; names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_HOMES = {
    "DataParallel": "core.nn",  # torch keeps both under torch.nn.parallel
    "DeviceMesh": "ddp.device_mesh",
    "DistributedDataParallel": "ddp.parallel",
    "DistributedSampler": "ddp.sampler",
    "Lockstep": "ddp.lockstep",
    "Shard": "ddp.lockstep",
    "Step": "ddp.lockstep",
    "ExcludedError": "ddp.lockstep",
    "FingerprintError": "ddp.lockstep",
    "DivergenceError": "ddp.lockstep",
    "ExactDistributedSampler": "ddp.sampler",
    "FileStore": "ddp.store",
    "GradBucket": "ddp.comm_hooks",
    "HashStore": "ddp.store",
    "P2POp": "ddp.point_to_point",
    "ProgressBar": "ddp.progress",
    "PrefixStore": "ddp.store",
    "ProcessGroup": "ddp.group",
    "Sentinel": "ddp.sentinel",
    "Store": "ddp.store",
    "SyncBatchNorm": "ddp.sync_batchnorm",
    "TCPStore": "ddp.store",
    "Work": "ddp.group",
    "World": "ddp.env",
    "all_gather_object": "ddp.objects",
    "batch_isend_irecv": "ddp.point_to_point",
    "broadcast_object_list": "ddp.objects",
    "convert_sync_batchnorm": "ddp.sync_batchnorm",
    "diagnose": "ddp.doctor",
    "gather_object": "ddp.objects",
    "init_device_mesh": "ddp.device_mesh",
    "is_available": "ddp.availability",
    "is_backend_available": "ddp.availability",
    "is_gloo_available": "ddp.availability",
    "is_mpi_available": "ddp.availability",
    "is_nccl_available": "ddp.availability",
    "is_torchelastic_launched": "ddp.availability",
    "is_ucc_available": "ddp.availability",
    "is_xccl_available": "ddp.availability",
    "supports_complex": "ddp.availability",
    "recv_object_list": "ddp.objects",
    "scatter_object_list": "ddp.objects",
    "send_object_list": "ddp.objects",
    "sum_over_ranks": "ddp.sampler",
    "world_from_env": "ddp.env",
}
_RENAMED = {"dump_recorder": ("ddp.recorder", "dump")}


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in _HOMES and ((_HERE / f"{name}.py").exists() or (_HERE / name / "__init__.py").exists()):
        return import_module(f"ddp.{name}")
    home, known_as = _RENAMED.get(name, (_HOMES.get(name, "ddp.distributed"), name))
    try:
        value = getattr(import_module(home), known_as)
    except AttributeError:
        raise AttributeError(f"module 'ddp' has no attribute '{name}'") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    names = (n for n in vars(import_module("ddp.distributed")) if not n.startswith("_"))
    return sorted({*globals(), *_HOMES, *_RENAMED, *names})
