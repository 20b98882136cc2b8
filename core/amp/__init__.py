"""torch.amp: mixed precision."""

import core.methods  # Tensor's methods are there, whichever room is entered first
from core.amp.autocast_mode import autocast, custom_bwd, custom_fwd, is_autocast_available
from core.amp.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]
