"""torch.utils: what a training script needs around tensors and modules."""

from core.utils import data

__all__ = ["data"]
