"""torch.backends: what may compute, and its switches. Switches that have no meaning here can be set and read, as in torch on a CPU."""

from core.backends import cuda, cudnn, mkl, mkldnn, mps, openmp

__all__ = ["cuda", "cudnn", "mkl", "mkldnn", "mps", "openmp"]
