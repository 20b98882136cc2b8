"""NVIDIA GPUs. CuPy holds memory, streams, events, graphs and NCCL; what computes is, in this order, a library or a kernel of ours.

    gemm      products, by cuBLASLt: as the operands lie, bias and GELU in the same call
    dnn       convolution and attention, by cuDNN's graph API; `attention` is the op around the latter
    kernels/  our CUDA sources and their instances; `launch` compiles and starts them
    rows, channels, pooling, pointwise, embedding, recurrent, optimizers, philox    the host sides of those kernels
    namespace CuPy's module, with bfloat16 where CuPy has none
    memory    the allocator that counts, pinned memory

Contract: no other room imports cupy, and none here does before a GPU is asked for. Each of the above may be absent (a library is not
installed, a dtype or layout is not its case): then it declines by returning None, and the plain kernel of `core.backend.base` computes on
CuPy's arrays.
"""

from core.backend.cuda.member import CUDABackend, is_available

__all__ = ["CUDABackend", "is_available"]
