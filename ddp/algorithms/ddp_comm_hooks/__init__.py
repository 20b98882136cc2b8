"""Communication hooks for `DistributedDataParallel.register_comm_hook`: how gradients cross the network.

Every hook is `hook(state, bucket) -> Future`; see `ddp.comm_hooks`. Not here: averaging of weights instead of gradients
(`ddp.algorithms.model_averaging`, `ddp.optim`).
"""

from ddp.algorithms.ddp_comm_hooks import (
    debugging_hooks,
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
    topk_hook,
)
