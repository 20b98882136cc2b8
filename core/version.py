"""torch.version: what this package is and was made for. The names that ask for other companies' GPUs are None."""

from __future__ import annotations

from typing import Any

from core import __version__ as __version__

debug = False
git_version = "Unknown"
hip = xpu = None


def __getattr__(name: str) -> Any:
    """`cuda`: the version of CUDA that a GPU is used by, such as "13.0"; None without one."""
    if name != "cuda":
        raise AttributeError(f"module 'core.version' has no attribute {name!r}")
    from core import backend, cuda

    if not cuda.is_available():
        return None
    number = backend.get("cuda").xp.cuda.runtime.runtimeGetVersion()  # 13020 is 13.2
    return f"{number // 1000}.{number % 1000 // 10}"
