"""torchvision's names, on our engine: datasets, transforms, models, utils."""

from core.vision import datasets, models, transforms, utils

__all__ = ["datasets", "models", "transforms", "utils"]
