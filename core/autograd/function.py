"""Functions with a gradient of the user's own: torch.autograd.Function."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from core._tensor import Tensor, _grad_mode, concealed, wrap
from core.engine import Node, mode
from core.errors import GraphError


class FunctionCtx:
    """What `forward` leaves for `backward`. Any attribute may be set; tensors go through `save_for_backward`."""

    needs_input_grad: tuple[bool, ...] = ()
    _to_save: tuple[Tensor | None, ...] = ()
    _saved: tuple[Any, ...] = ()  # (tensor, its version counter, the version) for each
    _dirty: tuple[Tensor, ...] = ()
    _constant: tuple[Tensor, ...] = ()
    _materialize = True
    _freed = False

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for `backward`, which finds them in `saved_tensors`; a later write to one of them is noticed."""
        self._to_save = tensors

    def _save(self) -> None:
        """Note the versions, after `forward` has written what it writes."""
        self._saved = tuple(None if t is None else (t, t._counted(), t._version) for t in self._to_save)
        self._to_save = ()

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        if self._freed:
            raise GraphError(
                "backward: expected saved tensors, got a freed graph; pass retain_graph=True to the earlier backward"
            )
        for s in self._saved:
            if s is not None and s[1][0] != s[2]:
                raise GraphError(
                    "backward: one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"a saved tensor of shape {tuple(s[0].shape)} is at version {s[1][0]}, expected version {s[2]}"
                )
        return tuple(None if s is None else s[0] for s in self._saved) or self._to_save

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say that these inputs were written to and are outputs."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say that these outputs have no gradient."""
        self._constant = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether a missing gradient reaches `backward` as zeros (the default) or as None."""
        self._materialize = value


class FunctionNode(Node):
    """A user's function that happened."""

    __slots__ = ("cls", "ctx", "metas", "shapes")

    def __init__(
        self, cls: type[Function], ctx: FunctionCtx, edges: Sequence[Any], metas: list[Any], shapes: list[Any]
    ):
        """`metas`: what makes zeros for each result of forward, None for one that is no tensor; `shapes`: of the arguments."""
        super().__init__(edges, len(metas))
        self.cls, self.ctx, self.metas, self.shapes = cls, ctx, metas, shapes

    def name(self) -> str:
        return self.cls.__name__ + "Backward"

    def free(self) -> None:
        self.ctx._freed = bool(self.ctx._saved)
        self.ctx._saved = ()

    @property
    def freed(self) -> bool:
        return self.ctx._freed

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return self.ctx.saved_tensors

    def pull(self, grads: Any, create_graph: bool) -> list[Any]:
        gs = [
            concealed(g) if g is not None and not create_graph else g for g in (grads if self.outputs > 1 else [grads])
        ]
        if self.ctx._materialize:
            gs = [make_zeros() if g is None and make_zeros is not None else g for g, make_zeros in zip(gs, self.metas)]
        with _grad_mode(create_graph):
            result = self.cls.backward(self.ctx, *gs)
        results = list(result) if isinstance(result, tuple) else [result]
        while len(results) > len(self.edges) and results[-1] is None:
            results.pop()
        if len(results) != len(self.edges):
            raise GraphError(
                f"{self.name()}: returned an incorrect number of gradients: expected {len(self.edges)}, one for each argument of "
                f"forward, got {len(results)}"
            )
        pulled: list[Any] = []
        for i, (edge, r) in enumerate(zip(self.edges, results)):
            if edge is None or r is None:
                pulled.append(None)
                continue
            if not isinstance(r, Tensor):
                raise GraphError(f"{self.name()}: expected a Tensor or None as gradient, got {type(r).__name__}")
            if r._a.shape != self.shapes[i]:
                raise GraphError(
                    f"{self.name()}: returned an invalid gradient at index {i}: expected shape {tuple(self.shapes[i])}, "
                    f"got {tuple(r.shape)}"
                )
            pulled.append(r if create_graph else r._a)
        return pulled


class Function:
    """Subclass with static methods `forward(ctx, *args)` and `backward(ctx, *grad_outputs)`; call `apply(*args)`.

    Also torch's newer form: `forward(*args)` with `setup_context(ctx, inputs, output)`.
    """

    setup_context: Any = None

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise GraphError("Function: expected a static method forward(ctx, ...), found none")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise GraphError("Function: expected a static method backward(ctx, ...), found none")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`, outside of the graph, and record this function as what made the result."""
        ctx = FunctionCtx()
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and a._requires_grad for a in args)
        with _grad_mode(False):
            if cls.setup_context is None:
                result = cls.forward(ctx, *args, **kwargs)
            else:
                result = cls.forward(*args, **kwargs)
                cls.setup_context(ctx, args, result)
        if not (mode.grad and any(ctx.needs_input_grad)):
            return result
        many = isinstance(result, (tuple, list))
        outs = list(result) if many else [result]
        constant = {id(t) for t in ctx._constant}
        dirty = {id(t) for t in ctx._dirty}
        edges = [a._graph_edge() if isinstance(a, Tensor) and a._requires_grad else None for a in args]
        inputs = {id(a) for a in args if isinstance(a, Tensor)}
        for t in ctx._dirty:
            t._check_inplace(cls.__name__)
        metas = [_zeros_of(t) if isinstance(t, Tensor) else None for t in outs]
        node = FunctionNode(cls, ctx, edges, metas, [a._a.shape if isinstance(a, Tensor) else None for a in args])
        for i, t in enumerate(outs):
            if not isinstance(t, Tensor) or id(t) in constant or t._a.dtype.kind not in "fcV":
                continue
            if id(t) in dirty:
                t._bump()
                t._rebase((node, i))
                continue
            if id(t) in inputs:
                t = outs[i] = wrap(t._a)  # an input handed back: a new tensor on the same memory
            t._edge, t._requires_grad = (node, i), True
        ctx._save()
        return tuple(outs) if many else outs[0]


def _zeros_of(t: Tensor) -> Callable[[], Tensor]:
    shape, dtype, where = t._a.shape, t.dtype, t.device

    def make() -> Tensor:
        from core.creation import zeros

        return zeros(shape, dtype=dtype, device=where)

    return make


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a `backward` that cannot itself be differentiated: asking for it is an error."""

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Any) -> Any:
        with _grad_mode(False):
            result = backward(ctx, *grads)
        if not mode.grad or not any(isinstance(g, Tensor) and g._requires_grad for g in grads):
            return result

        class Refuse(Function):
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                return args[: len(args) - n]

            @staticmethod
            def backward(ctx: Any, *gs: Any) -> Any:
                raise GraphError(
                    "once_differentiable: trying to differentiate twice a function that was marked with it"
                )

        results = result if isinstance(result, tuple) else (result,)
        n = len(grads)
        marked = Refuse.apply(*results, *grads)
        return marked if isinstance(result, tuple) else marked[0]

    return wrapper
