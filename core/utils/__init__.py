"""torch.utils: what a training script needs around tensors and modules."""

import core.methods  # Tensor's methods are there, whichever room is entered first
from core.utils import checkpoint, data, dlpack

__all__ = ["checkpoint", "data", "dlpack"]
