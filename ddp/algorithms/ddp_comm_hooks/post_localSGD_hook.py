"""Post-local SGD: gradients are averaged over all ranks at first, later only inside a subgroup or not at all.

From then on the weights must be averaged now and then: `ddp.algorithms.model_averaging.averagers`, or
`ddp.optim.PostLocalSGDOptimizer`. Source: Lin et al., Don't Use Large Mini-Batches, Use Local SGD, ICLR 2020.
"""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from ddp import distributed
from ddp.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from ddp.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from ddp.comm_hooks import GradBucket
from ddp.futures import Future


class PostLocalSGDState:
    """After `start_localSGD_iter` backwards gradients are averaged over `subgroup` (None: the ranks of a host), or nowhere
    if `post_local_gradient_allreduce` is false.
    """

    def __init__(
        self, process_group: Any, subgroup: Any, start_localSGD_iter: int, post_local_gradient_allreduce: bool = True
    ):
        self.process_group, self.subgroup = process_group, subgroup
        self.start_localSGD_iter = start_localSGD_iter
        self.post_local_gradient_allreduce = post_local_gradient_allreduce
        self.iter = 0


def post_localSGD_hook(state: PostLocalSGDState, bucket: GradBucket) -> Future[Tensor]:
    """The average over all ranks, then over the subgroup."""
    local = state.iter >= state.start_localSGD_iter
    state.iter += bucket.is_last()
    if not local:
        return allreduce_hook(state.process_group, bucket)
    if not state.post_local_gradient_allreduce:
        return noop_hook(None, bucket)
    if state.subgroup is None:
        state.subgroup, _ = distributed.new_subgroups()
    return allreduce_hook(state.subgroup, bucket)
