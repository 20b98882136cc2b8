"""torchvision's names, on our engine: datasets."""

from core.vision import datasets

__all__ = ["datasets"]
