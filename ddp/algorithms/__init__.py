"""torch.distributed.algorithms: joining, communication hooks, averaging of models."""

from ddp.algorithms.join import Join, Joinable, JoinHook

__all__ = ["Join", "JoinHook", "Joinable"]
