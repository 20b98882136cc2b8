"""Ops that are chains of others, computed as one where the backend can: an activation of a sum, a linear layer and its activation, dropout
and the sum behind it.

An eager engine sees one op at a time, so nobody but a place that holds both ends of a chain can ask for it: `core.nn.modules.chains`.
"""

from __future__ import annotations

from typing import Any

from core.ops.activation import _gelu_slope
from core.ops.op import graph, op


def _undone(F: Any, d: Any, shapes: Any, wanted: Any) -> list[Any]:
    """The gradient of a sum for each of its operands, which were broadcast."""
    return [
        None if not want else d if tuple(d.shape) == tuple(shape) else F.sum_to(d, shape=tuple(shape))
        for shape, want in zip(shapes, wanted)
    ]


@op(xs=lambda F, g, out, xs_shape, wanted: _undone(F, F.relu_grad(g, out), xs_shape, wanted))
def add_relu(be, *xs):
    """max(x + y, 0) of two of one dtype, which broadcast."""
    return be.add_relu(*xs)


def _add_gelu_grads(F: Any, g: Any, xs: Any, xs_shape: Any, wanted: Any, approximate: str) -> list[Any]:
    if F is graph:
        d = g * _gelu_slope(F, F.add(*xs), approximate)
    else:
        d = F._be.add_gelu_grad(g, *xs, approximate)
    return _undone(F, d, xs_shape, wanted)


@op(xs=_add_gelu_grads)
def add_gelu(be, *xs, approximate="none"):
    """gelu(x + y) of two of one dtype, which broadcast."""
    return be.add_gelu(*xs, approximate)


def _linear_grads(F: Any, d: Any, xs: Any, wanted: Any) -> list[Any]:
    """The gradients of `linear`."""
    x, w, b = xs
    return [
        F.matmul(d, w) if wanted[0] else None,
        F.linear_weight_grad(d, x, w_shape=tuple(w.shape)) if wanted[1] else None,
        F.sum_to(d, shape=tuple(b.shape)) if wanted[2] else None,
    ]


@op(xs=lambda F, g, xs, out, wanted: _linear_grads(F, F.relu_grad(g, out), xs, wanted))
def linear_relu(be, *xs):
    """max(x wᵀ + b, 0): [(*, I), (O, I), (O)] -> (*, O)"""
    return be.linear_relu(*xs)


def _linear_gelu_grads(F: Any, g: Any, xs: Any, z: Any, wanted: Any) -> list[Any]:
    if F is graph:
        d = g * _gelu_slope(F, F.linear(*xs), "tanh")
    else:
        d = F.gelu_grad(g, z, approximate="tanh")
    return _linear_grads(F, d, xs, wanted)


@op(xs=_linear_gelu_grads, aux=("z",))
def linear_gelu(be, *xs):
    """gelu(x wᵀ + b) in its tanh form: [(*, I), (O, I), (O)] -> (*, O)"""
    return be.linear_gelu(*xs)


@op(x=lambda F, g, keep, scale: F.kept(g, keep, scale=scale))
def kept(be, x, keep, *, scale):
    """x·scale where `keep`, of booleans, is true, else 0: dropout once it is drawn."""
    return be.kept(x, keep, scale)


@op(
    x=lambda F, g, keep, scale: F.kept(g, keep, scale=scale),
    residual=lambda F, g: g,
    aux=("keep",),
)
def dropout_add(be, x, residual, *, scale, draw):
    """residual + dropout(x), of one shape and dtype. `draw(be, x, residual, scale)` computes it and says what it kept, as booleans."""
    return draw(be, x, residual, scale)
