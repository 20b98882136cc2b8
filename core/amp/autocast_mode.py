"""Autocast: inside the block, ops that gain from it compute in bfloat16 or float16, and ops that need it in float32.

Which is which follows torch's lists: https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference. An op that is on no list computes
in the dtype of its inputs. A weight is converted once in a block, however often it is used.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from core import backend, dtypes
from core._tensor import Tensor
from core.engine import mode
from core.errors import ArgumentError
from core.ops.pointwise import cast

LOWER = {"matmul", "linear", "linear_relu", "linear_gelu", "conv", "conv_relu", "conv_input_grad", "attention"}
LOWER_ON_CPU = {"lstm_layer"}  # in bfloat16
FLOAT32 = {
    "cpu": {"nll_loss", "prod", "ctc_loss", "kl_div", "binary_cross_entropy"},
    "cuda": {
        "acos", "asin", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "pow", "reciprocal", "rsqrt", "sinh", "tan", "cumprod",
        "cumsum", "prod", "sum", "softmax", "log_softmax", "layer_norm", "group_norm", "nll_loss", "ctc_loss", "softplus", "logsumexp",
    },
}  # fmt: skip
WIDEST = {"cat", "stack", "atan2", "dot"}


_FLOAT32 = np.dtype(np.float32)


class autocast:
    """Context manager and decorator. `device_type` "cpu" or "cuda"; `dtype` bfloat16 or float16, by default bfloat16 on a CPU."""

    def __init__(self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None):
        if device_type not in FLOAT32:
            raise ArgumentError(f"autocast: expected device_type 'cpu' or 'cuda', got {device_type!r}")
        default = dtypes.bfloat16 if device_type == "cpu" else dtypes.float16
        self.device, self.fast_dtype = device_type, default if dtype is None else dtype
        if enabled and self.fast_dtype not in (dtypes.bfloat16, dtypes.float16):
            warnings.warn(
                f"autocast: expected dtype bfloat16 or float16, got {self.fast_dtype}; it is off", stacklevel=2
            )
            enabled = False
        self.enabled = enabled
        self._low = self.fast_dtype.numpy
        self._rules = _rules(device_type, self._low)
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}
        self._previous: list[Any] = []

    def __enter__(self) -> autocast:
        state = mode.state
        self._previous.append(state.autocast)
        state.autocast = self if self.enabled else None
        return self

    def __exit__(self, *exc: object) -> None:
        mode.autocast = self._previous.pop()
        if not self._previous:
            self._weights.clear()

    def __call__(self, function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapper

    def cast(self, name: str, args: Any) -> Any:
        """The inputs of an op in the dtype that it should compute in."""
        rule = self._rules.get(name)
        return args if rule is None else rule(self, args)

    def _lowered(self, args: Any) -> list[Any]:
        return [self._low_one(a) if self._has(a, _FLOAT32) else a for a in args]

    def _raised(self, args: Any) -> list[Any]:
        return [cast(a, dtype=dtypes.float32) if self._has(a, self._low) else a for a in args]

    def _widest(self, args: Any) -> Any:
        """float32 for all where there is some, among those of the fast dtype."""
        return self._raised(args) if any(self._has(a, _FLOAT32) for a in args) else args

    def _has(self, a: Any, dtype: np.dtype) -> bool:
        """Whether a is a tensor of this dtype on the device."""
        if not isinstance(a, Tensor):
            return False
        array = a._any_order()
        return array.dtype == dtype and backend.of(array).device_type == self.device

    def _low_one(self, a: Tensor) -> Tensor:
        if not (a._requires_grad and a._edge is None):
            return cast(a, dtype=self.fast_dtype)
        found = self._weights.get(id(a))
        if found is None or found[1]._requires_grad != mode.grad:
            found = self._weights[id(a)] = (a, cast(a, dtype=self.fast_dtype))
        return found[1]


@functools.cache
def _rules(device_type: str, low: np.dtype) -> dict[str, Callable[[autocast, Any], Any]]:
    """By the name of an op, what is done to its inputs."""
    lower = LOWER | LOWER_ON_CPU if device_type == "cpu" and low == dtypes.bfloat16.numpy else LOWER
    return (
        dict.fromkeys(WIDEST, autocast._widest)
        | dict.fromkeys(FLOAT32[device_type], autocast._raised)
        | dict.fromkeys(lower, autocast._lowered)
    )


def is_autocast_available(device_type: str) -> bool:
    """Whether autocast knows the device type."""
    return device_type in FLOAT32


def custom_fwd(fwd: Any = None, *, device_type: str = "cuda", cast_inputs: Any = None) -> Any:
    """Decorator for `Function.forward`: it runs without autocast, its floating inputs converted to `cast_inputs`, if given."""
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def wrapper(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        ctx._autocast = mode.autocast
        if cast_inputs is None or mode.autocast is None:
            return fwd(ctx, *args, **kwargs)
        convert = [a.to(cast_inputs) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        with autocast(device_type, enabled=False):
            return fwd(ctx, *convert, **kwargs)

    return wrapper


def custom_bwd(bwd: Any = None, *, device_type: str = "cuda") -> Any:
    """Decorator for `Function.backward`: it runs in the autocast state of its forward."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def wrapper(ctx: Any, *grads: Any) -> Any:
        before, mode.autocast = mode.autocast, getattr(ctx, "_autocast", None)
        try:
            return bwd(ctx, *grads)
        finally:
            mode.autocast = before

    return wrapper
