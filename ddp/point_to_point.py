"""Several sends and receives at once: torch.distributed.batch_isend_irecv.

Contract: a send never waits for its receive, so they are begun sends first and cannot wait for each other in a ring. Over NCCL, where ranks
meet before their first message, they meet in an order without rings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError
from ddp import distributed
from ddp.group import Work


class P2POp:
    """One of them: `op` is `isend` or `irecv`, `peer` a rank of the world."""

    def __init__(
        self, op: Callable[..., Work], tensor: Tensor, peer: int | None = None, group: Any = None, tag: int = 0,
        group_peer: int | None = None,
    ):  # fmt: skip
        if op not in (distributed.isend, distributed.irecv):
            raise ArgumentError(f"P2POp: expected op isend or irecv, got {getattr(op, '__name__', op)!r}")
        if (peer is None) == (group_peer is None):
            raise ArgumentError("P2POp: expected either peer or group_peer, got both or none")
        pg = distributed._group(group)
        self.op, self.tensor, self.group, self.tag = op, tensor, pg, tag
        self.peer = pg.ranks[group_peer] if group_peer is not None else peer


def batch_isend_irecv(p2p_op_list: Sequence[P2POp]) -> list[Work]:
    """Begin them all; the works in the order of the list."""
    if not p2p_op_list:
        raise ArgumentError("batch_isend_irecv: expected at least one P2POp, got none")
    for pg in {id(o.group): o.group for o in p2p_op_list}.values():
        mine = [o for o in p2p_op_list if o.group is pg]
        pg.connect([o.tensor for o in mine], [pg.ranks.index(o.peer) for o in mine])
    works: dict[int, Work] = {}
    for i in sorted(range(len(p2p_op_list)), key=lambda i: p2p_op_list[i].op is distributed.irecv):
        o = p2p_op_list[i]
        works[i] = o.op(o.tensor, o.peer, o.group, o.tag)
    return [works[i] for i in range(len(p2p_op_list))]
