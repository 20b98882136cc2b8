"""Primitives of oneDNN as calls on NumPy arrays, cached by everything that defines them.

Contract: a `Call` is made once for shapes, strides and dtypes, and then run on any arrays that have them. Where oneDNN wants an operand in
a layout of its own, the call reorders it on the way in, or out. All that a call needs while it runs lives in the calling thread: its
cache, its stream, and one arena that holds the scratchpad and the reordered operands of whichever call is running. So threads share
nothing and take no lock; oneDNN shares the compiled kernels between them.
Not here: which arrays are worth it (`kernels`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from ctypes import byref, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from core.backend.onednn import library, stack
from core.backend.onednn.library import ExecArg, Handle, Library, OneDNNError, failure
from core.backend.switches import SWITCHES

_ABSENT: Any = object()
CAPACITY = 1024  # calls kept in each thread; the least recently used one goes first
_LINE = 64  # bytes that operands in the arena are aligned to
# where NumPy's C ABI keeps an array's data pointer: the first field after the object's head. `array.ctypes.data` takes six times as long.
_DATA = object.__basicsize__


def whole_lines(size: int) -> int:
    """So many bytes, rounded up to lines of the cache"""
    return -(-size // _LINE) * _LINE


class _Thread(threading.local):
    """What each thread has of its own. The library comes last: it must outlive what it made."""

    def __init__(self) -> None:
        self.calls: OrderedDict[Hashable, Call | None] = OrderedDict()
        self.stream: c_void_p | None = None
        self.owner: Handle | None = None  # of the stream
        self.arena = np.empty(0, np.uint8)
        self.base = self.size = 0  # where the arena begins, and its bytes
        self.threads: int | None = None
        self.library: Library | None = None

    def enter(self, lib: Library) -> None:
        """Make ready for this library and this number of threads."""
        if self.library is not lib:
            self.calls.clear()
            self.owner = Handle(lib, "dnnl_stream", "create", lib.engine.value, library.IN_ORDER)
            self.stream, self.library = c_void_p(self.owner.value), lib
        if library.wanted_threads is not None and lib.set_threads is not None:
            lib.set_threads(library.wanted_threads)
        self.threads = library.wanted_threads

    def reserve(self, size: int) -> None:
        """An arena of at least so many bytes."""
        if size > self.size:
            self.arena = np.empty(size + _LINE, np.uint8)
            self.base = whole_lines(self.arena.ctypes.data)
            self.size = size


_mine = _Thread()


def cached(key: Hashable, build: Callable[[Builder], Call]) -> Call | None:
    """The call of this key, built if this thread has not got it; None where oneDNN has no implementation (which is remembered, too)."""
    lib = library.get()
    if lib is None or not SWITCHES.onednn:
        return None
    mine = _mine
    if mine.library is not lib or mine.threads != library.wanted_threads:
        mine.enter(lib)
    calls = mine.calls
    call = calls.get(key, _ABSENT)
    if call is not _ABSENT:
        if len(calls) == CAPACITY:  # else nothing is about to go
            calls.move_to_end(key)
        return call
    try:
        call = build(Builder(lib))
    except OneDNNError as error:
        # "invalid arguments" is what it says of operands that overlap, and of many a geometry that NumPy computes
        if error.status not in (library.UNIMPLEMENTED, library.INVALID):
            raise
        call = None
    calls[key] = call
    if len(calls) > CAPACITY:
        calls.popitem(last=False)
    return call


def clear() -> None:
    """Drop the calls, stream and arena of this thread."""
    _mine.__init__()  # type: ignore[misc]


@dataclass(frozen=True)
class Described:
    """A descriptor of an operand that something else owns."""

    value: int


Operands = Mapping[int, Handle | Described]  # by the number of the argument


class Builder:
    """Makes descriptors and, from them, calls."""

    def __init__(self, lib: Library):
        self.library = lib
        self.attributes = self._bare = self._new_attributes()  # of the primitive; of the reorders around it

    def _new_attributes(self) -> Handle:
        made = Handle(self.library, "dnnl_primitive_attr", "create")
        self.library.call("dnnl_primitive_attr_set_scratchpad_mode", made.value, library.USER_SCRATCHPAD)
        return made

    def append(self, *ops: tuple[Any, ...]) -> None:
        """What the primitive does with its result before it writes it, in this order: ("sum", scale, 0, UNDEF),
        ("eltwise", algorithm, alpha, beta), ("binary", algorithm, descriptor of the other operand)."""
        chain = Handle(self.library, "dnnl_post_ops", "create")
        for kind, *args in ops:
            values = [a.value if isinstance(a, Handle) else a for a in args]
            self.library.call(f"dnnl_post_ops_append_{kind}", chain.value, *values)
        self.attributes = self._new_attributes()
        self.library.call("dnnl_primitive_attr_set_post_ops", self.attributes.value, chain.value)

    def strided(self, shape: Sequence[int], dtype: int, strides: Sequence[int]) -> Handle:
        """An operand as it lies in memory; strides in elements."""
        n = len(shape)
        return Handle(self.library, "dnnl_memory_desc", "create_with_strides", n, dims(shape), dtype, dims(strides))

    def packed(self, shape: Sequence[int], dtype: int) -> Handle:
        """An operand in C order."""
        return self.strided(shape, dtype, packed_strides(shape))

    def any(self, shape: Sequence[int], dtype: int) -> Handle:
        """An operand in whatever layout the primitive likes best."""
        return Handle(self.library, "dnnl_memory_desc", "create_with_tag", len(shape), dims(shape), dtype, library.ANY)

    def wanted(self, descriptor: Handle, number: int) -> Described:
        """How the primitive wants this operand."""
        return Described(
            self.library.functions["dnnl_primitive_desc_query_md"](descriptor.value, library.EXEC_ARG_MD, number)
        )

    def bytes(self, operand: Described) -> int:
        return int(self.library.functions["dnnl_memory_desc_get_size"](operand.value))

    def descriptor(self, name: str, *args: Any, by: str = "") -> Handle:
        """The descriptor of a primitive; args are numbers, arrays of dimensions, and Handles or None for operands.
        `by`: the implementation whose name begins so, where there is one; else oneDNN's first choice."""
        values = [a.value if isinstance(a, Handle) else a for a in args]
        made = Handle(
            self.library, "dnnl_primitive_desc", "create", self.library.engine.value, *values, self.attributes.value,
            maker=f"dnnl_{name}_primitive_desc",
        )  # fmt: skip
        while not self.implementation(made).startswith(by):
            if self.library.functions["dnnl_primitive_desc_next_impl"](made.value):  # there are no more
                return self.descriptor(name, *args)
        return made

    def implementation(self, descriptor: Handle) -> str:
        """Its name, e.g. `brgconv:avx512_core`."""
        name = c_char_p()
        self.library.call("dnnl_primitive_desc_query", descriptor.value, library.IMPLEMENTATION, 0, byref(name))
        return (name.value or b"").decode()

    def call(self, descriptor: Handle, inputs: Operands, outputs: Operands, spills: bool = False) -> Call:
        """The call whose operands, in this order, are the inputs and then the outputs: argument number -> how the array lies in memory.
        `spills`: there is much to compute, by a kernel that keeps vectors on the stack (see `stack`)."""
        if self.implementation(descriptor).startswith("ref"):  # right, but slower than NumPy
            raise failure(self.implementation(descriptor), library.UNIMPLEMENTED)
        return (SpillingCall if spills else Call)(self, descriptor, inputs, outputs)

    def reorder(self, source: int | None, target: int | None) -> Handle:
        engine = self.library.engine.value
        return Handle(
            self.library, "dnnl_primitive_desc", "create", source, engine, target, engine, self._bare.value,
            maker="dnnl_reorder_primitive_desc",
        )  # fmt: skip


class Call:
    """One primitive with its operands, and the reorders around it."""

    workspace = 0  # bytes of what a forward call keeps for its backward call, where there is such an operand

    def __init__(self, b: Builder, descriptor: Handle, inputs: Operands, outputs: Operands):
        lib = self._library = b.library
        query, same = lib.functions["dnnl_primitive_desc_query_md"], lib.functions["dnnl_memory_desc_equal"]
        self._operands: list[c_void_p] = []  # memories of the caller's arrays
        self._inside: list[tuple[int, int]] = []  # memories in the arena, and where they begin
        self._owned: list[Handle] = []  # what those addresses belong to
        self._size = 0  # bytes of the arena
        self._base: int | None = None  # where the arena was at the last run
        main: list[tuple[int, int]] = []
        before, after = [], []
        for number, given in {**inputs, **outputs}.items():
            memory = self._memory(given.value)
            self._operands.append(c_void_p(memory))
            wanted = query(descriptor.value, library.EXEC_ARG_MD, number)
            if same(wanted, given.value):
                main.append((number, memory))
                continue
            inside = self._in_arena(wanted)
            main.append((number, inside))
            if number in inputs:
                before.append((b.reorder(given.value, wanted), [(library.SRC, memory), (library.DST, inside)]))
            else:
                after.append((b.reorder(wanted, given.value), [(library.SRC, inside), (library.DST, memory)]))
        # steps run one after another, so that one place serves all their scratchpads
        self._steps: list[tuple[c_void_p, c_int, Any]] = []  # primitive, how many arguments, arguments
        start, end = self._size, self._size
        for step, args in [*before, (descriptor, main), *after]:
            pad = query(step.value, library.SCRATCHPAD_MD, 0)
            if lib.functions["dnnl_memory_desc_get_size"](pad):
                self._size = start
                args.append((library.SCRATCHPAD, self._in_arena(pad)))
                end = max(end, self._size)
            self._step(self._own(Handle(lib, "dnnl_primitive", "create", step.value)), args)
        self._size = end
        self._put, self._execute = lib.put, lib.execute

    def __call__(self, *arrays: Any) -> None:
        """Run on arrays that lie in memory as was said; the outputs are written."""
        if self._size and (self._size > _mine.size or self._base != _mine.base):
            self._settle()
        place, put = c_void_p.from_address, self._put
        for memory, a in zip(self._operands, arrays):
            status = put(memory, place(id(a) + _DATA))
            if status:
                raise failure("dnnl_memory_set_data_handle", status)
        self._run()

    def _run(self) -> None:
        stream = _mine.stream
        for primitive, count, args in self._steps:
            # with OpenMP a CPU stream has computed when this returns: there is nothing to wait for
            status = self._execute(primitive, stream, count, args)
            if status:
                raise failure("dnnl_primitive_execute", status)

    def _settle(self) -> None:
        """Tell the memories in the arena where it is now."""
        _mine.reserve(self._size)
        for memory, offset in self._inside:
            self._library.call("dnnl_memory_set_data_handle", memory, _mine.base + offset)
        self._base = _mine.base

    def _step(self, primitive: int, args: Sequence[tuple[int, int]]) -> None:
        """Run this primitive next, with memories by the number of the argument."""
        self._steps.append((c_void_p(primitive), c_int(len(args)), (ExecArg * len(args))(*(ExecArg(*a) for a in args))))

    def _own(self, handle: Handle) -> int:
        self._owned.append(handle)
        assert handle.value is not None
        return handle.value

    def _memory(self, descriptor: int | None) -> int:
        return self._own(Handle(self._library, "dnnl_memory", "create", descriptor, self._library.engine.value, None))

    def _in_arena(self, descriptor: int) -> int:
        memory = self._memory(descriptor)
        self._inside.append((memory, self._size))
        size = self._library.functions["dnnl_memory_desc_get_size"](descriptor)
        self._size += whole_lines(size)
        return memory


class SpillingCall(Call):
    """One primitive whose kernel keeps vectors on the stack, as `stack` explains."""

    def __init__(self, b: Builder, descriptor: Handle, inputs: Operands, outputs: Operands):
        super().__init__(b, descriptor, inputs, outputs)
        self._shifted = stack.shifted(self._execute)

    def _run(self) -> None:
        stream = _mine.stream
        for primitive, count, args in self._steps:
            more = stack.correction()
            status = (self._shifted if more else self._execute)(primitive, stream, count, args, *more)
            if status:
                raise failure("dnnl_primitive_execute", status)


# -- layouts -----------------------------------------------------------------------------------------------------------


def dims(values: Sequence[int]) -> Any:
    return (c_int64 * len(values))(*values)


@lru_cache(maxsize=4096)
def packed_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of an array in C order."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(strides[::-1])


def last_strides(shape: Sequence[int]) -> list[int]:
    """Strides in elements of (N, C, *size) that lies channels-last, as (N, *size, C)."""
    n, channels, *size = shape
    return [prod(size) * channels, 1, *(s * channels for s in packed_strides(tuple(size)))]


def strides_of(x: np.ndarray) -> tuple[int, ...] | None:
    """Strides in elements; None where oneDNN cannot see x as it lies: walked backwards, repeated, or between elements."""
    return _in_elements(x.shape, x.strides, x.itemsize)


@lru_cache(maxsize=4096)
def _in_elements(shape: tuple[int, ...], in_bytes: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    strides = []
    for n, s, packed in zip(shape, in_bytes, packed_strides(shape)):
        if n == 1:
            s = packed * size  # never walked, and NumPy may have anything here
        elif s <= 0 or s % size:
            return None
        strides.append(s // size)
    return tuple(strides)
