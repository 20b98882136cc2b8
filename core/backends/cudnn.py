"""torch.backends.cudnn: switches of cuDNN's kernels for convolution and attention.

`enabled`, `benchmark`, `deterministic` and `allow_tf32` are read at each call (`core.backend.switches`): whether cuDNN computes at all,
whether it chooses its kernels with more care, whether their bits must be the same each time, and whether float32 may be rounded to TF32.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from core.backend.cuda import is_available
from core.backends.switched import switched

__all__ = ["is_available"]

benchmark_limit = 10
_NAMES = {
    "enabled": "cudnn", "benchmark": "benchmark", "deterministic": "deterministic", "allow_tf32": "conv_tf32",
}  # fmt: skip


def version() -> Any:
    """As cuDNN numbers itself, 91900 for 9.19: of the wheel, since the library is opened on first use; None without it."""
    for name in ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"):
        try:
            major, minor, patch, *_ = importlib.metadata.version(name).split(".")
        except importlib.metadata.PackageNotFoundError:
            continue
        return int(major) * 10000 + int(minor) * 100 + int(patch)
    return None


flags = switched(__name__, _NAMES)
