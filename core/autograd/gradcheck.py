"""Gradients against central differences.

Along one random direction v, with random weights u on the outputs: ⟨u, (f(x+εv) − f(x−εv)) / 2ε⟩ must equal ⟨∂⟨u, f⟩/∂x, v⟩. Two calls of f
whatever the number of elements; an error in any element shows with probability one. In float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, _grad_mode, wrap
from core.errors import ArgumentError, GraphError


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    fast_mode: bool = True,
    **_: Any,
) -> bool:
    """Whether the gradients of `func` for the inputs that require grad agree with central differences. Inputs are float64."""
    from core import autograd

    args = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    wanted = [a for a in args if isinstance(a, Tensor) and a._requires_grad]
    if not wanted:
        raise ArgumentError("gradcheck: expected at least one input that requires grad, got none")
    if any(a._a.dtype.name not in ("float64", "complex128") for a in wanted):
        raise ArgumentError(
            f"gradcheck: expected float64 inputs, got {', '.join(str(a.dtype) for a in wanted)}; use .double()"
        )
    rng = np.random.default_rng(0)

    with _grad_mode(True):
        outputs = _tensors(func(*args))
    smooth = [i for i, y in enumerate(outputs) if y._requires_grad]
    ys = [outputs[i] for i in smooth]
    if not ys:
        raise GraphError("gradcheck: expected an output that requires grad, got none")
    us = [_random(rng, t) for t in ys]
    vs = [_random(rng, t) for t in wanted]
    got = autograd.grad(ys, wanted, [wrap(u) for u in us], allow_unused=True)
    exact = sum(_inner(g._a, v) for g, v in zip(got, vs) if g is not None)

    originals = [a._a for a in wanted]
    values = []
    try:
        for sign in (1, -1):
            for a, x, v in zip(wanted, originals, vs):
                a._a = backend.of(x).as_array(x + sign * eps * v)
            with _grad_mode(False):
                moved = _tensors(func(*args))
            values.append(sum(_inner(u, moved[i]._a) for u, i in zip(us, smooth)))
    finally:
        for a, x in zip(wanted, originals):
            a._a = x
    numeric = (values[0] - values[1]) / (2 * eps)
    if abs(exact - numeric) <= atol + rtol * abs(numeric):
        return True
    if not raise_exception:
        return False
    raise GraphError(
        f"gradcheck: expected the derivative along a random direction to be {numeric:.10g} (central difference), got {exact:.10g} "
        f"from backward; inputs of shapes {[tuple(a.shape) for a in wanted]}"
    )


def gradgradcheck(func: Callable[..., Any], inputs: Any, grad_outputs: Any = None, **tolerances: Any) -> bool:
    """Whether the gradients of the gradients agree with central differences."""
    from core import autograd

    args: Sequence[Any] = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    rng = np.random.default_rng(1)
    with _grad_mode(True):
        ys = [y for y in _tensors(func(*args)) if y._requires_grad]
    us = [wrap(_random(rng, t)).requires_grad_() for t in ys] if grad_outputs is None else list(grad_outputs)

    def first(*both: Any) -> tuple[Any, ...]:
        xs, ws = both[: len(args)], both[len(args) :]
        with _grad_mode(True):
            outs = [y for y in _tensors(func(*xs)) if y._requires_grad]
            wanted = [x for x in xs if isinstance(x, Tensor) and x._requires_grad]
            gs = autograd.grad(outs, wanted, ws, create_graph=True, allow_unused=True)
        return tuple(g for g in gs if g is not None)

    if not any(g._requires_grad for g in first(*args, *us)):
        return True  # the gradient is constant
    return gradcheck(first, [*args, *us], **tolerances)


def _tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for t in result if isinstance(t, Tensor)]


def _random(rng: np.random.Generator, t: Tensor) -> Any:
    a = rng.standard_normal(t._a.shape)
    if t._a.dtype.kind == "c":
        a = a + 1j * rng.standard_normal(t._a.shape)
    return backend.of(t._a).from_numpy(np.asarray(a, dtype=t._a.dtype))


def _inner(a: Any, b: Any) -> float:
    """Re Σ conj(a) b"""
    total = (a.conj() * b).sum()
    return float(total.real)
