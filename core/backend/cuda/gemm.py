"""Every product of matrices, by cuBLASLt through nvmath's bindings: operands as they lie, batches by strides, bias and GELU in the same
call.

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
    gelu: bool
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
        self._workspaces: dict[
            tuple[int, int], Any
        ] = {}  # device and stream -> memory, our own so that captured graphs may keep its address
        self._plans: dict[tuple[int, Product], _Plan | None] = {}
        self._lock = threading.Lock()  # a plan's descriptor holds the pointers of one call
        self._scalars = {d: (np.ones(1, d), np.zeros(1, d)) for d in (np.float32, np.float64)}

    def matmul(self, x: Any, y: Any, bias: Any = None, gelu: bool = False) -> Any:
        """(*, m, k) @ (*, k, n) + (n) -> (*, m, n); with `gelu` its tanh form is applied. None where it is not our case."""
        kind = _TYPES.get(x.dtype.num)
        if kind is None or y.dtype != x.dtype or x.ndim < 2 or y.ndim < 2 or not x.size or not y.size:
            return None
        if bias is not None and (bias.dtype != x.dtype or not bias.flags.c_contiguous):
            return None
        if y.ndim == 2 and x.ndim > 2:  # one product over all rows
            rows = self._xp.ascontiguousarray(x).reshape(-1, x.shape[-1])
            z = self.matmul(rows, y, bias, gelu)
            return None if z is None else z.reshape(*x.shape[:-1], y.shape[1])
        x, y = self._dense(x), self._dense(y)
        lead = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        size, steps = merged(lead, [_batch_strides(x, lead), _batch_strides(y, lead)])
        if len(size) > 1 and np.prod(size[:-1]) > _MOST_LOOPS:
            x, y = self._xp.ascontiguousarray(x), self._xp.ascontiguousarray(y)
            size, steps = merged(lead, [_batch_strides(x, lead), _batch_strides(y, lead)])
        z = self._xp.empty((*lead, x.shape[-2], y.shape[-1]), x.dtype)
        batch, (x_step, y_step) = (size[-1], (s[-1] for s in steps)) if size else (1, (0, 0))
        outer = size[:-1]
        for number, at in enumerate(np.ndindex(*outer)):
            x_at, y_at = (sum(i * s for i, s in zip(at, walk)) * x.itemsize for walk in steps)
            z_at = number * batch * z.shape[-2] * z.shape[-1] * z.itemsize
            pointers = x.data.ptr + x_at, y.data.ptr + y_at, z.data.ptr + z_at
            if not self._run(x, y, kind, batch, x_step, y_step, pointers, bias, gelu):
                return None
        return z

    def _dense(self, a: Any) -> Any:
        """a, or a copy of it where cuBLASLt cannot see a as it lies."""
        return (
            a
            if seen(a.shape, [s // a.itemsize for s in a.strides]) and min(a.strides) >= 0
            else self._xp.ascontiguousarray(a)
        )

    def _run(
        self,
        x: Any,
        y: Any,
        kind: int,
        batch: int,
        x_step: int,
        y_step: int,
        pointers: tuple[int, int, int],
        bias: Any,
        gelu: bool,
    ) -> bool:
        xs, ys = (seen(a.shape, [s // a.itemsize for s in a.strides]) for a in (x, y))
        assert xs is not None and ys is not None
        x_at, y_at, z_at = pointers
        alignments = _alignment(x_at), _alignment(y_at), _alignment(z_at)
        (m, k), n, has_bias = x.shape[-2:], y.shape[-1], bias is not None
        product = Product(
            m, n, k, xs, ys, batch, x_step, y_step, kind, alignments, has_bias, gelu, SWITCHES.matmul_tf32
        )
        device = x.device.id
        with self._lock:
            if (device, product) not in self._plans:
                self._plans[device, product] = self._planned(device, product)
            plan = self._plans[device, product]
            if plan is None:
                return False
            lt, stream = self._lt, self._xp.cuda.get_current_stream().ptr
            workspace = self._workspace(device, stream)
            if bias is not None:
                self._set("matmul_desc", plan.product, lt.MatmulDescAttribute.BIAS_POINTER, bias.data.ptr)
            one, zero = (v.ctypes.data for v in self._scalars[np.float64 if kind == _DOUBLE else np.float32])
            operands = one, y_at, plan.a, x_at, plan.b, zero, z_at, plan.d, z_at, plan.d
            lt.matmul(
                self._handles[device], plan.product, *operands, plan.found.ptr, workspace.ptr, workspace.size, stream
            )
        return True

    def _workspace(self, device: int, stream: int) -> Any:
        found = self._workspaces.get((device, stream))
        if found is None:
            hopper = self._xp.cuda.runtime.getDeviceProperties(device)["major"] >= 9
            found = self._workspaces[device, stream] = self._xp.cuda.Memory(
                (32 if hopper else 8) << 20
            )  # cuBLAS's own defaults
        return found

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
        if p.bias or p.gelu:
            epilogue = lt.Epilogue.GELU_BIAS if p.bias and p.gelu else lt.Epilogue.GELU if p.gelu else lt.Epilogue.BIAS
            self._set("matmul_desc", product, attribute.EPILOGUE, int(epilogue))
        a = self._layout(p, (p.k, p.n) if p.y.flipped else (p.n, p.k), p.y.ld, p.y_step)
        b = self._layout(p, (p.m, p.k) if p.x.flipped else (p.k, p.m), p.x.ld, p.x_step)
        d = self._layout(p, (p.n, p.m), p.n, p.n * p.m)
        preference = lt.matmul_preference_create()
        limits = lt.MatmulPreferenceAttribute
        self._set(
            "matmul_preference",
            preference,
            limits.MAX_WORKSPACE_BYTES,
            self._workspace(device, self._xp.cuda.get_current_stream().ptr).size,
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
