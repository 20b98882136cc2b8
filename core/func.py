"""torch.func: gradients of functions as functions, in reverse mode. Not here: vmap and forward mode."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from core import autograd
from core._tensor import Tensor, _grad_mode
from core.autograd import functional
from core.errors import ArgumentError

__all__ = ["grad", "grad_and_value", "hessian", "jacrev"]


def _leaves(x: Any) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    values = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ()
    return [t for v in values for t in _leaves(v)]


def _mapped(f: Callable[[Tensor], Any], x: Any) -> Any:
    if isinstance(x, Tensor):
        return f(x)
    if isinstance(x, dict):
        return {k: _mapped(f, v) for k, v in x.items()}
    return type(x)(_mapped(f, v) for v in x) if isinstance(x, (list, tuple)) else x


def grad_and_value(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns (the gradients of func for the arguments `argnums`, func's value); arguments may be dicts and lists of
    tensors."""
    numbers = (argnums,) if isinstance(argnums, int) else argnums

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        outer = any(t.requires_grad for t in _leaves(args))  # we are inside of another gradient
        with _grad_mode(True):
            xs = list(args)
            for k in numbers:
                xs[k] = _mapped(lambda t: t.view_as(t) if t.requires_grad else t.detach().requires_grad_(), xs[k])
            result = func(*xs, **kwargs)
            value, aux = result if has_aux else (result, None)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise ArgumentError(f"func.grad: expected a function that returns a single element, got {value!r}")
            leaves = [t for k in numbers for t in _leaves(xs[k])]
            found = iter(autograd.grad(value, leaves, create_graph=outer, materialize_grads=True))
        gs = tuple(_mapped(lambda t: next(found), xs[k]) for k in numbers)
        value = value if outer else value.detach()
        return (gs[0] if isinstance(argnums, int) else gs), ((value, aux) if has_aux else value)

    return wrapper


def grad(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradients of func, which returns a single element, for the arguments `argnums`."""
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        gs, value = both(*args, **kwargs)
        return (gs, value[1]) if has_aux else gs

    return wrapper


def _of_one(f: Callable[..., Any], func: Callable[..., Any], argnums: int) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        outer = args[argnums].requires_grad
        return f(lambda x: func(*args[:argnums], x, *args[argnums + 1 :]), args[argnums], create_graph=outer)

    return wrapper


def jacrev(func: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """A function that returns the Jacobian of func for one argument."""
    return _of_one(functional.jacobian, func, argnums)


def hessian(func: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """A function that returns the Hessian of func for one argument."""
    return _of_one(functional.hessian, func, argnums)
