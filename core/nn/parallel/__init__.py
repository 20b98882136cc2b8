"""torch.nn.parallel: models on several devices of one process. `ddp` has DistributedDataParallel, which is the better
way.
"""

from core.nn.parallel.data_parallel import DataParallel, data_parallel

__all__ = ["DataParallel", "data_parallel"]
