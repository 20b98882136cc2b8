"""The shared library: finding it, its prototypes, and who owns what it makes.

Contract: `get()` is the library, loaded at the first call, or None where there is none that fits; it never raises, and `reason()` says
what was tried. `call` checks a status and names the call that failed. A `Handle` destroys its object exactly once, when nothing refers to
it any more. Constants are those of the C API v3 (dnnl_types.h); the wheel has no header.
Not here: what the objects mean (`primitives`), which arrays go in (`kernels`).

    LOCKSTEP_ONEDNN=off      NumPy computes everything
    LOCKSTEP_ONEDNN=PATH     this library and no other
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

from core.errors import CoreError

VARIABLE = "LOCKSTEP_ONEDNN"
WHEEL = "onednn-cpu-gomp"
FILE = "libdnnl.so.3"
OLDEST = (3, 0)  # the API with opaque memory descriptors and scales as flags

# -- constants ---------------------------------------------------------------------------------------------------------

INVALID, UNIMPLEMENTED = 2, 3
STATUS = [
    "success", "out of memory", "invalid arguments", "unimplemented", "last implementation reached", "runtime error", "not required",
    "invalid graph", "invalid graph op", "invalid shape", "invalid data type",
]  # fmt: skip
UNDEF, BF16, F32, U8 = 0, 2, 3, 6  # dnnl_data_type_t
CPU, IN_ORDER, ANY = 1, 1, 1  # engine kind, stream flags, format tag
TRAINING, INFERENCE, BACKWARD = 64, 96, 128  # dnnl_prop_kind_t
# dnnl_alg_kind_t; of the averages the one that counts padding
RELU, SQRT, LINEAR, LOGISTIC, EXP, GELU_TANH, POWER, GELU_ERF = 0x20, 0x25, 0x26, 0x29, 0x2A, 0x2B, 0x30, 0x31
MULTIPLY, SUBTRACT, LOG_SOFTMAX = 0x1FFF1, 0x1FFF5, 0x30001
DIRECT, MAX, AVERAGE, ADD, SOFTMAX = 0x1, 0x1FF, 0x2FF, 0x1FFF0, 0x30000
USE_GLOBAL_STATS, USE_SCALE, USE_SHIFT, FUSE_RELU = 1, 2, 4, 8  # dnnl_normalization_flags_t
USER_SCRATCHPAD = 1
IMPLEMENTATION, SCRATCHPAD_MD, EXEC_ARG_MD = 8, 136, 255  # dnnl_query_t
# execution arguments
SRC, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT, WORKSPACE, SCRATCHPAD = 1, 17, 33, 41, 49, 50, 51, 52, 64, 80
OTHER, AFTER = (
    2,
    32768,
)  # the second operand of a sum or product; AFTER·(i + 1) + OTHER: that of operation i in what follows
SRC_STATE, SRC_CELL, DST_STATE, DST_CELL, WEIGHTS_STATE = 2, 3, 18, 19, 34  # of a recurrent layer
DIFF = 128  # DIFF + SRC is the gradient of SRC, and so on
DIFF_SCALE, DIFF_SHIFT = 255, 256


class Version(ctypes.Structure):
    _fields_ = [("major", c_int), ("minor", c_int), ("patch", c_int), ("hash", c_char_p), ("runtimes", c_uint * 2)]


class ExecArg(ctypes.Structure):
    _fields_ = [("arg", c_int), ("memory", c_void_p)]


# -- prototypes --------------------------------------------------------------------------------------------------------

_P, _OUT, _DIMS, _ALG = c_void_p, POINTER(c_void_p), POINTER(c_int64), c_int

# arguments of what returns a status
CHECKED: dict[str, list[Any]] = {
    "dnnl_engine_create": [_OUT, c_int, c_size_t],
    "dnnl_engine_destroy": [_P],
    "dnnl_stream_create": [_OUT, _P, c_uint],
    "dnnl_stream_destroy": [_P],
    "dnnl_memory_desc_create_with_strides": [_OUT, c_int, _DIMS, c_int, _DIMS],
    "dnnl_memory_desc_create_with_tag": [_OUT, c_int, _DIMS, c_int, c_int],
    "dnnl_memory_desc_destroy": [_P],
    "dnnl_memory_create": [_OUT, _P, _P, _P],
    "dnnl_memory_set_data_handle": [_P, _P],
    "dnnl_memory_destroy": [_P],
    "dnnl_primitive_attr_create": [_OUT],
    "dnnl_primitive_attr_set_scratchpad_mode": [_P, c_int],
    "dnnl_primitive_attr_set_post_ops": [_P, _P],
    "dnnl_primitive_attr_destroy": [_P],
    "dnnl_post_ops_create": [_OUT],
    "dnnl_post_ops_append_sum": [_P, c_float, c_int32, c_int],
    "dnnl_post_ops_append_eltwise": [_P, _ALG, c_float, c_float],
    "dnnl_post_ops_append_binary": [_P, _ALG, _P],
    "dnnl_post_ops_destroy": [_P],
    "dnnl_primitive_create": [_OUT, _P],
    "dnnl_primitive_execute": [_P, _P, c_int, POINTER(ExecArg)],
    "dnnl_primitive_destroy": [_P],
    "dnnl_primitive_desc_destroy": [_P],
    "dnnl_primitive_desc_next_impl": [_P],
    "dnnl_primitive_desc_query": [_P, c_int, c_int, _P],
    # descriptors of primitives: (out, engine, what defines it …, [hint], attributes)
    "dnnl_reorder_primitive_desc_create": [_OUT, _P, _P, _P, _P, _P],
    "dnnl_matmul_primitive_desc_create": [_OUT, _P, _P, _P, _P, _P, _P],
    "dnnl_convolution_forward_primitive_desc_create": [_OUT, _P, c_int, _ALG, *[_P] * 4, *[_DIMS] * 4, _P],
    "dnnl_convolution_backward_data_primitive_desc_create": [_OUT, _P, _ALG, *[_P] * 3, *[_DIMS] * 4, _P, _P],
    "dnnl_convolution_backward_weights_primitive_desc_create": [_OUT, _P, _ALG, *[_P] * 4, *[_DIMS] * 4, _P, _P],
    "dnnl_pooling_forward_primitive_desc_create": [_OUT, _P, c_int, _ALG, _P, _P, *[_DIMS] * 5, _P],
    "dnnl_pooling_backward_primitive_desc_create": [_OUT, _P, _ALG, _P, _P, *[_DIMS] * 5, _P, _P],
    "dnnl_batch_normalization_forward_primitive_desc_create": [_OUT, _P, c_int, _P, _P, c_float, c_uint, _P],
    "dnnl_batch_normalization_backward_primitive_desc_create": [_OUT, _P, c_int, *[_P] * 3, c_float, c_uint, _P, _P],
    "dnnl_layer_normalization_forward_primitive_desc_create": [_OUT, _P, c_int, _P, _P, _P, c_float, c_uint, _P],
    "dnnl_layer_normalization_backward_primitive_desc_create": [_OUT, _P, c_int, *[_P] * 4, c_float, c_uint, _P, _P],
    "dnnl_eltwise_forward_primitive_desc_create": [_OUT, _P, c_int, _ALG, _P, _P, c_float, c_float, _P],
    "dnnl_eltwise_backward_primitive_desc_create": [_OUT, _P, _ALG, _P, _P, _P, c_float, c_float, _P, _P],
    "dnnl_binary_primitive_desc_create": [_OUT, _P, _ALG, _P, _P, _P, _P],
    "dnnl_lstm_forward_primitive_desc_create": [_OUT, _P, c_int, c_int, *[_P] * 11, c_uint, _P],
    "dnnl_lstm_backward_primitive_desc_create": [_OUT, _P, c_int, c_int, *[_P] * 22, c_uint, _P, _P],
    "dnnl_softmax_forward_primitive_desc_create": [_OUT, _P, c_int, _ALG, _P, _P, c_int, _P],
    "dnnl_softmax_backward_primitive_desc_create": [_OUT, _P, _ALG, _P, _P, _P, c_int, _P, _P],
}

# (what it returns, arguments) of the rest
PLAIN: dict[str, tuple[Any, list[Any]]] = {
    "dnnl_version": (POINTER(Version), []),
    "dnnl_get_effective_cpu_isa": (c_int, []),
    "dnnl_cpu_isa2str": (c_char_p, [c_int]),
    "dnnl_memory_desc_equal": (c_int, [_P, _P]),
    "dnnl_memory_desc_get_size": (c_size_t, [_P]),
    "dnnl_primitive_desc_query_md": (_P, [_P, c_int, c_int]),
}


class OneDNNError(CoreError, RuntimeError):
    """A call of oneDNN that failed."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Library:
    """A loaded oneDNN: its `functions` by name, and its engine."""

    def __init__(self, path: str):
        dll = ctypes.CDLL(path)
        self.path = path
        self.functions: dict[str, Any] = {}
        for name, (result, arguments) in {**{n: (c_int, a) for n, a in CHECKED.items()}, **PLAIN}.items():
            function = getattr(dll, name)
            function.restype, function.argtypes = result, arguments
            self.functions[name] = function
        # What is called most, by arguments that are ctypes objects already: without a prototype it begins in two thirds of the time.
        self.execute, self.put = dll["dnnl_primitive_execute"], dll["dnnl_memory_set_data_handle"]
        v = self.functions["dnnl_version"]().contents
        self.version = (v.major, v.minor, v.patch)
        if not OLDEST <= self.version < (4,):
            raise OSError(f"expected oneDNN 3.x, got {'.'.join(map(str, self.version))}")
        self.engine = Handle(self, "dnnl_engine", "create", CPU, 0)
        # of the OpenMP that it is linked with; a build without OpenMP has none
        self.set_threads, self.max_threads = (
            getattr(dll, f"omp_{n}", None) for n in ("set_num_threads", "get_max_threads")
        )

    def call(self, name: str, *args: Any) -> None:
        status = self.functions[name](*args)
        if status:
            raise failure(name, status)

    @property
    def isa(self) -> str:
        """The instruction set that its kernels use, e.g. `avx512_core_bf16`."""
        return (
            self.functions["dnnl_cpu_isa2str"](self.functions["dnnl_get_effective_cpu_isa"]())
            .decode()
            .removeprefix("cpu_isa_")
        )


def failure(name: str, status: int) -> OneDNNError:
    """The error for a status."""
    text = STATUS[status] if 0 <= status < len(STATUS) else "unknown"
    message = f"oneDNN: {name}: expected status 0, got {status} ({text}); {VARIABLE}=off lets NumPy compute instead"
    return OneDNNError(message, status)


class Handle:
    """Owns one object of oneDNN. `kind` and `_destroy` name the function that ends it; `make` is the rest of the name of what made it."""

    __slots__ = ("kind", "value", "_destroy")

    alive: set[tuple[str, int]] = set()  # every object there is; the tests look for leaks

    def __init__(self, library: Library, kind: str, make: str, *args: Any, maker: str | None = None):
        value = c_void_p()
        self.value: int | None = None
        library.call(f"{maker or kind}_{make}", ctypes.byref(value), *args)
        self.kind = kind
        self.value = value.value
        self._destroy = library.functions[f"{kind}_destroy"]
        assert value.value is not None
        self.alive.add((kind, value.value))

    def __del__(self) -> None:
        if self.value is not None:
            self.alive.discard((self.kind, self.value))
            self._destroy(self.value)
            self.value = None


# -- finding it --------------------------------------------------------------------------------------------------------

_lock = threading.Lock()
wanted_threads: int | None = None  # what `core.backend.threads` was told; None: OpenMP decides
when_found: list[Callable[[], None]] = []  # called once, when there is a library
_found: Library | None = None
_tried: list[str] | None = None  # None: nobody has asked yet


def get() -> Library | None:
    """The library, looked for once in the life of a process; None where there is none."""
    if _tried is None:
        _load()
    return _found


def reason() -> str:
    """Why there is no library: what was tried, and what happened."""
    get()
    return "; ".join(_tried or ())


def forget() -> None:
    """Look again at the next `get()`. For tests; objects that are in use keep the library they came from."""
    global _found, _tried
    with _lock:
        _found, _tried = None, None


def _load() -> None:
    global _found, _tried
    with _lock:
        if _tried is not None:
            return
        tried, found = [], None
        for path in _candidates():
            try:
                found = Library(path)
                break
            except (OSError, AttributeError, OneDNNError) as error:  # not there, not a library, an older API, no engine
                tried.append(f"{path}: {error}")
        if os.environ.get(VARIABLE) == "off":
            tried.append(f"{VARIABLE}=off")
        if found is not None and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_one_thread)
        _found, _tried = found, tried
    if found is not None:
        for tell in when_found:
            tell()


def _one_thread() -> None:
    """In a forked child: OpenMP's other threads did not come along, and it would wait for them."""
    global wanted_threads
    wanted_threads = 1


def _candidates() -> Iterator[str]:
    """Where to look, in order; each place is asked for only if those before had none."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen:
        if chosen != "off":
            yield chosen
        return
    seen = set()
    for path in _wheel_files():
        if path not in seen and path.exists():
            seen.add(path)
            yield str(path)
    yield FILE  # the dynamic loader's own search


def _wheel_files() -> Iterator[Path]:
    """The wheel installs into the environment's lib/; with `pip install --user` or `--target` its own record knows where."""
    yield Path(sys.prefix, "lib", FILE)
    from importlib import metadata  # here: it loads much

    try:
        files = metadata.files(WHEEL) or ()
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == FILE:
            yield Path(str(file.locate())).resolve()
