"""torch.cuda.amp: `core.amp` for the GPU, under its older name."""

from typing import Any

import core.amp
from core.amp import custom_bwd, custom_fwd


class autocast(core.amp.autocast):
    """`core.amp.autocast("cuda", …)`"""

    def __init__(self, enabled: bool = True, dtype: Any = None, cache_enabled: bool = True):
        super().__init__("cuda", dtype, enabled, cache_enabled)


class GradScaler(core.amp.GradScaler):
    """`core.amp.GradScaler("cuda", …)`"""

    def __init__(self, init_scale: float = 2.0**16, growth_factor: float = 2.0, backoff_factor: float = 0.5,
                 growth_interval: int = 2000, enabled: bool = True):  # fmt: skip
        super().__init__("cuda", init_scale, growth_factor, backoff_factor, growth_interval, enabled)


__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd"]
