"""ZeRO-1: each rank keeps the optimizer's state of its share of the parameters and updates only those.

Parameters are dealt out whole, the largest first, each to the rank that has the least so far. After a step each rank
broadcasts its share. Source: Rajbhandari et al., ZeRO, SC 2020, stage 1; names and partition are torch's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from core.optim import Optimizer
from ddp import distributed, objects
from ddp.algorithms.join import Joinable, JoinHook
from ddp.errors import DDPError
from ddp.group import ProcessGroup


class ZeroRedundancyOptimizer(Optimizer, Joinable):
    """`optimizer_class(params, **defaults)`, its state divided among the ranks.

    Gradients must be the same on all ranks, as after a backward of DistributedDataParallel. `state_dict` is that of the
    plain optimizer, and exists where `consolidate_state_dict` has brought it; it loads at any number of ranks.
    """

    def __init__(
        self,
        params: Any,
        optimizer_class: type[Optimizer],
        process_group: ProcessGroup | None = None,
        parameters_as_bucket_view: bool = False,
        overlap_with_ddp: bool = False,
        **defaults: Any,
    ):
        if overlap_with_ddp:
            raise ArgumentError("ZeroRedundancyOptimizer: expected overlap_with_ddp=False, got True; leave it out")
        self.process_group = distributed._group(process_group)
        self.optimizer_class = optimizer_class
        self._options = defaults
        self._consolidated: dict[str, Any] | None = None
        whole = optimizer_class(params, **defaults)  # checks groups and options; its state stays empty
        self.defaults, self.param_groups = whole.defaults, whole.param_groups
        self._deal()

    def _deal(self) -> None:
        """Make the optimizer of this rank's share."""
        params = [p for g in self.param_groups for p in g["params"]]
        self.shares: list[list[Tensor]] = [[] for _ in range(self.process_group.size)]
        loads = [0] * len(self.shares)
        for p in sorted(params, key=lambda p: -p._a.size):  # stable: ties in the model's order
            rank = loads.index(min(loads))
            self.shares[rank].append(p)
            loads[rank] += p._a.size
        mine = {id(p) for p in self.shares[self.process_group.rank]}
        groups = [{**g, "params": [p for p in g["params"] if id(p) in mine]} for g in self.param_groups]
        self.optim = self.optimizer_class(groups, **self._options)

    @property
    def state(self) -> Any:
        return self.optim.state

    def step(self, closure: Any = None) -> Any:
        """Update this rank's share, then take over the others'."""
        from ddp.parallel import broadcast_coalesced

        for whole, mine in zip(self.param_groups, self.optim.param_groups):  # a scheduler writes to the whole groups
            mine.update({k: v for k, v in whole.items() if k != "params"})
        for hook in list((self._pre_hooks or {}).values()):
            hook(self, (closure,), {})
        loss = self.optim.step(closure)
        self._opt_called = True
        self._consolidated = None
        for rank, share in enumerate(self.shares):
            if self.process_group.size > 1 and share:
                broadcast_coalesced(share, self.process_group, rank)
        for hook in list((self._post_hooks or {}).values()):
            hook(self, (closure,), {})
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; the shares are dealt anew, so only before the first step."""
        if self.state:
            raise ArgumentError("ZeroRedundancyOptimizer: expected all groups before the first step, got one after it")
        super().add_param_group(param_group)
        self._deal()

    # -- state ---------------------------------------------------------------------------------------------------------

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Bring the whole state together on rank `to`. Every rank calls it."""
        group = self.process_group
        numbers = self._numbers()
        mine = {numbers[id(p)]: s for p, s in self.optim.state.items()}
        plain = {n: {k: v for k, v in s.items() if not isinstance(v, Tensor)} for n, s in mine.items()}
        tensors = [(n, k, v) for n, s in mine.items() for k, v in s.items() if isinstance(v, Tensor)]
        index = [[n, k, v.dtype.name, list(v.shape), v.device.type] for n, k, v in tensors]
        everyone: list[Any] = []
        objects.all_gather_object(everyone, [list(plain.items()), index], group)
        if group.rank != to:
            self._consolidated = None
            if tensors:
                raw = [
                    np.ascontiguousarray(backend.of(v._a).to_numpy(v._a)).reshape(-1).view(np.uint8)
                    for *_, v in tensors
                ]
                group.send(wrap(np.concatenate(raw)), to, _TAG)
            return
        state = {n: dict(s) for n, s in mine.items()}
        for rank, (theirs, layout) in enumerate(everyone):
            if rank == to:
                continue
            state.update({n: dict(s) for n, s in theirs})
            sizes = [int(np.prod(shape)) * getattr(dtypes, name).itemsize for _, _, name, shape, _ in layout]
            if not layout:
                continue
            raw_bytes = wrap(np.empty(sum(sizes), np.uint8))
            group.recv(raw_bytes, rank, _TAG)
            start = 0
            for (n, k, name, shape, where), size in zip(layout, sizes):
                part = raw_bytes._a[start : start + size].copy().view(getattr(dtypes, name).numpy).reshape(shape)
                state[n][k] = wrap(part).to(where)
                start += size
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [numbers[id(p)] for p in g["params"]]}
            for g in self.param_groups
        ]
        self._consolidated = {"state": dict(sorted(state.items())), "param_groups": groups}

    def state_dict(self) -> dict[str, Any]:
        """The plain optimizer's, where it has been consolidated since the last step."""
        if self._consolidated is None:
            raise DDPError(
                f"rank {self.process_group.world.rank}: ZeroRedundancyOptimizer: Optimizer state has not been consolidated on this rank "
                "since the last step; call `consolidate_state_dict(to=...)` on all ranks"
            )
        return self._consolidated

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take this rank's share of the plain optimizer's state."""
        whole = self.optimizer_class(self.param_groups, **self._options)
        whole.load_state_dict(state_dict)
        for mine, theirs in zip(self.param_groups, whole.param_groups):
            mine.update({k: v for k, v in theirs.items() if k != "params"})
        self._deal()
        own = {id(p) for p in self.shares[self.process_group.rank]}
        self.optim.state.update({p: s for p, s in whole.state.items() if id(p) in own})
        self._consolidated = None

    # -- uneven inputs -------------------------------------------------------------------------------------------------

    def join_hook(self, **kwargs: Any) -> JoinHook:
        """A rank without inputs goes on updating its share, with the gradients that its model's hook has received."""
        return _Steps(self)

    @property
    def join_device(self) -> Any:
        return self.param_groups[0]["params"][0].device

    @property
    def join_process_group(self) -> ProcessGroup:
        return self.process_group


_TAG = 0x2E20  # of the messages that consolidate


class _Steps(JoinHook):
    def __init__(self, zero: ZeroRedundancyOptimizer):
        self.zero = zero

    def main_hook(self) -> None:
        self.zero.step()
