"""Ops whose gradients are computed together: one kernel back for all inputs, since they share most of the work.

    @op(xs=joint(lambda x, w, *, eps: …)(lambda be, g, xs, out, eps: be.something_grad(g, *xs, out, eps)))
    def something(be, *xs, eps): …

The rule's kernel gets the backend, the gradient (a list where there are several outputs) and by name what it needs; it
returns a gradient for each input, or None. The function given to `joint` is the op's definition in simpler ops: it is
differentiated where a graph of the gradient is wanted, and is the kernel's oracle in the tests.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from core import backend
from core._tensor import Tensor
from core.engine import walk
from core.ops.op import graph

Rule = Callable[..., Sequence[Any]]


def joint(composite: Callable[..., Any]) -> Callable[[Callable[..., Any]], Rule]:
    """Make the one rule of a variadic op of its gradient kernel and of its definition in simpler ops."""
    params = [p.name for p in inspect.signature(composite).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def make(kernel: Callable[..., Any]) -> Rule:
        names = list(inspect.signature(kernel).parameters)[3:]

        @functools.wraps(kernel)  # the engine reads the signature
        def rule(F: Any, g: Any, xs: Any, *saved: Any) -> Sequence[Any]:
            if F is graph:
                given = dict(zip(names, saved))
                return _differentiated(functools.partial(composite, **{k: given[k] for k in params}), xs, g)
            return kernel(backend.of(g[0] if isinstance(g, list) else g), g, xs, *saved)

        return rule

    return make


def _differentiated(f: Callable[..., Any], xs: Sequence[Any], g: Any) -> list[Any]:
    """The gradients of ⟨g, f(*xs)⟩, as part of the graph."""
    # the alias keeps the walk inside f: it ends at these nodes, which lead on to the real inputs
    xs = [graph.alias(x) if isinstance(x, Tensor) and x._requires_grad else x for x in xs]
    y = f(*xs)
    ends = [x._edge if isinstance(x, Tensor) and x._requires_grad else None for x in xs]
    ys, gs = (y, g) if isinstance(y, tuple) else ((y,), (g,))
    found = walk(
        [(t._edge, s) for t, s in zip(ys, gs) if t._requires_grad],
        retain_graph=True, create_graph=True, inputs=[e for e in ends if e is not None], accumulate=False, stop=True,
    )  # fmt: skip
    return [None if e is None else found.get(e) for e in ends]
