"""Ops that are chains of others, computed as one where the backend can: an activation of a sum, a linear layer and its activation, dropout
and the sum behind it.

An eager engine sees one op at a time, so nobody but a place that holds both ends of a chain can ask for it: `core.nn.modules.chains`.
"""

from __future__ import annotations

from typing import Any

from core.ops.activation import _gelu_slope
from core.ops.fused import joint
from core.ops.linalg import check_linear, linear, linear_grads
from core.ops.nn import check_conv, conv
from core.ops.norm import _standardized
from core.ops.op import graph, op, pointwise

LINEAR: dict[str, Any] = {**linear.rules, "whole": linear_grads}
CONV: dict[str, Any] = conv.rules


def _relu_grad(F: Any, g: Any, out: Any) -> Any:
    return F.relu_grad(g, out) if F is graph else F._be.relu_grad(g, out)


def _add_gelu_grad(F: Any, g: Any, x: Any, y: Any, approximate: str) -> Any:
    if F is graph:
        return g * _gelu_slope(F, F.add(x, y), approximate)
    return F._be.add_gelu_grad(g, x, y, approximate)


@pointwise(x=lambda F, g: g, y=lambda F, g: g, epilogue=_relu_grad)
def add_relu(be, x, y):
    """max(x + y, 0) of two of one dtype, which broadcast."""
    return be.add_relu(x, y)


@pointwise(x=lambda F, g: g, y=lambda F, g: g, epilogue=_add_gelu_grad)
def add_gelu(be, x, y, *, approximate="none"):
    """gelu(x + y) of two of one dtype, which broadcast."""
    return be.add_gelu(x, y, approximate)


@op(**LINEAR, epilogue=_relu_grad)
def linear_relu(be, x, w, b):
    """max(x wᵀ + b, 0): (*, I), (O, I), (O) -> (*, O)"""
    check_linear(x, w, b)
    return be.linear_relu(x, w, b)


@op(**CONV, epilogue=_relu_grad, orderly=True)
def conv_relu(be, x, w, b=None, *, stride, padding, dilation, groups):
    """max(conv, 0), as `conv`"""
    check_conv(x, w, b, stride, padding, dilation, groups)
    return be.conv_relu(x, w, b, stride, padding, dilation, groups)


def _standardized_relu(x: Any, w: Any = None, b: Any = None, *, axes: Any, eps: float) -> Any:
    return graph.relu(_standardized(x, w, b, axes=axes, eps=eps))


@joint(_standardized_relu)
def _standardize_relu_grad(be, g, xs, out, mean, rstd, kept, axes, eps):
    return be.normalize_relu_grad(g, *xs, out, mean, rstd, kept, axes)


@op(xs=_standardize_relu_grad, aux=("mean", "rstd", "kept"), orderly=True)
def standardize_relu(be, *xs, axes, eps, follow=None):
    """max(standardize, 0) of [x, w, b] by the moments of x itself, as `standardize`"""
    y, mean, var, kept = be.normalize_relu(*xs, tuple(axes), eps)
    if follow is not None:
        follow(mean, var)
    return y, mean, 1 / be.xp.sqrt(var + eps), kept


def _linear_gelu_grad(F: Any, g: Any, x: Any, w: Any, b: Any, z: Any) -> Any:
    if F is graph:
        return g * _gelu_slope(F, F.linear(x, w, b), "tanh")
    return F.gelu_grad(g, z, approximate="tanh")


@op(**LINEAR, epilogue=_linear_gelu_grad, aux=("z",))
def linear_gelu(be, x, w, b):
    """gelu(x wᵀ + b) in its tanh form: (*, I), (O, I), (O) -> (*, O)"""
    check_linear(x, w, b)
    return be.linear_gelu(x, w, b)


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
