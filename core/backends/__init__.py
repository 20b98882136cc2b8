"""torch.backends: what may compute, and its switches. Switches that have no meaning here can be set and read, as in torch on a CPU."""

from types import SimpleNamespace as _Switches

from core.backend.cuda import is_available as _has_gpu

cudnn = _Switches(
    enabled=True, benchmark=False, deterministic=False, allow_tf32=True, is_available=_has_gpu, version=lambda: None
)
cuda = _Switches(
    is_built=_has_gpu,
    matmul=_Switches(allow_tf32=False, allow_fp16_reduced_precision_reduction=True, allow_bf16_reduced_precision_reduction=True),
    flash_sdp_enabled=lambda: False,
    enable_flash_sdp=lambda enabled: None,
    enable_mem_efficient_sdp=lambda enabled: None,
    enable_math_sdp=lambda enabled: None,
)
mps = _Switches(is_available=lambda: False, is_built=lambda: False)
mkl = _Switches(is_available=lambda: False)
mkldnn = _Switches(is_available=lambda: True, enabled=True)
openmp = _Switches(is_available=lambda: True)
