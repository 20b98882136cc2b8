"""The CPU: NumPy, its BLAS, and oneDNN where there is one and it is the faster.

    member          the member of the seam; what decides about convolution, pooling and scatter
    elements        what looks at each element by itself: order, dtypes, sums of two, activations, updates
    sums            what BLAS adds up, for the rooms below
    products        products, and sums over rows and channels
    rows            softmax, cross-entropy
    normalisation   of rows and of channels
    sequences       attention, long short-term memory

Contract: the same numbers as the plain backend, up to rounding. Each method says when it leaves the plain kernel; a kernel of oneDNN may
decline by returning None, and then the plain one computes. `description` says which libraries compute, for the log and for fingerprints.

The thresholds are from `python -m tests.bench ops`, AVX-512, one thread: what a call of oneDNN costs before it computes, 4 to 8 µs, NumPy
must first have lost.
"""

from core.backend.cpu.member import CPUBackend, description

__all__ = ["CPUBackend", "description"]
