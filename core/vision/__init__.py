"""torchvision's names, on our engine: datasets."""

import core.methods  # Tensor's methods are there, whichever room is entered first
from core.vision import datasets

__all__ = ["datasets"]
