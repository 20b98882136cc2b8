"""torch.backends.cuda: switches of GPU kernels. `matmul.allow_tf32` and `enable_cudnn_sdp` decide who computes and how; the others can be
set and read."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from core.backend.switches import SWITCHES


class _Matmul:
    """How products are computed."""

    allow_fp16_reduced_precision_reduction = True
    allow_bf16_reduced_precision_reduction = True

    @property
    def allow_tf32(self) -> bool:
        """Whether float32 products may round their operands to TF32."""
        return SWITCHES.matmul_tf32

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        SWITCHES.matmul_tf32 = bool(allowed)

    @property
    def fp32_precision(self) -> str:
        """The same, in torch's newer words: "ieee" or "tf32"."""
        return "tf32" if SWITCHES.matmul_tf32 else "ieee"

    @fp32_precision.setter
    def fp32_precision(self, precision: str) -> None:
        SWITCHES.matmul_tf32 = precision == "tf32"


matmul = _Matmul()
_attention = {"flash": False, "mem_efficient": False, "math": True}


def _kernel(name: str) -> None:
    """The pair enable_NAME_sdp, NAME_sdp_enabled: torch's kernels of attention, of which we have none of that name."""

    def enable(enabled: bool) -> None:
        _attention[name] = enabled

    def enabled() -> bool:
        return _attention[name]

    globals()[f"enable_{name}_sdp"], globals()[f"{name}_sdp_enabled"] = enable, enabled


for _name in _attention:
    _kernel(_name)


def enable_cudnn_sdp(enabled: bool) -> None:
    """Whether cuDNN may compute attention; without it the probabilities are computed, and kept for the gradient."""
    SWITCHES.cudnn_attention = bool(enabled)


def cudnn_sdp_enabled() -> bool:
    """What `enable_cudnn_sdp` was told."""
    return SWITCHES.cudnn_attention


@contextmanager
def sdp_kernel(
    enable_flash: bool = True, enable_math: bool = True, enable_mem_efficient: bool = True, enable_cudnn: bool = True
) -> Iterator[None]:
    """In the block only these kernels may compute attention; see `core.nn.attention.sdpa_kernel`, which is newer."""
    before = SWITCHES.cudnn_attention, dict(_attention)
    _attention.update(flash=enable_flash, math=enable_math, mem_efficient=enable_mem_efficient)
    SWITCHES.cudnn_attention = enable_cudnn
    try:
        yield
    finally:
        SWITCHES.cudnn_attention = before[0]
        _attention.update(before[1])


def is_built() -> bool:
    """Whether this installation could use a GPU: CuPy is there."""
    return importlib.util.find_spec("cupy") is not None
