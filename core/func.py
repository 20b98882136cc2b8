"""torch.func: functions of functions: gradients, Jacobians, products with them, and mapping over a batch. They may be nested.

Contract: arguments and results may be tensors, or dicts, lists and tuples of them. A gradient can itself be differentiated if the
function reaches something that requires grad besides its own arguments: an enclosing transform's argument, or a parameter.
Forward mode is computed by two reverse passes; `vmap` is a loop over the batch. Same numbers, other costs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from core import autograd
from core._tensor import Tensor, _grad_mode, wrap
from core.engine import Node
from core.errors import ArgumentError, DTypeError, ShapeError
from core.functions.shape import select
from core.ops.shape import stack
from core.rng import get_rng_state, set_rng_state

__all__ = [
    "functional_call", "functionalize", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "linearize",
    "stack_module_state", "vjp", "vmap",
]  # fmt: skip


# -- trees of tensors ------------------------------------------------------------------------------------------------------


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
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_mapped(f, v) for v in x))
    return type(x)(_mapped(f, v) for v in x) if isinstance(x, (list, tuple)) else x


def _filled(x: Any, values: Any) -> Any:
    """x with its tensors replaced, in order, by what the iterator gives."""
    return _mapped(lambda t: next(values), x)


# -- what is differentiated --------------------------------------------------------------------------------------------------


class _Traced:
    """A call of func whose arguments `argnums` want a gradient."""

    def __init__(
        self, func: Callable[..., Any], args: Sequence[Any], argnums: int | tuple[int, ...], kwargs: Any, has_aux: bool
    ):
        self.one = isinstance(argnums, int)
        xs = list(args)
        for k in (argnums,) if isinstance(argnums, int) else argnums:
            xs[k] = _mapped(_input, xs[k])
        self.inputs = [xs[k] for k in ((argnums,) if isinstance(argnums, int) else argnums)]
        self.leaves = _leaves(self.inputs)
        with _grad_mode(True):
            result = func(*xs, **kwargs)
        self.result: Any
        self.aux: Any
        self.result, self.aux = result if has_aux else (result, None)
        self.outputs = _leaves(self.result)
        self.outer = _reaches_others(self.outputs, self.leaves)

    def pull(self, ys: Sequence[Tensor], vs: Any, graph: bool) -> list[Tensor]:
        """Σ vᵢ ∂yᵢ/∂x for each leaf."""
        live = [(y, v) for y, v in zip(ys, vs) if y.requires_grad]
        if not live:
            return [_zeros(t) for t in self.leaves]
        with _grad_mode(True):
            return list(
                autograd.grad(
                    [y for y, _ in live], self.leaves, [v for _, v in live], retain_graph=True, create_graph=graph,
                    materialize_grads=True,
                )
            )  # fmt: skip

    def like_inputs(self, gs: Sequence[Any]) -> Any:
        values = iter(gs)
        made = tuple(_filled(x, values) for x in self.inputs)
        return made[0] if self.one else made

    def value(self) -> Any:
        return self.result if self.outer else _detached(self.result)


def _input(t: Tensor) -> Tensor:
    with _grad_mode(True):
        return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()


def _zeros(t: Tensor) -> Tensor:
    return wrap(t._a * 0)


def _detached(x: Any) -> Any:
    return _mapped(lambda t: t.detach(), x)


def _reaches_others(ys: Sequence[Tensor], xs: Sequence[Tensor]) -> bool:
    """Whether the graph of ys goes on beyond xs: to a leaf of its own, or behind an x that is the result of an op."""
    mine = {id(x) for x in xs if x._edge is None}
    seen: set[int] = set()
    rest: list[Any] = [y._graph_edge()[0] for y in ys if y.requires_grad]
    while rest:
        node = rest.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Node):
            rest.extend(e[0] for e in node.edges if e is not None)
        elif id(node) not in mine:
            return True
    return False


# -- gradients -------------------------------------------------------------------------------------------------------------


def grad_and_value(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that returns (the gradients of func for the arguments `argnums`, func's value). func returns a single element;
    with `has_aux` a pair of it and anything, and the value is that pair."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        traced = _Traced(func, args, argnums, kwargs, has_aux)
        y = traced.result
        if not isinstance(y, Tensor) or y.numel() != 1:
            raise ArgumentError(f"func.grad: expected a function that returns a single element, got {y!r}")
        gs = traced.like_inputs(traced.pull([y], [wrap(y.detach()._a * 0 + 1)], traced.outer))
        value = traced.value()
        return gs, (value, _detached(traced.aux) if not traced.outer else traced.aux) if has_aux else value

    return wrapper


def grad(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that returns the gradients of func, which returns a single element, for the arguments `argnums`; with `has_aux`
    (the gradients, the second of the pair that func returns)."""
    both = grad_and_value(func, argnums, has_aux)

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        gs, value = both(*args, **kwargs)
        return (gs, value[1]) if has_aux else gs

    return wrapper


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """(func(*primals), a function v -> the tuple of vᵀ ∂func/∂primal); with `has_aux` the aux is third."""
    traced = _Traced(func, primals, tuple(range(len(primals))), {}, has_aux)

    def pull(*cotangents: Any, retain_graph: bool = True, create_graph: bool | None = None) -> Any:
        given = cotangents[0] if len(cotangents) == 1 else cotangents
        vs = _leaves(given)
        if [v.shape for v in vs] != [y.shape for y in traced.outputs]:
            raise ShapeError(
                f"func.vjp: expected cotangents of shapes {[tuple(y.shape) for y in traced.outputs]}, "
                f"got {[tuple(v.shape) for v in vs]}"
            )
        outer = traced.outer or any(v.requires_grad for v in vs)
        return traced.like_inputs(traced.pull(traced.outputs, vs, outer if create_graph is None else create_graph))

    return (traced.value(), pull, traced.aux) if has_aux else (traced.value(), pull)


def jvp(
    func: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...], *, strict: bool = False, has_aux: bool = False
) -> Any:  # fmt: skip
    """(func(*primals), Σ ∂func/∂primal · tangent); with `has_aux` the aux is third."""
    traced = _Traced(func, primals, tuple(range(len(primals))), {}, has_aux)
    ts = _leaves(tangents)
    if [t.shape for t in ts] != [x.shape for x in traced.leaves]:
        raise ShapeError(
            f"func.jvp: expected tangents of shapes {[tuple(x.shape) for x in traced.leaves]}, got {[tuple(t.shape) for t in ts]}"
        )
    product = _filled(traced.result, iter(_forward(traced, ts)))
    return (traced.value(), product, traced.aux) if has_aux else (traced.value(), product)


def _forward(traced: _Traced, tangents: Sequence[Tensor]) -> list[Tensor]:
    """J·t for each output: uᵀ J is linear in u, and its derivative is J."""
    outer = traced.outer or any(t.requires_grad for t in tangents)
    us = [_zeros(y).requires_grad_() for y in traced.outputs]
    gs = traced.pull(traced.outputs, us, True)
    live = [(g, t) for g, t in zip(gs, tangents) if g.requires_grad]
    if not live:
        return [_zeros(y) for y in traced.outputs]
    with _grad_mode(True):
        return list(
            autograd.grad([g for g, _ in live], us, [t for _, t in live], create_graph=outer, materialize_grads=True)
        )


def linearize(func: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """(func(*primals), a function tangents -> Σ ∂func/∂primal · tangent), func called once."""
    traced = _Traced(func, primals, tuple(range(len(primals))), {}, False)

    def push(*tangents: Any) -> Any:
        return _filled(traced.result, iter(_forward(traced, _leaves(tangents))))

    return traced.value(), push


# -- Jacobians -------------------------------------------------------------------------------------------------------------


def jacrev(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False, chunk_size: Any = None,
    _preallocate_and_copy: bool = False,
) -> Callable[..., Any]:  # fmt: skip
    """A function that returns ∂y/∂x, of shape (*y, *x), for each output of func and each of the arguments `argnums`: one pass back
    for each element of the output."""

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        traced = _Traced(func, args, argnums, kwargs, has_aux)
        jacobian = _mapped(lambda y: traced.like_inputs(_rows(traced, y)), traced.result)
        return (jacobian, traced.aux) if has_aux else jacobian

    return wrapper


def _rows(traced: _Traced, y: Tensor) -> list[Tensor]:
    rows = []
    for i in range(y.numel()):
        v = _zeros(y)
        v._a.reshape(-1)[i] = 1
        rows.append(traced.pull([y], [v], traced.outer))
    with _grad_mode(True):
        return [
            (stack([r[k] for r in rows]) if rows else _zeros(x)[None][:0]).reshape((*y.shape, *x.shape))
            for k, x in enumerate(traced.leaves)
        ]


def jacfwd(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False, *, randomness: str = "error"
) -> Callable[..., Any]:
    """`jacrev`: the same Jacobian, which costs a pass for each element of the output rather than of the input."""
    return jacrev(func, argnums, has_aux=has_aux)


def hessian(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """A function that returns the second derivatives of func, for each pair of the arguments `argnums`."""
    return jacfwd(jacrev(func, argnums), argnums)


# -- mapping -----------------------------------------------------------------------------------------------------------------


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """func for each element of a batch: a function whose tensors have one dimension more, at `in_dims`, and whose results have one
    more at `out_dims`. A loop: func is called once for each element.

    `in_dims` is a number or None (not mapped) for all arguments, or for each a number, None, or a tree of them; keyword arguments are
    mapped over dimension 0. `randomness` "error": func may draw no random numbers; "different": each call draws its own;
    "same": all draw the same.
    """
    if randomness not in ("error", "different", "same"):
        raise ArgumentError(f"vmap: expected randomness 'error', 'different' or 'same', got {randomness!r}")

    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        dims = tuple(in_dims) if isinstance(in_dims, (tuple, list)) else (in_dims,) * len(args)
        if len(dims) != len(args):
            raise ArgumentError(f"vmap: expected in_dims for each of the {len(args)} arguments, got {in_dims}")
        mapped = [*zip(args, dims), *((v, 0) for v in kwargs.values())]
        sizes = {n for x, d in mapped for n in _lengths(x, d)}
        if len(sizes) != 1:
            raise ShapeError(
                "vmap: Expected all tensors to have the same size in the mapped dimension, and at least one to be mapped, "
                f"got sizes {sorted(sizes)}"
            )
        results = []
        before = get_rng_state() if randomness != "different" else None
        for i in range(sizes.pop()):
            if randomness == "same" and before is not None:
                set_rng_state(before)
            y = func(*(_at(x, d, i) for x, d in zip(args, dims)), **{k: _at(v, 0, i) for k, v in kwargs.items()})
            results.append(y)
        if randomness == "error" and before is not None and not get_rng_state().equal(before):
            raise ArgumentError(
                "vmap: called random operation while in randomness error mode; pass randomness='same' or 'different'"
            )
        if not results:
            raise ShapeError(
                "vmap: expected a batch with elements, got an empty one, of which the result's shape is not known"
            )
        return _stacked(results, out_dims)

    return wrapper


def _lengths(x: Any, dim: Any) -> list[int]:
    """The sizes of the mapped dimensions."""
    if dim is None:
        return []
    if isinstance(x, Tensor):
        if not isinstance(dim, int):
            raise ArgumentError(f"vmap: expected an in_dim that is a number or None for a tensor, got {dim!r}")
        if not -x.dim() <= dim < x.dim():
            raise ArgumentError(f"vmap: expected an in_dim within the {x.dim()} dimensions of the tensor, got {dim}")
        return [x.size(dim)]
    if isinstance(x, (list, tuple, dict)):
        keys: Any = x.keys() if isinstance(x, dict) else range(len(x))
        return [n for k in keys for n in _lengths(x[k], dim if isinstance(dim, int) else dim[k])]
    raise DTypeError(f"vmap: expected a tensor to map over, got {type(x).__name__}; pass in_dims None for it")


def _at(x: Any, dim: Any, i: int) -> Any:
    if dim is None or not isinstance(x, (Tensor, list, tuple, dict)):
        return x
    if isinstance(x, Tensor):
        return select(x, dim, i)
    if isinstance(x, dict):
        return {k: _at(v, dim if isinstance(dim, int) else dim[k], i) for k, v in x.items()}
    return type(x)(_at(v, dim if isinstance(dim, int) else dim[k], i) for k, v in enumerate(x))


def _stacked(results: list[Any], dim: Any) -> Any:
    first = results[0]
    if isinstance(first, Tensor):
        if dim is None:
            return first
        return stack(results, dim=dim)
    if isinstance(first, dict):
        return {k: _stacked([r[k] for r in results], dim if not isinstance(dim, dict) else dim[k]) for k in first}
    if isinstance(first, (list, tuple)):
        dims = dim if isinstance(dim, (list, tuple)) else [dim] * len(first)
        return type(first)(_stacked([r[k] for r in results], d) for k, d in enumerate(dims))
    raise DTypeError(f"vmap: expected a function that returns tensors, got {type(first).__name__}")


# -- modules -----------------------------------------------------------------------------------------------------------------


def functional_call(
    module: Any, parameter_and_buffer_dicts: Any, args: Any = None, kwargs: Any = None, **options: Any
) -> Any:
    """module(*args, **kwargs) with these tensors in place of its own; see `core.nn.utils.stateless`."""
    from core.nn.utils.stateless import functional_call as call

    return call(module, parameter_and_buffer_dicts, args, kwargs, **options)


def stack_module_state(models: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, buffers) of modules of one class, by path, each stacked along a new first dimension: leaves for `vmap`."""
    models = list(models)
    if not models or len({type(m) for m in models}) != 1 or len({m.training for m in models}) != 1:
        raise ArgumentError(
            "stack_module_state: expected models, all of one class and all in training or all in eval mode, got others"
        )

    def stacked(of: str) -> dict[str, Tensor]:
        each = [dict(getattr(m, of)()) for m in models]
        return {
            k: stack([e[k].detach() for e in each]).requires_grad_(each[0][k].requires_grad) for k in each[0]
        }  # fmt: skip

    return stacked("named_parameters"), stacked("named_buffers")


def functionalize(func: Callable[..., Any], *, remove: str = "mutations") -> Callable[..., Any]:
    """func itself: writes in place need not be taken out, since nothing is traced."""
    return func
