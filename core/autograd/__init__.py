"""Differentiation, as users call it: backward, grad, no_grad, Function, gradcheck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import core.methods  # Tensor's methods are there, whichever room is entered first
from core import backend, engine
from core._tensor import Tensor, concealed, wrap
from core.autograd import functional, graph, profiler
from core.autograd.function import Function, FunctionCtx
from core.autograd.grad_mode import enable_grad, inference_mode, no_grad, set_grad_enabled
from core.autograd.gradcheck import gradcheck, gradgradcheck
from core.engine import mode
from core.errors import ArgumentError, GraphError, ShapeError

__all__ = [
    "Function", "FunctionCtx", "Variable", "backward", "detect_anomaly", "enable_grad", "functional", "grad", "gradcheck", "gradgradcheck",
    "graph", "inference_mode", "no_grad", "profiler", "set_detect_anomaly", "set_grad_enabled",
]  # fmt: skip


def backward(
    tensors: Any,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    inputs: Any = None,
) -> None:
    """Add the gradients of `tensors`, weighed by `grad_tensors`, to the `grad` of the leaves behind them (or of `inputs` only)."""
    roots = _roots(_sequence(tensors), grad_tensors, create_graph, "backward")
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        _walk(roots, retain_graph=retain, create_graph=create_graph)
        return
    targets = _sequence(inputs)
    if not targets:
        raise ArgumentError("backward: inputs argument to backward() cannot be empty")
    edges = [_input_edge(t, "backward") for t in targets]
    found = _walk(roots, retain_graph=retain, create_graph=create_graph, inputs=edges)
    for t, edge in zip(targets, edges):
        if not t.is_leaf and edge in found:
            g = found[edge] if create_graph else concealed(found[edge])
            t._grad = g if t._grad is None else t._grad + g


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """The gradients of `outputs`, weighed by `grad_outputs`, for `inputs`; nobody's `grad` changes.

    An input that has no part in the outputs is an error unless `allow_unused` (None is returned) or `materialize_grads` (zeros are).
    """
    if is_grads_batched:
        rows = [g.unbind(0) for g in _sequence(grad_outputs)]
        each = [
            grad(outputs, inputs, list(gs), True, create_graph, True, allow_unused, False, materialize_grads)
            for gs in zip(*rows)
        ]
        from core.ops.shape import stack

        return tuple(None if gs[0] is None else stack(gs) for gs in zip(*each))
    roots = _roots(_sequence(outputs), grad_outputs, create_graph, "grad")
    retain = create_graph if retain_graph is None else retain_graph
    targets = _sequence(inputs)
    edges = [_input_edge(t, "grad") for t in targets]
    found = _walk(roots, retain_graph=retain, create_graph=create_graph, inputs=edges, accumulate=False)
    result: list[Any] = []
    for i, (t, edge) in enumerate(zip(targets, edges)):
        if edge in found:
            g = found[edge]
            if not create_graph:
                g = concealed(g if g.dtype == t._a.dtype else g.astype(t._a.dtype))  # of a sum in another dtype
            result.append(g)
        elif materialize_grads:
            result.append(wrap(backend.of(t._a).xp.zeros_like(t._a)))
        elif allow_unused:
            result.append(None)
        else:
            raise GraphError(
                f"grad: One of the differentiated Tensors appears to not have been used in the graph: expected input {i} to have a part "
                "in the outputs; pass allow_unused=True if that is meant"
            )
    return tuple(result)


def _walk(roots: Any, **how: Any) -> dict[engine.Edge, Any]:
    with np.errstate(all="ignore"):  # 0 · ∞ in a gradient is NaN without a warning, as in torch
        return engine.walk(roots, **how)


def _sequence(tensors: Any) -> Sequence[Any]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _input_edge(t: Any, where: str) -> engine.Edge:
    if not isinstance(t, Tensor) or not t._requires_grad:
        raise GraphError(
            f"{where}: One of the differentiated Tensors does not require grad: expected inputs that require grad"
        )
    return t._graph_edge()


def _roots(tensors: Sequence[Any], weights: Any, create_graph: bool, where: str) -> list[tuple[engine.Edge, Any]]:
    weights = [None] * len(tensors) if weights is None else _sequence(weights)
    if len(weights) != len(tensors):
        raise ArgumentError(f"{where}: expected one gradient for each of {len(tensors)} outputs, got {len(weights)}")
    roots = []
    for t, w in zip(engine.each(tensors), weights):
        if not isinstance(t, Tensor) or not t._requires_grad:
            raise GraphError(f"{where}: element 0 of tensors does not require grad and does not have a grad_fn")
        if w is None:
            if t._a.size != 1:
                raise GraphError(
                    f"{where}: grad can be implicitly created only for scalar outputs: expected 1 element, got shape "
                    f"{tuple(t.shape)}; reduce it, or pass the gradient"
                )
            xp = backend.of(t._a).xp
            w = xp.ones(t._a.shape, t._a.dtype) if t._a.ndim else xp.array(1, t._a.dtype)  # the same, three times as fast
            roots.append((t._graph_edge(), wrap(w) if create_graph else w))
            continue
        if not isinstance(w, Tensor):
            raise ArgumentError(f"{where}: expected gradients that are Tensors or None, got {type(w).__name__}")
        elif w._a.shape != t._a.shape:
            raise ShapeError(
                f"{where}: Mismatch in shape: expected a gradient of shape {tuple(t.shape)}, got {tuple(w.shape)}"
            )
        roots.append((t._graph_edge(), w if create_graph else w._a))
    return roots


# -- the rest of torch.autograd's names ----------------------------------------------------------------------------------


def Variable(data: Tensor, requires_grad: bool = False, volatile: bool = False) -> Tensor:
    """A tensor on the same memory; from before tensors had gradients themselves."""
    t = wrap(data._a) if requires_grad or not data._requires_grad else data
    return t.requires_grad_() if requires_grad else t


class set_detect_anomaly:
    """Remember where each node was made, and stop at the first gradient that is not a number. A function and a context manager."""

    def __init__(self, on: bool, check_nan: bool = True):
        self._previous = mode.anomaly
        mode.anomaly = on

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        mode.anomaly = self._previous


class detect_anomaly(set_detect_anomaly):
    """`with detect_anomaly():` names the forward line whose gradient is not a number."""

    def __init__(self, check_nan: bool = True):
        super().__init__(True, check_nan)
