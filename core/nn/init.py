"""Initial values. In place, outside of the graph; the numbers are PyTorch's for the same seed.

Sources: Glorot & Bengio 2010 (xavier), He et al. 2015 (kaiming), Saxe et al. 2014 (orthogonal), Martens 2010 (sparse).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from core import backend, rng
from core._tensor import Tensor, _grad_mode
from core.creation import empty_like
from core.errors import ArgumentError

_GAINS = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "sigmoid"), 1),
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


def calculate_gain(nonlinearity: str, param: Any = None) -> float:
    """By what a nonlinearity shrinks the standard deviation, inverted."""
    if nonlinearity == "leaky_relu":
        if param is not None and (isinstance(param, bool) or not isinstance(param, (int, float))):
            raise ArgumentError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ArgumentError(
            f"calculate_gain: unsupported nonlinearity {nonlinearity!r}; known: leaky_relu, {', '.join(_GAINS)}"
        )
    return _GAINS[nonlinearity]


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    if tensor._a.ndim < 2:
        raise ArgumentError(f"init: fan in and fan out need at least 2 dimensions, got shape {tuple(tensor.shape)}")
    field = math.prod(tensor._a.shape[2:])
    return tensor._a.shape[1] * field, tensor._a.shape[0] * field


def _fan(tensor: Tensor, mode: str) -> int:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"init: expected mode 'fan_in' or 'fan_out', got {mode!r}")
    return _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform on [a, b)"""
    values = rng.uniform_between(tensor._a.size, tensor._a.dtype, a, b, generator)
    return _put(tensor, values.reshape(tensor._a.shape))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Normal"""
    with _grad_mode(False):
        return tensor.normal_(mean, std, generator=generator)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value throughout"""
    with _grad_mode(False):
        return tensor.fill_(val)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros"""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Ones"""
    return constant_(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Uniform on ±gain·√(6 / (fan_in + fan_out))"""
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    a = math.sqrt(3.0) * gain * math.sqrt(2.0 / (fan_in + fan_out))
    return uniform_(tensor, -a, a, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Normal with standard deviation gain·√(2 / (fan_in + fan_out))"""
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / (fan_in + fan_out)), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Uniform on ±gain·√(3 / fan)"""
    if not tensor._a.size:
        return _nothing(tensor)
    # in torch's order of operations: the bound is part of the numbers
    bound = math.sqrt(3.0) * (calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """Normal with standard deviation gain / √fan"""
    if not tensor._a.size:
        return _nothing(tensor)
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)), generator)


def _nothing(tensor: Tensor) -> Tensor:
    warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return tensor


def _put(tensor: Tensor, values: np.ndarray) -> Tensor:
    tensor._a[...] = backend.of(tensor._a).from_numpy(np.asarray(values).astype(tensor._a.dtype))
    tensor._bump()
    return tensor


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Normal, restricted to [a, b]: numbers outside are drawn again; from a uniform proposal where few would be inside
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. The distribution of values may be incorrect.", stacklevel=2
        )
    inside = sum(s * math.erf((v - mean) / std / math.sqrt(2.0)) / 2 for s, v in ((1, b), (-1, a)))
    xp = backend.of(tensor._a).xp
    if inside > 0.3:
        low, high = (tensor._a.dtype.type(v) for v in (a, b))
        values = normal_(tensor, mean, std, generator)._a
        while (again := (values < low) | (values > high)).any():
            values = xp.where(again, normal_(empty_like(tensor), mean, std, generator)._a, values)
    else:  # a uniform x is accepted with probability density(x) / density(the point nearest to the mean)
        peak = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2

        def proposed() -> tuple[Any, Any]:
            x = uniform_(empty_like(tensor), a, b, generator)._a
            u = uniform_(empty_like(tensor), generator=generator)._a
            with np.errstate(divide="ignore"):
                return x, xp.log(u) > ((x - mean) / std) ** 2 * -0.5 - peak

        values, again = proposed()
        while again.any():
            x, rejected = proposed()
            values = xp.where(again, x, values)
            again &= rejected
    tensor._a[...] = values
    tensor._bump()
    return tensor


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix"""
    if tensor.dim() != 2:
        raise ArgumentError(f"Only tensors with 2 dimensions are supported, got shape {tuple(tensor.shape)}")
    return _put(tensor, np.eye(*tensor._a.shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight (K, C, *) that passes its input through, channel by channel, in each group"""
    shape = tensor._a.shape
    if len(shape) not in (3, 4, 5):
        raise ArgumentError(f"Only tensors with 3, 4, or 5 dimensions are supported, got shape {tuple(shape)}")
    if shape[0] % groups:
        raise ArgumentError(f"dim 0 must be divisible by groups, got {shape[0]} and {groups}")
    values = np.zeros(shape)
    per_group = shape[0] // groups
    for k in range(groups):
        for c in range(min(per_group, shape[1])):
            values[(k * per_group + c, c, *(n // 2 for n in shape[2:]))] = 1
    return _put(tensor, values)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Rows, or columns where there are fewer, that are orthogonal and of length gain: Q of the QR decomposition of a
    normal matrix
    """
    if tensor.dim() < 2:
        raise ArgumentError(f"Only tensors with 2 or more dimensions are supported, got shape {tuple(tensor.shape)}")
    if not tensor._a.size:
        return tensor
    rows, cols = tensor._a.shape[0], tensor._a.size // tensor._a.shape[0]
    d = tensor._a.dtype
    z = (generator or rng.default_generator).normal(rows * cols, d).reshape(rows, cols)
    q, r = np.linalg.qr(z.T if rows < cols else z)
    q = q * np.sign(np.diag(r))  # the decomposition is unique once the diagonal of R is positive
    return _put(tensor, (q.T if rows < cols else q).reshape(tensor._a.shape) * gain)


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Normal, with a share `sparsity` of each column set to zero"""
    if tensor.dim() != 2:
        raise ArgumentError(f"Only tensors with 2 dimensions are supported, got shape {tuple(tensor.shape)}")
    normal_(tensor, 0, std, generator)
    rows, cols = tensor._a.shape
    values = np.array(tensor._host())
    for col in range(cols):
        order = (generator or rng.default_generator).permutation(rows)
        values[order[: math.ceil(sparsity * rows)], col] = 0
    return _put(tensor, values)


# -- the names of old, without the underscore
# ----------------------------------------------------------------------------


def _old(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    name = fill.__name__[:-1]

    def deprecated(*args: Any, **kwargs: Any) -> Tensor:
        warnings.warn(
            f"`nn.init.{name}` is now deprecated in favor of `nn.init.{name}_`.", FutureWarning, stacklevel=2
        )
        return fill(*args, **kwargs)

    deprecated.__name__ = name
    deprecated.__doc__ = f"`{name}_` under its older name"
    return deprecated


uniform, normal, constant, eye, dirac = map(_old, (uniform_, normal_, constant_, eye_, dirac_))
xavier_uniform, xavier_normal = _old(xavier_uniform_), _old(xavier_normal_)
kaiming_uniform, kaiming_normal = _old(kaiming_uniform_), _old(kaiming_normal_)
orthogonal, sparse = _old(orthogonal_), _old(sparse_)
