"""DistributedDataParallel inside of `ddp.algorithms.join.Join`: what an active rank tells at each forward, and what a
finished one does then.

Contract: one backward for each forward in which gradients are synchronised. A finished rank adds zeros; its own `grad`s
become those of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from core._tensor import wrap
from ddp.algorithms.join import Join, JoinHook
from ddp.group import ProcessGroup

if TYPE_CHECKING:
    from ddp.parallel import DistributedDataParallel


class Shadow(JoinHook):
    """A finished rank's part."""

    def __init__(self, model: DistributedDataParallel, divide_by_initial_world_size: bool):
        self.model, self.keep_divisor = model, divide_by_initial_world_size

    def main_hook(self) -> None:
        from ddp.parallel import broadcast_coalesced

        model, group = self.model, self.model.process_group
        synchronise, buffers, source = _most(group, 0, 0, -1)
        if buffers:
            broadcast_coalesced(model.all_buffers(), group, source)
        if synchronise:
            assert model._reducer is not None and model._join is not None
            self.set_scale(model._join.active)
            model._reducer.shadow()

    def post_hook(self, is_last_joiner: bool) -> None:
        """Everyone takes over the model of a rank that went on to the end."""
        from ddp.parallel import broadcast_coalesced

        model, group = self.model, self.model.process_group
        (source,) = _most(group, group.rank if is_last_joiner else -1)
        self.set_scale(group.size)
        model.buffer_source = 0
        broadcast_coalesced([*model.module.parameters(), *model.all_buffers()], group, source)

    def set_scale(self, active: int) -> None:
        if self.model._reducer is not None:
            self.model._reducer.scale = 1.0 if self.keep_divisor else self.model.process_group.size / active


def before_forward(model: DistributedDataParallel) -> None:
    """An active rank: say what this iteration will do."""
    Join.notify_join_context(model)
    assert model._join is not None
    group = model.process_group
    *_, source = _most(group, model.will_synchronise(), model.will_broadcast_buffers(), group.rank)
    model.buffer_source = source
    model._join.hook_of(model).set_scale(model._join.active)


def _most(group: ProcessGroup, *values: int) -> list[int]:
    """The largest of all ranks' values, one by one."""
    t = wrap(np.array(values, dtype=np.int64))
    group.all_reduce(t, "max")
    return t.tolist()
