"""Programs: many primitives of oneDNN that run one after another, on the caller's arrays and on buffers of their own.

Contract: that of `Call`, which a program is. What passes from one primitive to the next lies in the thread's arena, so that no array is
made for it, and a primitive costs no more than the call that starts it. Operands are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from ctypes import c_void_p
from typing import Any, NamedTuple

import numpy as np

from core.backend.onednn import library as c
from core.backend.onednn.library import Handle, failure
from core.backend.onednn.primitives import _DATA, Builder, Call, Described, _mine, packed_strides, whole_lines

_BYTES = 4


class Place(NamedTuple):
    """Where an operand begins: so many bytes into one of the caller's arrays, or into the arena."""

    array: int | None
    offset: int = 0

    def at(self, *counts: int) -> Place:
        """The place a product of counts of elements further on"""
        return Place(self.array, self.offset + math.prod(counts) * _BYTES)


class Operand(NamedTuple):
    place: Place | int  # or the memory of a constant
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def packed(place: Place, *shape: int) -> Operand:
    """An operand in C order"""
    return Operand(place, shape, packed_strides(shape))


Constant = tuple[np.ndarray, tuple[int, ...]]  # a float32 array, and its shape as oneDNN names it


class Program(Call):
    """Primitives that run one after another. Made step by step, then `done`."""

    def __init__(self, b: Builder):
        self._library, self.builder = b.library, b
        self._placed: list[tuple[int, int, int]] = []  # memories of the caller's arrays: of which one, and where in it
        self._inside, self._owned, self._steps, self._size, self._base = [], [], [], 0, None
        self._pads: list[tuple[int, int]] = []  # memories of scratchpads, and their bytes
        self._made: dict[Hashable, Any] = {}
        self._arrays: list[np.ndarray] = []  # constants
        self._set = b.library.functions["dnnl_memory_set_data_handle"]
        self._execute = b.library.execute
        self._bytes = b.library.functions["dnnl_memory_desc_get_size"]

    def buffer(self, *shape: int) -> Place:
        """Room in the arena"""
        place = Place(None, self._size)
        self._size += whole_lines(math.prod(shape) * _BYTES)
        return place

    def described(self, operand: Operand) -> Handle:
        shape, strides = operand.shape, operand.strides
        return self._once(("operand", shape, strides), lambda: self.builder.strided(shape, c.F32, strides))

    def add(
        self,
        key: Hashable,
        make: Callable[[], Handle],
        operands: Mapping[int, Operand],
        weights: Constant | None = None,
    ) -> None:
        """The next step: the primitive of a descriptor that is made once for its key, its operands by the number of the argument, and
        constant weights."""
        primitive, more = self._once(("primitive", key), lambda: self._primitive(make(), weights))
        args = [(n, self._memory_at(o)) for n, o in operands.items()] + more
        self._step(primitive, args)

    def reorder(self, x: Operand, y: Operand) -> None:
        """y ← x of the same shape"""
        xd, yd = self.described(x), self.described(y)
        key = ("reorder", x.shape, x.strides, y.strides)
        self.add(key, lambda: self.builder.reorder(xd.value, yd.value), {c.SRC: x, c.DST: y})

    def product(self, x: Operand, y: Operand, z: Operand, adds: bool = False) -> None:
        """z ← x @ y, or where it `adds`, z ← z + x @ y"""

        def make() -> Handle:
            b = Builder(self._library)
            if adds:
                b.append(("sum", 1.0, 0, c.UNDEF))
            return b.descriptor("matmul", self.described(x), self.described(y), None, self.described(z))

        key = ("product", *(o[1:] for o in (x, y, z)), adds)
        self.add(key, make, {c.SRC: x, c.WEIGHTS: y, c.DST: z})

    def chain(self, x: Operand, algorithm: int, other: Operand, y: Operand, *ops: tuple[Any, ...]) -> None:
        """y ← x ∘ other and then the ops in turn: ("eltwise", algorithm, alpha, beta), ("binary", algorithm, operand), ("sum", scale),
        which adds scale times what y holds."""
        operands = {c.SRC: x, c.OTHER: other}
        operands |= {c.AFTER * i + c.OTHER: op[2] for i, op in enumerate(ops, 1) if op[0] == "binary"}

        def make() -> Handle:
            b = Builder(self._library)
            described = [tuple(self.described(a) if isinstance(a, Operand) else a for a in op) for op in ops]
            b.append(*((*op, 0, c.UNDEF) if op[0] == "sum" else op for op in described))
            return b.descriptor("binary", algorithm, *(self.described(o) for o in (x, other, y)))

        bare = [tuple(a[1:] if isinstance(a, Operand) else a for a in op) for op in ops]
        self.add(("chain", algorithm, *(o[1:] for o in (x, other, y)), *bare), make, {**operands, c.DST: y})

    def constant(self, array: np.ndarray) -> Operand:
        """A float32 matrix as an operand"""

        def make() -> int:
            plain = self.described(operand)
            return self._constant((array, array.shape), Described(plain.value or 0))

        operand = packed(Place(None), *array.shape)
        return operand._replace(place=self._once(("constant", array.shape, array.tobytes()), make))

    def done(self) -> Program:
        """Steps run one after another, so that one place serves all their scratchpads."""
        self._inside += [(memory, self._size) for memory, _ in self._pads]
        self._size += max((size for _, size in self._pads), default=0)
        return self

    def __call__(self, *arrays: Any) -> None:
        """Run on arrays that lie in memory as was said."""
        if self._size > _mine.size or self._base != _mine.base:
            self._settle()
        starts = [c_void_p.from_address(id(a) + _DATA).value or 0 for a in arrays]
        for memory, which, offset in self._placed:
            status = self._set(memory, starts[which] + offset)
            if status:
                raise failure("dnnl_memory_set_data_handle", status)
        self._run()

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
        return found

    def _primitive(self, descriptor: Handle, weights: Constant | None) -> tuple[int, list[tuple[int, int]]]:
        """A primitive and those of its arguments that are always the same: scratchpad and weights"""
        name = self.builder.implementation(descriptor)
        if name.startswith(("ref", "x64:gemm")):  # one channel after the other
            raise failure(name, c.UNIMPLEMENTED)
        args = []
        pad = self._library.functions["dnnl_primitive_desc_query_md"](descriptor.value, c.SCRATCHPAD_MD, 0)
        if self._bytes(pad):
            memory = self._memory(pad)
            self._pads.append((memory, whole_lines(self._bytes(pad))))
            args.append((c.SCRATCHPAD, memory))
        if weights is not None:
            args.append((c.WEIGHTS, self._constant(weights, self.builder.wanted(descriptor, c.WEIGHTS))))
        return self._own(Handle(self._library, "dnnl_primitive", "create", descriptor.value)), args

    def _constant(self, constant: Constant, wanted: Described) -> int:
        """The memory of a copy that lies as is wanted"""
        array, shape = constant
        plain, held = self.builder.packed(shape, c.F32), np.empty(self.builder.bytes(wanted), np.uint8)
        pack = Call(self.builder, self.builder.reorder(plain.value, wanted.value), {c.SRC: plain}, {c.DST: wanted})
        pack(np.ascontiguousarray(array), held)
        self._arrays.append(held)
        memory = self._memory(wanted.value)
        self._library.call("dnnl_memory_set_data_handle", memory, held.ctypes.data)
        return memory

    def _memory_at(self, operand: Operand) -> int:
        place = operand.place
        if isinstance(place, int):
            return place

        def make() -> int:
            memory = self._memory(self.described(operand).value)
            if place.array is None:
                self._inside.append((memory, place.offset))
            else:
                self._placed.append((memory, place.array, place.offset))
            return memory

        return self._once(operand, make)
