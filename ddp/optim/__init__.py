"""Optimizers between processes: sharded state (ZeRO-1), and weights averaged now and then (post-local SGD, DiLoCo)."""

from ddp.optim.diloco import DiLoCo
from ddp.optim.post_localSGD_optimizer import PostLocalSGDOptimizer
from ddp.optim.zero_redundancy_optimizer import ZeroRedundancyOptimizer

__all__ = ["DiLoCo", "PostLocalSGDOptimizer", "ZeroRedundancyOptimizer"]
