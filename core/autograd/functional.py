"""torch.autograd.functional: derivatives of functions of tensors, as tensors: jacobian, hessian, and their products with vectors.

A function takes one tensor or several and returns one or several; the results have the same form. With `create_graph` they can be
differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core import autograd
from core._tensor import Tensor, _grad_mode, wrap
from core.errors import ArgumentError, GraphError
from core.ops.shape import new_zeros, stack

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]

Tensors = tuple[Tensor, ...]


def _tuple(x: Any, where: str) -> Tensors:
    xs = tuple(x) if isinstance(x, (tuple, list)) else (x,)
    if not all(isinstance(t, Tensor) for t in xs):
        raise ArgumentError(f"{where}: expected tensors, got {', '.join(type(t).__name__ for t in xs)}")
    return xs


def _like(results: Any, given: Any) -> Any:
    return tuple(results) if isinstance(given, (tuple, list)) else results[0]


def _traced(func: Callable[..., Any], inputs: Any, create_graph: bool, where: str) -> tuple[Tensors, Any, Tensors]:
    """Inputs that want a gradient, what func makes of them, and that as a tuple."""
    given = _tuple(inputs, where)
    with _grad_mode(True):
        xs = tuple(t.view_as(t) if create_graph and t.requires_grad else t.detach().requires_grad_() for t in given)
        result = func(*xs)
    return xs, result, _tuple(result, where)


def _weights(v: Any, like: Tensors, where: str) -> Tensors:
    if v is None:
        if len(like) != 1 or like[0].numel() != 1:
            raise ArgumentError(f"{where}: expected v, since the function does not return a single element")
        return (wrap(like[0].detach()._a * 0 + 1),)
    vs = _tuple(v, where)
    if [t.shape for t in vs] != [t.shape for t in like]:
        raise ArgumentError(
            f"{where}: expected v of shapes {[tuple(t.shape) for t in like]}, got {[tuple(t.shape) for t in vs]}"
        )
    return vs


def _gradients(ys: Tensors, xs: Tensors, vs: Tensors, create_graph: bool, strict: bool, where: str) -> Tensors:
    """Σ vᵢ ∂yᵢ/∂x for each x; zeros where there is no dependence, an error if `strict`."""
    live = [(y, v) for y, v in zip(ys, vs) if y.requires_grad]
    if strict and len(live) < len(ys):
        raise GraphError(f"{where}: expected outputs that depend on the inputs, got one that does not (strict=True)")
    if not live:
        return tuple(wrap(x.detach()._a * 0) for x in xs)
    gs = autograd.grad(
        [y for y, _ in live], xs, [v for _, v in live], retain_graph=True, create_graph=create_graph, allow_unused=True
    )
    if strict and any(g is None for g in gs):
        raise GraphError(
            f"{where}: expected outputs that depend on each input, got an input that has no part (strict=True)"
        )
    return tuple(wrap(x.detach()._a * 0) if g is None else g for x, g in zip(xs, gs))


def vjp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(func(inputs), vᵀ J)"""
    xs, result, ys = _traced(func, inputs, create_graph, "vjp")
    gs = _gradients(ys, xs, _weights(v, ys, "vjp"), create_graph, strict, "vjp")
    return _detached(result, create_graph), _like(gs, inputs)


def jvp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(func(inputs), J v), by differentiating uᵀ J for u."""
    xs, result, ys = _traced(func, inputs, create_graph, "jvp")
    vs = _weights(v, xs, "jvp")
    us = tuple(wrap(y.detach()._a * 0).requires_grad_() for y in ys)
    gs = _gradients(ys, xs, us, True, strict, "jvp")
    return _detached(result, create_graph), _like(_gradients(gs, us, vs, create_graph, False, "jvp"), result)


def _detached(result: Any, create_graph: bool) -> Any:
    if create_graph:
        return result
    return tuple(t.detach() for t in result) if isinstance(result, (tuple, list)) else result.detach()


def jacobian(
    func: Callable[..., Any], inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
    strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """∂y/∂x of shape (*y, *x), for each output and each input."""
    xs, result, ys = _traced(func, inputs, create_graph, "jacobian")
    blocks = []
    for y in ys:
        rows = []
        for one in y.reshape(-1).unbind(0) if y.numel() else ():
            rows.append(_gradients((one,), xs, (wrap(one.detach()._a * 0 + 1),), create_graph, strict, "jacobian"))
        blocks.append(_like([
            stack([r[i] for r in rows]).reshape((*y.shape, *x.shape)) if rows else new_zeros(x, shape=(*y.shape, *x.shape)) for i, x in
            enumerate(xs)
        ], inputs))  # fmt: skip
    return _like(blocks, result)


def _scalar(func: Callable[..., Any], where: str) -> Callable[..., Tensor]:
    def checked(*xs: Tensor) -> Tensor:
        y = func(*xs)
        if not isinstance(y, Tensor) or y.numel() != 1:
            raise ArgumentError(f"{where}: expected a function that returns a single element, got {y!r}")
        return y.reshape(())

    return checked


def hessian(
    func: Callable[..., Any], inputs: Any, create_graph: bool = False, strict: bool = False, vectorize: bool = False,
    outer_jacobian_strategy: str = "reverse-mode",
) -> Any:  # fmt: skip
    """∂²y/∂x∂x′ of a function that returns one element, for each pair of inputs."""
    f = _scalar(func, "hessian")

    def first(*xs: Tensor) -> Tensors:
        ys = (f(*xs),)
        return _gradients(ys, xs, (wrap(ys[0].detach()._a * 0 + 1),), True, strict, "hessian")

    return (
        _like(jacobian(first, _tuple(inputs, "hessian"), create_graph, strict), inputs)
        if isinstance(inputs, (tuple, list))
        else jacobian(first, inputs, create_graph, strict)[0]
    )


def vhp(func: Callable[..., Any], inputs: Any, v: Any = None, create_graph: bool = False, strict: bool = False) -> Any:
    """(func(inputs), vᵀ H)"""
    xs, result, ys = _traced(_scalar(func, "vhp"), inputs, create_graph, "vhp")
    gs = _gradients(ys, xs, (wrap(ys[0].detach()._a * 0 + 1),), True, strict, "vhp")
    return _detached(result, create_graph), _like(
        _gradients(gs, xs, _weights(v, xs, "vhp"), create_graph, strict, "vhp"), inputs
    )


hvp = vhp  # the Hessian is symmetric
