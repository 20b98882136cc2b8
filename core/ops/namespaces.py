"""The ops as functions: on Tensors, as `graph`, and on raw arrays of one backend, as `Raw`. Either is the `F` of a gradient rule."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from core.backend.base import Backend

if TYPE_CHECKING:
    from core.ops.op import Op

OPS: dict[str, Op] = {}  # every op by name; the tests hold it against their table


class Graph:
    """The ops on Tensors, as `F` in gradient rules."""

    def __getattr__(self, name: str) -> Any:
        op = OPS[name]
        setattr(self, name, op)
        return op


class Raw:
    """The ops on raw arrays of one backend, as `F` in gradient rules: nothing is recorded, auxiliary outputs are dropped."""

    def __init__(self, be: Backend):
        self._be = be

    @classmethod
    def of(cls, be: Backend) -> Raw:
        be.raw = be.raw or cls(be)
        return be.raw

    def __getattr__(self, name: str) -> Any:
        op, be = OPS[name], self._be
        forward, hidden = op.forward, op.hidden

        def of_list(arrays: Any, **params: Any) -> Any:
            return forward(be, *arrays, **params)

        def shown(*arrays: Any, **params: Any) -> Any:
            y = forward(be, *arrays, **params)
            return y[0] if len(y) - hidden == 1 else y[:-hidden]

        raw = of_list if op.variadic else shown if hidden else partial(forward, be)
        setattr(self, name, raw)
        return raw


graph: Any = Graph()
