"""torch.cuda: GPUs, their memory, streams and events. Without a GPU every question has its honest answer and nothing is opened.

What computes on a GPU is `core.backend.cuda`; here are the manners around it.
"""

from __future__ import annotations

from typing import Any

from core import tensor_types
from core.backend.cuda import is_available
from core.cuda.graphs import (
    CUDAGraph,
    GraphedStep,
    graph,
    graph_pool_handle,
    is_current_stream_capturing,
    make_graphed_callables,
)
from core.cuda.memory import (
    empty_cache,
    max_memory_allocated,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    memory_summary,
    reset_peak_memory_stats,
    set_per_process_memory_fraction,
)
from core.cuda.place import current_device, device, is_initialized
from core.cuda.place import gpu as _gpu
from core.cuda.place import index as _index
from core.cuda.random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)
from core.cuda.streams import Event, Stream, current_stream, default_stream, stream

globals().update(tensor_types.CUDA)


def __getattr__(name: str) -> Any:
    """`OutOfMemoryError`: what a GPU without room for an array raises."""
    if name != "OutOfMemoryError":
        raise AttributeError(f"module 'core.cuda' has no attribute {name!r}")
    return _gpu().xp.cuda.memory.OutOfMemoryError if is_available() else MemoryError


def device_count() -> int:
    """How many GPUs there are; 0 without CuPy or a driver."""
    return _gpu().count() if is_available() else 0


def init() -> None:
    """Open the GPU now rather than on first use."""
    _gpu()


def set_device(where: Any) -> None:
    """Choose the GPU that new tensors go to. A negative index does nothing, as in torch."""
    if not (isinstance(where, int) and where < 0):
        _gpu().xp.cuda.Device(_index(where)).use()


def get_device_name(where: Any = None) -> str:
    """What the GPU calls itself."""
    return _gpu().xp.cuda.runtime.getDeviceProperties(_index(where))["name"].decode()


def get_device_capability(where: Any = None) -> tuple[int, int]:
    """(major, minor) of its compute capability."""
    properties = get_device_properties(where)
    return properties.major, properties.minor


class _Properties:
    def __init__(self, raw: dict[str, Any]):
        self.name = raw["name"].decode()
        self.major, self.minor = raw["major"], raw["minor"]
        self.total_memory, self.multi_processor_count = raw["totalGlobalMem"], raw["multiProcessorCount"]


def get_device_properties(where: Any = None) -> Any:
    """name, major, minor, total_memory (bytes), multi_processor_count"""
    return _Properties(_gpu().xp.cuda.runtime.getDeviceProperties(_index(where)))


def synchronize(where: Any = None) -> None:
    """Wait until the GPU has done everything asked for."""
    with device(where):
        _gpu().xp.cuda.runtime.deviceSynchronize()


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether there is a GPU with bfloat16 arithmetic (compute capability 8.0)."""
    return is_available() and get_device_capability() >= (8, 0)


from core.cuda import amp  # noqa: E402  (it asks for names above)
