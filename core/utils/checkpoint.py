"""torch.utils.checkpoint: a part of a model that keeps nothing for backward and computes itself again there. Chen et al. 2016.

The random numbers of the second time are those of the first; so is autocast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from core import autograd, rng
from core._tensor import Tensor, _grad_mode
from core.autograd.function import Function
from core.engine import mode
from core.errors import ArgumentError

__all__ = ["checkpoint", "checkpoint_sequential"]


def checkpoint(
    function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None, preserve_rng_state: bool = True,
    context_fn: Any = None, determinism_check: str = "default", debug: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    """function(*args, **kwargs), of which only the tensors in args are kept. The reentrant way takes no keyword arguments, as in torch."""
    if use_reentrant:
        if kwargs:
            raise ArgumentError(
                f"checkpoint: expected no keyword arguments with use_reentrant=True, got {', '.join(kwargs)}"
            )
        return _Reentrant.apply(function, preserve_rng_state, *args)
    if not mode.grad:
        return function(*args, **kwargs)
    return _without_reentry(function, args, kwargs, preserve_rng_state)


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """A Sequential or list of functions in `segments` parts, each but the last checkpointed."""
    layers = list(functions.children()) if hasattr(functions, "children") else list(functions)
    size = len(layers) // segments

    def part(start: int, end: int) -> Callable[..., Any]:
        def forward(x: Any) -> Any:
            for layer in layers[start:end]:
                x = layer(x)
            return x

        return forward

    for k in range(segments - 1):
        input = checkpoint(part(k * size, (k + 1) * size), input, use_reentrant=use_reentrant, **kwargs)
    return part((segments - 1) * size, len(layers))(input)


@contextlib.contextmanager
def _as_before(state: Any, autocast: Any) -> Any:
    """The random stream and autocast of an earlier moment, for a block."""
    previous, mode.autocast = mode.autocast, autocast
    try:
        with rng.fork_rng(enabled=state is not None):
            if state is not None:
                rng.set_rng_state(state)
            yield
    finally:
        mode.autocast = previous


def _without_reentry(function: Any, args: Any, kwargs: Any, preserve: bool) -> Any:
    """What ops keep is replaced by its number; the first number asked for runs the function again and notes all of them."""
    state, autocast = rng.get_rng_state() if preserve else None, mode.autocast
    kept: dict[int, Tensor] = {}
    packed = 0

    def pack(tensor: Tensor) -> int:
        nonlocal packed
        packed += 1
        return packed - 1

    def unpack(number: int) -> Tensor:
        if number not in kept:
            again = iter(range(packed))

            def keep(tensor: Tensor) -> None:
                kept[next(again, -1)] = tensor.detach()

            with (
                _as_before(state, autocast),
                _grad_mode(True),
                autograd.graph.saved_tensors_hooks(keep, lambda packed: packed),
            ):
                function(*args, **kwargs)
            if number not in kept:
                raise ArgumentError(
                    "checkpoint: expected the function to keep the same tensors both times, got fewer the second time"
                )
        return kept.pop(number)

    with autograd.graph.saved_tensors_hooks(pack, unpack):
        return function(*args, **kwargs)


class _Reentrant(Function):
    """Runs a second backward, of the part alone, inside of the first."""

    @staticmethod
    def forward(ctx: Any, function: Any, preserve: bool, *args: Any) -> Any:
        ctx.function, ctx.args, ctx.autocast = function, args, mode.autocast
        ctx.state = rng.get_rng_state() if preserve else None
        return function(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        args = [a.detach().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in ctx.args]
        with _as_before(ctx.state, ctx.autocast), _grad_mode(True):
            outputs = ctx.function(*args)
        pairs = [
            (y, g)
            for y, g in zip(outputs if isinstance(outputs, tuple) else (outputs,), grads)
            if isinstance(y, Tensor) and y.requires_grad
        ]
        autograd.backward([y for y, _ in pairs], [g for _, g in pairs])
        return (None, None, *(a.grad if isinstance(a, Tensor) else None for a in args))
