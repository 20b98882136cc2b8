"""The CPU in the place of GPUs, for a program that asks for them: what torch.cuda and torch.accelerator answer then.

Contract: after `stand_in(count)` every device "cuda", with any index, is the CPU; the functions here have the names of
torch's that would open a GPU. Who runs the program (`launch.as_torch`) offers CUDA and ACCELERATOR under torch's paths.
`core.cuda` itself goes on saying that there is no GPU, so memory is not pinned, autocast("cuda") leaves float32,
DataParallel runs its module, and "nccl" is the CPU's way. Not here: graphs, limits of memory; asking for one is the
error that it is without a GPU.
"""

from __future__ import annotations

import os
import time
from typing import Any

from core import devices, rng
from core._tensor import Tensor
from core.errors import DeviceError

CUDA = (
    *("is_available", "device_count", "current_device", "set_device", "device", "init", "is_initialized"),
    *(
        "synchronize",
        "get_device_name",
        "get_device_capability",
        "get_device_properties",
        "mem_get_info",
        "is_bf16_supported",
    ),
    *("Stream", "Event", "stream", "current_stream", "default_stream"),
    *("get_rng_state", "set_rng_state", "get_rng_state_all", "set_rng_state_all", "initial_seed"),
)
ACCELERATOR = (
    *("is_available", "device_count", "current_accelerator", "current_device_index", "current_device_idx"),
    *("set_device_index", "set_device_idx", "synchronize"),
)

_count = 0  # how many GPUs the program sees
_current = 0


def stand_in(count: int) -> None:
    """From here on the CPU stands in for so many GPUs."""
    global _count
    _count = count
    devices.stand_ins["cuda"] = "cpu"


# -- devices -----------------------------------------------------------------------------------------------------------


def is_available() -> bool:
    """Yes."""
    return True


is_initialized = is_available


def device_count() -> int:
    """The number that `stand_in` was given."""
    return _count


def current_device() -> int:
    """The number that `set_device` was given last."""
    return _current


def set_device(where: Any) -> None:
    """Remember a number. A negative one does nothing, as in torch."""
    global _current
    chosen = _index(where)
    if chosen >= _count:
        raise DeviceError(f"device 'cuda:{chosen}': expected an index below {_count}, for so many the CPU stands in")
    _current = chosen if chosen >= 0 else _current


def _index(where: Any) -> int:
    """A number, or that of "cuda:1"; a device has lost its own, as it is the CPU."""
    if isinstance(where, str) and where.rpartition(":")[2].isdigit():
        return int(where.rpartition(":")[2])
    return where if isinstance(where, int) else _current


class device:
    """`with device(1):` that number is the current one inside."""

    def __init__(self, where: Any):
        self.where = where

    def __enter__(self) -> None:
        self._before = _current
        set_device(self.where)

    def __exit__(self, *exc: object) -> None:
        set_device(self._before)


def init() -> None:
    """Nothing has to be opened."""


def synchronize(where: Any = None) -> None:
    """All is done when a call returns."""


def current_accelerator(check_available: bool = False) -> devices.device:
    """The CPU."""
    return devices.device("cpu")


current_device_index = current_device_idx = current_device
set_device_index = set_device_idx = set_device


# -- what there is -----------------------------------------------------------------------------------------------------


def get_device_name(where: Any = None) -> str:
    """That it is the CPU."""
    return "CPU"


def get_device_capability(where: Any = None) -> tuple[int, int]:
    """No capability of CUDA's: (0, 0)."""
    return 0, 0


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Tensors may be bfloat16; autocast("cuda") leaves them float32."""
    return True


class _Properties:
    name, major, minor = "CPU", 0, 0

    def __init__(self) -> None:
        self.total_memory, self.multi_processor_count = mem_get_info()[1], os.cpu_count() or 1


def get_device_properties(where: Any = None) -> Any:
    """name, major, minor, total_memory (bytes), multi_processor_count (cores)"""
    return _Properties()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of the host."""
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")


# -- streams: work is done in the order of the calls -------------------------------------------------------------------


class Stream:
    """A queue that is always empty."""

    cuda_stream = 0

    def __init__(self, device: Any = None, priority: int = 0):
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def synchronize(self) -> None:
        """All is done."""

    def query(self) -> bool:
        """All is done."""
        return True

    def record_event(self, event: Any = None) -> Any:
        """An event that has happened."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Any) -> None:
        """It has happened."""

    wait_stream = wait_event


class Event:
    """A moment, by the clock of the host."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        self.at_s = 0.0

    def record(self, stream: Any = None) -> None:
        """Now."""
        self.at_s = time.perf_counter()

    def wait(self, stream: Any = None) -> None:
        """It has happened."""

    synchronize = wait

    def query(self) -> bool:
        """It has happened."""
        return True

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from here to another event."""
        return float(1e3 * (end.at_s - self.at_s))


def current_stream(where: Any = None) -> Stream:
    """A queue that is always empty."""
    return Stream()


default_stream = current_stream


class stream:
    """`with stream(s):` changes nothing."""

    def __init__(self, s: Stream | None):
        self.s = s

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


# -- random numbers: the CPU's generator draws them all ----------------------------------------------------------------


def initial_seed() -> int:
    """The seed that the CPU's numbers were last started from."""
    return int(rng.initial_seed())


def get_rng_state(device: Any = "cuda") -> Tensor:
    """The state of the CPU's generator."""
    return rng.get_rng_state()


def set_rng_state(new_state: Tensor, device: Any = "cuda") -> None:
    """Go back to a state that `get_rng_state` returned."""
    rng.set_rng_state(new_state)


def get_rng_state_all() -> list[Tensor]:
    """The same state for all."""
    return [get_rng_state() for _ in range(_count)]


def set_rng_state_all(new_states: Any) -> None:
    """Set the state; there is one."""
    for state in new_states:
        set_rng_state(state)
