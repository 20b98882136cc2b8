"""Collectives that gradients flow through, as torch.distributed.nn.functional.

Contract: each returns a new tensor and leaves its arguments alone. The loss whose gradient is taken is the sum of the losses of all
ranks; so the gradient of a collective is another one, which every rank must make: all ranks call backward. Gradients of gradients
work, for the gradients are made of these functions, too.
Source: the adjoints of sums and copies over ranks; torch.distributed.nn.functional has the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import core
from core._tensor import Tensor
from core.autograd import Function
from ddp import distributed
from ddp.distributed import ReduceOp
from ddp.errors import DDPError
from ddp.group import WORLD


def all_reduce(tensor: Tensor, op: str = ReduceOp.SUM, group: Any = WORLD) -> Tensor:
    """The sum of all ranks' tensors, on every rank."""
    return _AllReduce.apply(tensor, _sum(op, "all_reduce"), group)


def broadcast(tensor: Tensor, src: int, group: Any = WORLD) -> Tensor:
    """The tensor of `src`, on every rank."""
    return _Broadcast.apply(tensor, src, group)


def all_gather(tensor: Tensor, group: Any = WORLD) -> tuple[Tensor, ...]:
    """The tensors of all ranks, on every rank; of one shape."""
    return _AllGather.apply(tensor, group).unbind(0)


def reduce_scatter(output: Tensor, input_list: Sequence[Tensor], op: str = ReduceOp.SUM, group: Any = WORLD) -> Tensor:
    """On rank r the sum of all ranks' input_list[r]. `output` gives nothing but its shape, as in torch."""
    return _ReduceScatter.apply(core.stack(list(input_list)), _sum(op, "reduce_scatter"), group)


def all_to_all_single(
    output: Tensor, input: Tensor, output_split_sizes: Sequence[int] | None = None,
    input_split_sizes: Sequence[int] | None = None, group: Any = WORLD,
) -> Tensor:  # fmt: skip
    """Block s on rank r is block r of rank s: rows by the split sizes. `output` gives nothing but its shape, as in torch."""
    return _AllToAll.apply(input, tuple(output.shape), output_split_sizes, input_split_sizes, group)


def _sum(op: str, where: str) -> str:
    if op != ReduceOp.SUM:
        raise DDPError(f"nn.functional.{where}: expected ReduceOp.SUM, which has a gradient here, got {op!r}")
    return op


class _AllReduce(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, op: str, group: Any) -> Tensor:
        ctx.op, ctx.group = op, group
        y = x.detach().clone()
        distributed.all_reduce(y, op, group)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _AllReduce.apply(grads[0], ctx.op, ctx.group), None, None


class _Broadcast(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, src: int, group: Any) -> Tensor:
        ctx.src, ctx.group = src, group
        y = x.detach().clone()
        distributed.broadcast(y, src, group)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """All copies are of the source's tensor."""
        g = _AllReduce.apply(grads[0], ReduceOp.SUM, ctx.group)
        return (g if distributed.get_rank() == ctx.src else g * 0), None, None


class _AllGather(Function):
    """x (*) -> y (size, *)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        y = x.detach().new_empty((distributed.get_world_size(group), *x.shape))
        distributed.all_gather_into_tensor(y, x.detach(), group)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _ReduceScatter.apply(grads[0], ReduceOp.SUM, ctx.group), None


class _ReduceScatter(Function):
    """x (size, *) -> y (*)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, op: str, group: Any) -> Tensor:
        ctx.group = group
        y = x.detach().new_empty(x.shape[1:])
        distributed.reduce_scatter_tensor(y, x.detach().contiguous(), op, group)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _AllGather.apply(grads[0], ctx.group), None, None


class _AllToAll(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...], to: Any, come: Any, group: Any) -> Tensor:
        ctx.shape, ctx.to, ctx.come, ctx.group = tuple(x.shape), to, come, group
        y = x.detach().new_empty(shape)
        distributed.all_to_all_single(y, x.detach().contiguous(), to, come, group)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _AllToAll.apply(grads[0], ctx.shape, ctx.come, ctx.to, ctx.group), None, None, None, None
