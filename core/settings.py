"""torch's constants and global switches. A switch that decides nothing here can still be set and asked for, as scripts do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import dtypes
from core._tensor import Tensor
from core.backend.switches import SWITCHES
from core.engine import mode
from core.errors import ArgumentError, DTypeError

__all__ = [
    "are_deterministic_algorithms_enabled", "can_cast", "channels_last", "channels_last_3d", "compile", "contiguous_format", "e",
    "finfo", "get_autocast_dtype", "get_float32_matmul_precision", "get_num_interop_threads", "get_num_threads", "iinfo", "inf",
    "is_anomaly_enabled", "is_autocast_enabled", "is_complex", "is_floating_point", "is_storage", "layout", "memory_format", "nan",
        "newaxis",
    "pi", "preserve_format", "promote_types", "result_type", "set_anomaly_enabled", "set_float32_matmul_precision", "set_flush_denormal",
    "set_num_interop_threads", "set_num_threads", "sparse_coo", "strided", "typename", "use_deterministic_algorithms",
]  # fmt: skip

inf, nan, pi, e = math.inf, math.nan, math.pi, math.e
newaxis = None


class _Word:
    """A word that stands for itself in calls."""

    def __init__(self, name: str):
        self._name = name

    def __repr__(self) -> str:
        return f"{dtypes.dtype.prefix}.{self._name}"


class memory_format(_Word):
    """How the dimensions of a tensor lie in memory. Ours are always in index order."""


class layout(_Word):
    """How a tensor is stored."""


contiguous_format, preserve_format = memory_format("contiguous_format"), memory_format("preserve_format")
channels_last, channels_last_3d = memory_format("channels_last"), memory_format("channels_last_3d")
strided, sparse_coo = layout("strided"), layout("sparse_coo")


# -- dtypes ------------------------------------------------------------------------------------------------------------


def is_floating_point(input: Tensor) -> bool:
    """Whether the tensor's dtype is a floating one."""
    return input.dtype.is_floating_point


def is_complex(input: Tensor) -> bool:
    """Whether the tensor's dtype is a complex one."""
    return input.dtype.is_complex


def is_storage(obj: Any) -> bool:
    """False: memory is the array's own."""
    return False


def promote_types(type1: dtypes.dtype, type2: dtypes.dtype) -> dtypes.dtype:
    """The smallest dtype that holds both."""
    return dtypes.of(dtypes.join(type1.numpy, type2.numpy))


def result_type(x: Any, y: Any) -> dtypes.dtype:
    """The dtype of x + y."""
    return dtypes.of(dtypes.result_numpy(*(a._a if isinstance(a, Tensor) else a for a in (x, y))))


def can_cast(from_: dtypes.dtype, to: dtypes.dtype) -> bool:
    """Whether a conversion keeps the category or raises it: no complex to real, no floating to integer, none to bool."""
    return from_.category <= to.category


class finfo:
    """bits, eps, max, min, tiny, smallest_normal, resolution of a floating dtype, as Python floats."""

    def __init__(self, type: dtypes.dtype | None = None):
        d = dtypes.get_default_dtype() if type is None else type
        if not (d.is_floating_point or d.is_complex):
            raise DTypeError(f"finfo: expected a floating dtype, got {d}; use iinfo")
        import ml_dtypes

        info = ml_dtypes.finfo(d.to_real().numpy)
        self.bits, self.dtype = info.bits, d.to_real().name
        for name in ("eps", "max", "min", "tiny", "smallest_normal", "resolution"):
            setattr(self, name, float(getattr(info, name)))


class iinfo:
    """bits, max, min of an integer dtype, as Python ints."""

    def __init__(self, type: dtypes.dtype):
        if type.category != dtypes.INTEGER:
            raise DTypeError(f"iinfo: expected an integer dtype, got {type}; use finfo")
        info = np.iinfo(type.numpy)
        self.bits, self.max, self.min, self.dtype = info.bits, int(info.max), int(info.min), type.name


def typename(obj: Any) -> str:
    """The name of the type of a tensor, "torch.FloatTensor", or of any object."""
    from core import functions

    return functions.type_(obj) if isinstance(obj, Tensor) else f"{type(obj).__module__}.{type(obj).__qualname__}"


# -- switches ----------------------------------------------------------------------------------------------------------

_switches: dict[str, Any] = {"deterministic": False, "matmul": "highest"}  # on a GPU they turn those of `core.backend`, too


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """On a CPU every op gives the same bits for the same input and threads anyway; on a GPU cuDNN is held to kernels that do."""
    _switches["deterministic"] = SWITCHES.deterministic = mode


def are_deterministic_algorithms_enabled() -> bool:
    """What `use_deterministic_algorithms` was told."""
    return _switches["deterministic"]


def set_float32_matmul_precision(precision: str) -> None:
    """"highest", "high" or "medium": all but the first let products on a GPU use TF32. Those on a CPU are always exact float32."""
    if precision not in ("highest", "high", "medium"):
        raise ArgumentError(f"set_float32_matmul_precision: expected 'highest', 'high' or 'medium', got {precision!r}")
    _switches["matmul"], SWITCHES.matmul_tf32 = precision, precision != "highest"


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` was told."""
    return _switches["matmul"]


def set_flush_denormal(mode: bool) -> bool:
    """False: not supported, as torch answers where it is not."""
    return False


def compile(model: Any = None, **options: Any) -> Any:
    """The model or function itself: there is nothing to compile. Also as a decorator, with or without options."""
    return (lambda f: f) if model is None else model


def set_num_threads(n: int) -> None:
    """How many threads the kernels of the CPU use."""
    from core.backend import threads

    threads.set_num_threads(n)


def get_num_threads() -> int:
    """How many threads the kernels of the CPU use."""
    from core.backend import threads

    return threads.get_num_threads()


def set_num_interop_threads(n: int) -> None:
    """Ops run one after the other here, whatever n is."""


def get_num_interop_threads() -> int:
    """1: see `set_num_interop_threads`."""
    return 1


def is_anomaly_enabled() -> bool:
    """Whether `autograd.set_detect_anomaly` is on."""
    return mode.anomaly


def set_anomaly_enabled(enabled: bool, check_nan: bool = True) -> None:
    """Turn `autograd.set_detect_anomaly` on or off."""
    mode.anomaly = enabled


def is_autocast_enabled(device_type: str | None = None) -> bool:
    """Whether the code is inside of `autocast`, for this type of device or any."""
    return mode.autocast is not None and device_type in (None, mode.autocast.device)


def get_autocast_dtype(device_type: str) -> dtypes.dtype:
    """The dtype that `autocast` computes in: the default one outside of it."""
    if is_autocast_enabled(device_type):
        return mode.autocast.fast_dtype
    return dtypes.bfloat16 if device_type == "cpu" else dtypes.float16
