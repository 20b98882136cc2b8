"""Learning rates that change from step to step: torch.optim.lr_scheduler, in order of increasing complexity.

    scheduler   what all are: the rates in force, steps, state
    factors     the rate times a number that depends on the step
    cycles      along cosines, up and down, with the momentum the other way
    plateau     when a metric gets no better
    several     made of others

Sources: PyTorch's documentation for all; Loshchilov & Hutter 2017 (cosine, restarts), Smith 2017 and 2018 (cyclic, one
cycle).
"""

from core.optim.lr_scheduler.cycles import CosineAnnealingLR, CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR
from core.optim.lr_scheduler.factors import (
    ConstantLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from core.optim.lr_scheduler.plateau import ReduceLROnPlateau
from core.optim.lr_scheduler.scheduler import LRScheduler
from core.optim.lr_scheduler.several import ChainedScheduler, SequentialLR

_LRScheduler = LRScheduler

__all__ = [
    "LRScheduler", "ConstantLR", "ExponentialLR", "StepLR", "MultiStepLR", "LinearLR", "PolynomialLR", "LambdaLR", "MultiplicativeLR",
    "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR", "ReduceLROnPlateau", "ChainedScheduler", "SequentialLR",
]  # fmt: skip

for _name in __all__:  # torch's path, which pickles name
    globals()[_name].__module__ = __name__
