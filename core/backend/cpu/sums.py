"""Sums of float32 as products with ones, which BLAS computes sooner than NumPy adds up."""

from __future__ import annotations

import functools

import numpy as np

FLOAT32 = np.dtype(np.float32)
# Columns of a matrix by which OpenBLAS 0.3.31 multiplies vectors in an AVX-512 kernel (sgemv_t) that computes with memory that nobody has
# written, too. The result does not depend on it, but the processor's flag of an invalid operation does, and NumPy warns of that flag.
FLAGGED = 5
SHORT = 1 << 10  # terms of a short sum
_ONES = np.ones(SHORT, np.float32)  # what short sums are multiplied by: making an array takes as long as the sum


def ones(n: int) -> np.ndarray:
    """(n), to be read only."""
    return _ONES[:n] if n <= SHORT else np.ones(n, np.float32)


def channel_sums(x: np.ndarray) -> np.ndarray:
    """(N, C, *) -> (C)"""
    rows = x.reshape(x.shape[0], x.shape[1], -1)
    return (rows @ np.ones(rows.shape[2], x.dtype)).sum(axis=0)


def channel_dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ x·y over all but the channels: (N, C, *), (N, C, *) -> (C)"""
    shape = (x.shape[0], x.shape[1], -1)
    return np.vecdot(x.reshape(shape), y.reshape(shape)).sum(axis=0)


def row_sums(x: np.ndarray) -> np.ndarray:
    """(N, C) -> (N, 1)"""
    column = _column(x.shape[1]) if x.dtype == FLOAT32 else np.ones((x.shape[1], 1), x.dtype)
    if x.shape[1] != FLAGGED:
        return x.dot(column)
    with np.errstate(invalid="ignore"):
        return x.dot(column)


@functools.lru_cache(maxsize=16)
def _column(n: int) -> np.ndarray:
    return np.ones((n, 1), np.float32)
