"""Element types: PyTorch's names over NumPy's dtypes, and PyTorch's promotion rules.

Contract: one `dtype` object per type, compared by identity. `of(array_dtype)` and `.numpy` go between the two worlds.
`promote` is torch.result_type: a tensor with dimensions outranks a 0-dimensional one, which outranks a Python number, unless the
latter is of a higher category (bool < integer < floating < complex).
Source: https://docs.pytorch.org/docs/stable/tensor_attributes.html (type promotion).
"""

from __future__ import annotations

import builtins
from typing import Any

import ml_dtypes
import numpy as np

from core.errors import DTypeError

# Categories in order of rank.
BOOL, INTEGER, FLOATING, COMPLEX = range(4)

_KIND_CATEGORY = {"b": BOOL, "i": INTEGER, "u": INTEGER, "f": FLOATING, "c": COMPLEX}


class dtype:
    """The type of a tensor's elements, e.g. `core.float32`."""

    prefix = "core"  # as_torch changes it to "torch"

    def __init__(self, name: str, numpy: Any):
        self.name = name
        self.numpy = np.dtype(numpy)
        self.itemsize = self.numpy.itemsize
        self.category = FLOATING if name == "bfloat16" else _KIND_CATEGORY[self.numpy.kind]
        self.is_floating_point = self.category == FLOATING
        self.is_complex = self.category == COMPLEX
        self.is_signed = name not in ("uint8", "uint16", "uint32", "uint64", "bool")

    def __repr__(self) -> str:
        return f"{self.prefix}.{self.name}"

    def __reduce__(self) -> str:
        return self.name  # pickles as a reference to the module attribute: identity survives

    def to_complex(self) -> dtype:
        return {"float64": complex128, "complex128": complex128}.get(self.name, complex64)

    def to_real(self) -> dtype:
        return {"complex128": float64, "complex64": float32}.get(self.name, self)


bool = dtype("bool", np.bool_)
uint8 = dtype("uint8", np.uint8)
uint16 = dtype("uint16", np.uint16)
uint32 = dtype("uint32", np.uint32)
uint64 = dtype("uint64", np.uint64)
int8 = dtype("int8", np.int8)
int16 = short = dtype("int16", np.int16)
int32 = int = dtype("int32", np.int32)
int64 = long = dtype("int64", np.int64)
float16 = half = dtype("float16", np.float16)
bfloat16 = dtype("bfloat16", ml_dtypes.bfloat16)
float32 = float = dtype("float32", np.float32)
float64 = double = dtype("float64", np.float64)
complex64 = cfloat = dtype("complex64", np.complex64)
complex128 = cdouble = dtype("complex128", np.complex128)

ALL = (bool, uint8, uint16, uint32, uint64, int8, int16, int32, int64,
       float16, bfloat16, float32, float64, complex64, complex128)  # fmt: skip

_FROM_NUMPY = {d.numpy: d for d in ALL}
_FROM_PYTHON = {"bool": bool, "int": int64, "float": None, "complex": None}  # None: depends on the default dtype


def of(numpy_dtype: Any) -> dtype:
    """The dtype of an array's dtype."""
    found = _FROM_NUMPY.get(numpy_dtype)
    if found is None:
        raise DTypeError(
            f"tensor: expected one of {', '.join(d.name for d in ALL)}, got {numpy_dtype}; convert it first"
        )
    return found


def as_numpy(d: Any) -> np.dtype:
    """The NumPy dtype of a `dtype`, of a Python type (bool, int, float), or of a NumPy dtype."""
    if isinstance(d, dtype):
        return d.numpy
    if isinstance(d, type) and d.__module__ == "builtins" and d.__name__ in _FROM_PYTHON:
        found = _FROM_PYTHON[d.__name__] or (_default if d.__name__ == "float" else _default.to_complex())
        return found.numpy
    if isinstance(d, np.dtype) or (isinstance(d, type) and issubclass(d, np.generic)):
        return of(np.dtype(d)).numpy
    raise DTypeError(f"dtype: expected a dtype such as core.float32, got {d!r}")


# -- the default floating type -----------------------------------------------------------------------------------------

_default = float32


def get_default_dtype() -> dtype:
    """The type that Python floats become: float32 unless `set_default_dtype` said otherwise."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Make `d`, a floating type, the type of new tensors made from Python floats."""
    global _default
    if not isinstance(d, dtype) or not d.is_floating_point:
        raise DTypeError(f"set_default_dtype: expected a floating dtype, got {d!r}")
    _default = d


# -- promotion ---------------------------------------------------------------------------------------------------------

_INTEGERS = [int8, int16, int32, int64]


def _join(a: dtype, b: dtype) -> dtype:
    """The smallest type that holds both, as PyTorch's table has it."""
    if a is b:
        return a
    if a.category < b.category:
        a, b = b, a
    if a.category == COMPLEX:
        return complex128 if complex128 in (a, b) or b is float64 else complex64
    if a.category > b.category:
        return a
    if a.category == FLOATING:  # float16 with bfloat16 is float32; else the wider
        return float32 if a.itemsize == b.itemsize else max(a, b, key=lambda d: d.itemsize)
    if a.is_signed == b.is_signed:
        return max(a, b, key=lambda d: d.itemsize)
    signed, unsigned = (a, b) if a.is_signed else (b, a)
    if unsigned is not uint8:
        raise DTypeError(f"promotion: expected integer types with a common type, got {a} and {b}; convert one first")
    return signed if signed.itemsize > 1 else int16


_JOIN = {(a.numpy, b.numpy): None for a in ALL for b in ALL}  # filled on demand


def join(a: np.dtype, b: np.dtype) -> np.dtype:
    """`torch.promote_types` on NumPy dtypes."""
    found = _JOIN[a, b]
    if found is None:
        found = _JOIN[a, b] = _join(_FROM_NUMPY[a], _FROM_NUMPY[b]).numpy
    return found


def scalar_category(x: Any) -> Any:
    """The category of a Python number, None for anything else."""
    t = type(x)
    if t is _float:
        return FLOATING
    if x is True or x is False:  # before integers: True is an int, too
        return BOOL
    return (
        INTEGER
        if isinstance(x, _int)
        else FLOATING
        if isinstance(x, _float)
        else COMPLEX
        if isinstance(x, complex)
        else None
    )


def category(d: np.dtype) -> Any:
    return _FROM_NUMPY[d].category


def default_numpy() -> np.dtype:
    return _default.numpy


def result_numpy(*operands: Any) -> np.dtype:
    """`torch.result_type` of arrays and Python numbers, as a NumPy dtype."""
    dims = zero = number = None  # the join of each rank of operand
    for x in operands:
        if hasattr(x, "dtype"):  # an array, or what NumPy makes of a 0-d one
            if x.ndim:
                dims = x.dtype if dims is None else join(dims, x.dtype)
            else:
                zero = x.dtype if zero is None else join(zero, x.dtype)
        else:
            c = scalar_category(x)
            if c is None:
                raise DTypeError(f"expected a Tensor or a number, got {type(x).__name__}")
            d = (bool, int64, _default, _default.to_complex())[c].numpy
            number = d if number is None else join(number, d)
    return _outranked(dims, _outranked(zero, number))


def _outranked(higher: Any, lower: Any) -> Any:
    """The type of a higher rank of operands, changed only where the lower rank is of a higher category."""
    if higher is None or lower is None:
        return lower if higher is None else higher
    h, low = _FROM_NUMPY[higher], _FROM_NUMPY[lower]
    if low.category <= h.category:
        return higher
    return h.to_complex().numpy if h.is_floating_point else join(higher, lower)


_int, _float = builtins.int, builtins.float
