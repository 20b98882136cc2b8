"""The member of the seam for CPUs: its rooms, and convolution, pooling and scatter. `core.backend.cpu` says what stands behind it."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from core.backend import memory, threads
from core.backend.base import Ints, conv_out_shape
from core.backend.cpu.normalisation import NormKernels
from core.backend.cpu.products import ProductKernels
from core.backend.cpu.rows import RowKernels
from core.backend.cpu.sequences import SequenceKernels
from core.backend.onednn import convolution, library, pooling


class CPUBackend(SequenceKernels, NormKernels, RowKernels, ProductKernels):
    """The plain implementation on NumPy arrays, with its hot kernels replaced."""

    chains = frozenset(("add_relu", "linear_relu", "conv_relu", "standardize_relu"))

    def __init__(self) -> None:
        memory.keep_freed()

    # -- convolution and pooling: always, small ones gain most -----------------------------------------------------------

    def conv(self, x: Any, w: Any, b: Any | None, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        out = conv_out_shape(x.shape[2:], w.shape[2:], stride, padding, dilation)
        y = convolution.conv(x, w, b, out, stride, padding, dilation, groups)
        return super().conv(x, w, b, stride, padding, dilation, groups) if y is None else y

    def conv_relu(self, x: Any, w: Any, b: Any | None, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        y = None
        if convolution.stays_finite(x, w, b):
            out = conv_out_shape(x.shape[2:], w.shape[2:], stride, padding, dilation)
            y = convolution.conv(x, w, b, out, stride, padding, dilation, groups, rectified=True)
        return super().conv_relu(x, w, b, stride, padding, dilation, groups) if y is None else y

    def conv_input_grad(
        self, g: Any, w: Any, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dx = convolution.conv_input_grad(g, w, x_shape, stride, padding, dilation, groups)
        return super().conv_input_grad(g, w, x_shape, stride, padding, dilation, groups) if dx is None else dx

    def conv_weight_grad(
        self, g: Any, x: Any, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
    ) -> Any:
        dw = convolution.conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups)
        return super().conv_weight_grad(g, x, w_shape, stride, padding, dilation, groups) if dw is None else dw

    def max_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> tuple[Any, Any]:
        found = pooling.max_pool(x, k, out, stride, padding, dilation)
        return super().max_pool(x, k, out, stride, padding, dilation) if found is None else found

    def max_pool_grad(
        self, g: Any, won: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints, dilation: Ints
    ) -> Any:
        dx = pooling.max_pool_grad(g, won, x_shape, k, stride, padding, dilation)
        return super().max_pool_grad(g, won, x_shape, k, stride, padding, dilation) if dx is None else dx

    def sum_pool(self, x: Any, k: Ints, out: Ints, stride: Ints, padding: Ints) -> Any:
        y = pooling.sum_pool(x, k, out, stride, padding)
        return super().sum_pool(x, k, out, stride, padding) if y is None else y

    def sum_pool_grad(self, g: Any, x_shape: Ints, k: Ints, stride: Ints, padding: Ints) -> Any:
        dx = pooling.sum_pool_grad(g, x_shape, k, stride, padding)
        return super().sum_pool_grad(g, x_shape, k, stride, padding) if dx is None else dx

    # -- scatter: sorted, so that each row is written once ---------------------------------------------------------------

    def add_at_(self, x_: Any, index: Any, g: Any) -> None:
        rows = index[0] if isinstance(index, tuple) and len(index) == 1 else index
        if not (isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.size and x_.ndim > 1):
            return super().add_at_(x_, index, g)
        if g.shape != (*rows.shape, *x_.shape[1:]) or rows.min() < 0:
            return super().add_at_(x_, index, g)
        rows = rows.reshape(-1)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        first = np.concatenate([[0], np.flatnonzero(rows[1:] != rows[:-1]) + 1])
        wide = np.dtype(np.float32) if g.dtype.itemsize == 2 and g.dtype.kind in "fV" else g.dtype
        x_[rows[first]] += np.add.reduceat(g.reshape(-1, *x_.shape[1:])[order], first, axis=0, dtype=wide).astype(
            x_.dtype, copy=False
        )


# -- who computes ------------------------------------------------------------------------------------------------------


def description() -> dict[str, str]:
    """Everything that the bits of a result may depend on: processor, libraries, their kernels, threads. Loads oneDNN."""
    lib = library.get()
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "processor": platform.machine(),
        "numpy": np.__version__,
        "blas": " ".join(filter(None, [blas.get("name"), blas.get("version"), threads.blas_kernels()])),
        "onednn": f"{'.'.join(map(str, lib.version))} {lib.isa}" if lib else f"none ({library.reason()})",
        "threads": str(threads.get_num_threads()),
    }
