"""torch.distributed's calls on Python objects. They travel as data (`ddp.packing`), never as pickles.

Contract: what `packing` knows (numbers, strings, lists, tuples, dicts, sets, bytes, arrays, tensors) arrives as it was; anything else is
a DTypeError on the rank that would send it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core._tensor import Tensor, wrap
from ddp import distributed
from ddp.group import ProcessGroup
from ddp.packing import packed, unpacked


def _padded(pg: ProcessGroup, value: Any, where: str) -> tuple[Tensor, list[int]]:
    """The value's bytes, padded to the longest of all ranks, and the true lengths."""
    data = packed(value, where)
    lengths = [wrap(np.zeros(1, np.int64)) for _ in range(pg.size)]
    pg.all_gather(lengths, wrap(np.array([data.size])))
    sizes = [int(t._a[0]) for t in lengths]
    return wrap(np.pad(data, (0, max(sizes) - data.size))), sizes


def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """object_list[r] becomes rank r's object, on every rank."""
    pg = distributed._group(group)
    data, sizes = _padded(pg, obj, "all_gather_object")
    rows = [wrap(np.empty_like(data._a)) for _ in range(pg.size)]
    pg.all_gather(rows, data)
    object_list[:] = [unpacked(row._a[:n]) for row, n in zip(rows, sizes)]


def gather_object(
    obj: Any, object_gather_list: list[Any] | None = None, dst: int = 0, group: Any = None, group_dst: int | None = None
) -> None:
    """object_gather_list[r] becomes rank r's object, on `dst`."""
    pg, everyone = distributed._group(group), list[Any]()
    all_gather_object(everyone, obj, group)
    if pg.rank == distributed._root(pg, dst, group_dst, "gather_object") and object_gather_list is not None:
        object_gather_list[:] = everyone


def broadcast_object_list(
    object_list: list[Any], src: int = 0, group: Any = None, device: Any = None, group_src: int | None = None
) -> None:
    """Every rank's list becomes that of `src`."""
    pg = distributed._group(group)
    root = distributed._root(pg, src, group_src, "broadcast_object_list")
    data = packed(object_list, "broadcast_object_list") if pg.rank == root else np.empty(0, np.uint8)
    length = wrap(np.array([data.size]))
    pg.broadcast(length, root)
    t = wrap(data if pg.rank == root else np.empty(int(length._a[0]), np.uint8))
    pg.broadcast(t, root)
    object_list[:] = unpacked(t._a)


def scatter_object_list(
    scatter_object_output_list: list[Any],
    scatter_object_input_list: list[Any] | None = None,
    src: int = 0,
    group: Any = None,
    group_src: int | None = None,
) -> None:
    """The first element of rank r's output list becomes element r of the input list of `src`."""
    pg = distributed._group(group)
    everything = list(scatter_object_input_list or [None] * pg.size)
    broadcast_object_list(everything, src, group, group_src=group_src)
    scatter_object_output_list[0] = everything[pg.rank]


def send_object_list(
    object_list: list[Any], dst: int = 0, group: Any = None, device: Any = None, group_dst: int | None = None
) -> None:
    """Send to a rank, which calls `recv_object_list`."""
    data = packed(object_list, "send_object_list")
    for t in (wrap(np.array([data.size])), wrap(data)):
        distributed.send(t, dst, group, group_dst=group_dst)


def recv_object_list(
    object_list: list[Any], src: int = 0, group: Any = None, device: Any = None, group_src: int | None = None
) -> int:
    """The list becomes the one that `src` sends. Returns the source."""
    length = wrap(np.zeros(1, np.int64))
    distributed.recv(length, src, group, group_src=group_src)
    text = wrap(np.empty(int(length._a[0]), np.uint8))
    source = distributed.recv(text, src, group, group_src=group_src)
    object_list[:] = unpacked(text._a)
    return source
