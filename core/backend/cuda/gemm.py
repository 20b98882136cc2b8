"""Every product of matrices, by cuBLASLt through nvmath's bindings: operands as they lie, batches by strides, bias and ReLU or GELU in the
same call.

CuPy's own product copies batched operands, widens or refuses their two-byte types, and cannot be captured in a graph; it is only what
answers without nvmath. float16 and bfloat16 are accumulated in float32.

cuBLASLt counts columns first. A row-major matrix of ours is, read that way, its transpose; so for Z = X Y we ask for Zᵀ = Yᵀ Xᵀ, and a
matrix that lies the other way round costs no more than a flag. A plan (descriptors and the algorithm that cuBLASLt suggests) is kept for
each shape.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_dtypes import bfloat16

from core.backend.cuda.pointwise import merged
from core.backend.switches import SWITCHES
from core.errors import MissingLibraryError, missing_library

_FLOAT, _DOUBLE, _HALF, _BFLOAT = 0, 1, 2, 14  # cudaDataType
_TYPES = {
    np.dtype(np.float32).num: _FLOAT,
    np.dtype(np.float64).num: _DOUBLE,
    np.dtype(np.float16).num: _HALF,
    np.dtype(bfloat16).num: _BFLOAT,
}
_TRANSPOSED = 1  # cublasOperation_t

_MOST_LOOPS = (
    32  # batches that no single stride walks through are products of their own, up to so many; then operands are copied
)


class Matrix(NamedTuple):
    """How cuBLASLt sees a matrix: does it lie column by column in our eyes, and the step from one row (or column) to the next."""

    flipped: bool
    ld: int


def seen(shape: Sequence[int], strides: Sequence[int]) -> Matrix | None:
    """The matrix in the last two dimensions; strides in elements. None if neither rows nor columns are dense."""
    (rows, columns), (by_row, by_column) = shape[-2:], strides[-2:]
    if (by_column == 1 or columns == 1) and (by_row >= columns or rows == 1):
        return Matrix(False, by_row if rows > 1 else columns)
    if (by_row == 1 or rows == 1) and (by_column >= rows or columns == 1):
        return Matrix(True, by_column if columns > 1 else rows)
    return None


class Product(NamedTuple):
    """All that a plan depends on. `x` (m, k) and `y` (k, n), batch steps in elements, alignments in bytes."""

    m: int
    n: int
    k: int
    x: Matrix
    y: Matrix
    batch: int
    x_step: int
    y_step: int
    kind: int
    alignments: tuple[int, int, int]
    bias: bool
    act: str  # "", "relu", "gelu" (its tanh form) or "gelu_aux", which writes what it is applied to as well
    tf32: bool


class Gemm:
    """cuBLASLt on the devices of one process."""

    def __init__(self, xp: Any):
        try:
            from nvmath.bindings import cublas, cublasLt
        except ImportError:
            raise missing_library("nvmath-python", "products by cuBLASLt", "cuda13") from None
        try:
            handle = cublasLt.create()  # of the current device
        except (
            RuntimeError,
            cublasLt.cuBLASLtError,
        ):  # the bindings, and no cuBLASLt or one that does not fit the driver
            raise missing_library("nvidia-cublas", "products by cuBLASLt", "cuda13") from None
        self._xp, self._lt, self._compute = xp, cublasLt, cublas.ComputeType
        self._handles: dict[int, int] = {int(xp.cuda.runtime.getDevice()): handle}
        self._workspaces: dict[tuple[int, int], Any] = {}  # by device and stream
        self._rooms: dict[int, int] = {}
        self._plans: dict[tuple[int, Product], _Plan | None] = {}
        self._lock = threading.Lock()  # a plan's descriptor holds the pointers of one call
        self._numbers = [np.array([1, 0], d) for d in (np.float32, np.float64)]
        self._scalars = [
            (v.ctypes.data, v.ctypes.data + v.itemsize) for v in self._numbers
        ]  # of 1 and 0, by "is it double"
        self._pointer = np.zeros(1, np.int64)
        self._pointer_at = self._pointer.ctypes.data

    def linear_gelu(self, x: Any, y: Any, bias: Any) -> Any:
        """gelu(z) in its tanh form, and z: (*, m, k) @ (k, n) + (n) -> (*, m, n), twice. None where it is not our case."""
        n = y.shape[1]
        if n % 8 or x.ndim < 2:  # cuBLASLt's rule for the second result
            return None
        z = self._xp.empty((x.size // x.shape[-1], n), x.dtype)
        g = self.matmul(x, y, bias, "gelu_aux", z)
        return None if g is None else (g, z.reshape(g.shape))

    def matmul(self, x: Any, y: Any, bias: Any = None, act: str = "", aux: Any = None) -> Any:
        """(*, m, k) @ (*, k, n) + (n) -> (*, m, n); `act`: see `Product`, `aux` (m, n) is its second result. None where it is not our
        case."""
        kind = _TYPES.get(x.dtype.num)
        if kind is None or y.dtype != x.dtype or x.ndim < 2 or y.ndim < 2 or not x.size or not y.size:
            return None
        if bias is not None and (bias.dtype != x.dtype or not bias.flags.c_contiguous):
            return None
        if y.ndim == 2 and x.ndim > 2:  # one product over all rows
            rows = self._xp.ascontiguousarray(x).reshape(-1, x.shape[-1])
            z = self.matmul(rows, y, bias, act, aux)
            return None if z is None else z.reshape(*x.shape[:-1], y.shape[1])
        (x, xs), (y, ys) = self._laid(x), self._laid(y)
        if x.ndim == y.ndim == 2:
            z = self._xp.empty((x.shape[0], y.shape[1]), x.dtype)
            pointers = x.data.ptr, y.data.ptr, z.data.ptr
            return z if self._run(x, y, xs, ys, kind, (1, 0, 0), pointers, bias, act, aux) else None
        lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        size, steps = merged(lead, [_batch_strides(x, lead), _batch_strides(y, lead)])
        if len(size) > 1 and np.prod(size[:-1]) > _MOST_LOOPS:
            (x, xs), (y, ys) = (self._laid(self._xp.ascontiguousarray(a)) for a in (x, y))
            size, steps = merged(lead, [_batch_strides(x, lead), _batch_strides(y, lead)])
        z = self._xp.empty((*lead, x.shape[-2], y.shape[-1]), x.dtype)
        batch = (size[-1], steps[0][-1], steps[1][-1]) if size else (1, 0, 0)
        for number, at in enumerate(np.ndindex(*size[:-1])):
            x_at, y_at = (sum(i * s for i, s in zip(at, walk)) * x.itemsize for walk in steps)
            z_at = number * batch[0] * z.shape[-2] * z.shape[-1] * z.itemsize
            pointers = x.data.ptr + x_at, y.data.ptr + y_at, z.data.ptr + z_at
            if not self._run(x, y, xs, ys, kind, batch, pointers, bias, act, aux):
                return None
        return z

    def _laid(self, a: Any) -> tuple[Any, Matrix]:
        """a, or a copy of it where cuBLASLt cannot see a as it lies, and how it lies."""
        strides = [s // a.itemsize for s in a.strides]
        found = seen(a.shape, strides) if min(strides) >= 0 else None
        if found is None:
            a = self._xp.ascontiguousarray(a)
            found = seen(a.shape, [s // a.itemsize for s in a.strides])
            assert found is not None
        return a, found

    def _run(
        self,
        x: Any,
        y: Any,
        xs: Matrix,
        ys: Matrix,
        kind: int,
        batch: tuple[int, int, int],
        pointers: tuple[int, int, int],
        bias: Any,
        act: str,
        aux: Any,
    ) -> bool:
        """One call; `batch`: how many products, and the steps of x and y from one to the next. False if cuBLASLt has no algorithm."""
        x_at, y_at, z_at = pointers
        alignments = _alignment(x_at), _alignment(y_at), _alignment(z_at)
        product = Product(
            x.shape[-2], y.shape[-1], x.shape[-1], xs, ys, *batch, kind, alignments, bias is not None, act, SWITCHES.matmul_tf32
        )  # fmt: skip
        device = x.data.device_id
        with self._lock:
            if (device, product) not in self._plans:
                self._plans[device, product] = self._planned(device, product)
            plan = self._plans[device, product]
            if plan is None:
                return False
            lt, current = self._lt, self._xp.cuda.get_current_stream()
            workspace, room = self._workspace(device, current), self._room(device)
            if bias is not None:
                self._point(plan.product, lt.MatmulDescAttribute.BIAS_POINTER, bias)
            if aux is not None:
                self._point(plan.product, lt.MatmulDescAttribute.EPILOGUE_AUX_POINTER, aux)
            one, zero = self._scalars[kind == _DOUBLE]
            operands = one, y_at, plan.a, x_at, plan.b, zero, z_at, plan.d, z_at, plan.d
            lt.matmul(self._handles[device], plan.product, *operands, plan.found.ptr, workspace.ptr, room, current.ptr)
        return True

    def _point(self, product: int, attribute: Any, array: Any) -> None:
        self._pointer[0] = array.data.ptr
        self._lt.matmul_desc_set_attribute(product, int(attribute), self._pointer_at, 8)

    def _workspace(self, device: int, stream: Any) -> Any:
        """Of a stream its own. A graph that is captured takes its from its pool, since it may run beside later work of this stream."""
        if stream.is_capturing():
            return self._xp.cuda.alloc(self._room(device))  # goes back to that pool at once, and is used again in order
        found = self._workspaces.get((device, stream.ptr))
        if found is None:
            found = self._workspaces[device, stream.ptr] = self._xp.cuda.Memory(self._room(device))
        return found

    def _room(self, device: int) -> int:
        """Bytes of a workspace: cuBLAS's own defaults."""
        if device not in self._rooms:
            hopper = self._xp.cuda.runtime.getDeviceProperties(device)["major"] >= 9
            self._rooms[device] = (32 if hopper else 8) << 20
        return self._rooms[device]

    def _planned(self, device: int, p: Product) -> _Plan | None:
        """Descriptors and an algorithm; None if cuBLASLt has none."""
        lt = self._lt
        if device not in self._handles:
            self._handles[device] = lt.create()
        compute = self._compute.COMPUTE_64F if p.kind == _DOUBLE else self._compute.COMPUTE_32F
        if p.tf32 and p.kind == _FLOAT:
            compute = self._compute.COMPUTE_32F_FAST_TF32
        product = lt.matmul_desc_create(int(compute), _DOUBLE if p.kind == _DOUBLE else _FLOAT)
        attribute = lt.MatmulDescAttribute
        self._set("matmul_desc", product, attribute.TRANSA, _TRANSPOSED * p.y.flipped)
        self._set("matmul_desc", product, attribute.TRANSB, _TRANSPOSED * p.x.flipped)
        if p.bias or p.act:
            name = "_".join(filter(None, (p.act.upper(), "BIAS" * p.bias)))
            self._set("matmul_desc", product, attribute.EPILOGUE, int(getattr(lt.Epilogue, name)))
        if p.act == "gelu_aux":
            self._set("matmul_desc", product, attribute.EPILOGUE_AUX_LD, p.n)
        a = self._layout(p, (p.k, p.n) if p.y.flipped else (p.n, p.k), p.y.ld, p.y_step)
        b = self._layout(p, (p.m, p.k) if p.x.flipped else (p.k, p.m), p.x.ld, p.x_step)
        d = self._layout(p, (p.n, p.m), p.n, p.n * p.m)
        preference = lt.matmul_preference_create()
        limits = lt.MatmulPreferenceAttribute
        self._set(
            "matmul_preference",
            preference,
            limits.MAX_WORKSPACE_BYTES,
            self._room(device),
        )
        x_align, y_align, z_align = p.alignments
        for name, bytes_ in (("A", y_align), ("B", x_align), ("C", z_align), ("D", z_align)):
            self._set("matmul_preference", preference, limits[f"MIN_ALIGNMENT_{name}_BYTES"], bytes_)
        found, count = lt.MatmulHeuristicResult(1), np.zeros(1, np.int32)
        try:
            lt.matmul_algo_get_heuristic(
                self._handles[device], product, a, b, d, d, preference, 1, found.ptr, count.ctypes.data
            )
        except lt.cuBLASLtError:  # no algorithm for this product
            return None
        finally:
            lt.matmul_preference_destroy(preference)
        return _Plan(product, a, b, d, found) if count[0] else None

    def _layout(self, p: Product, shape: tuple[int, int], ld: int, step: int) -> int:
        layout = self._lt.matrix_layout_create(p.kind, *shape, ld)
        if p.batch > 1:
            attribute = self._lt.MatrixLayoutAttribute
            self._set("matrix_layout", layout, attribute.BATCH_COUNT, p.batch)
            self._set("matrix_layout", layout, attribute.STRIDED_BATCH_OFFSET, step)
        return layout

    def _set(self, kind: str, handle: int, attribute: Any, value: int) -> None:
        held = np.array([value], getattr(self._lt, f"get_{kind}_attribute_dtype")(attribute))
        getattr(self._lt, f"{kind}_set_attribute")(handle, int(attribute), held.ctypes.data, held.nbytes)


class _Plan(NamedTuple):
    product: int
    a: int
    b: int
    d: int
    found: Any  # cublasLtMatmulHeuristicResult_t, which begins with the algorithm


def _alignment(pointer: int) -> int:
    """The power of two that it is a multiple of; beyond 256 cuBLASLt does not ask."""
    return min(pointer & -pointer, 256)


def _batch_strides(a: Any, lead: Sequence[int]) -> list[int]:
    own = [0 if n == 1 else s // a.itemsize for n, s in zip(a.shape[:-2], a.strides[:-2])]
    return [0] * (len(lead) - len(own)) + own


def opened(xp: Any) -> Gemm | None:
    """cuBLASLt, if nvmath is installed."""
    try:
        return Gemm(xp)
    except MissingLibraryError:
        return None
