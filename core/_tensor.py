"""The Tensor: an array, where it came from, and its gradient.

Contract
- `_a` is the raw array (`core._array`). Views share its memory and, by `_counter`, its version.
- `_edge` is (node, output) for the result of an op, None for a leaf. `_requires_grad` is true for both kinds.
- A view made by an op knows its base and the steps that lead from it, so that a write to either is seen by the graph of both.
Not here: operations. They are ops (`core.ops`) and become methods in `core.methods`, by a table.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from core import backend, dtypes, engine
from core._array import ArrayHolder, Size
from core._array import _dim as _dim
from core.devices import device
from core.engine import Edge, Handle, Node, mode
from core.errors import DTypeError, GraphError, ShapeError

_new = object.__new__


class Tensor(ArrayHolder):
    """A multi-dimensional array that can be differentiated."""

    _edge: Edge | None = None
    _requires_grad = False
    _grad: Tensor | None = None
    _home: Any = None  # of a leaf: an array where its gradient is to live; `ddp` puts a part of a bucket here
    _lent = False  # whether somebody computes a gradient there
    _counter: list[int] | None = None  # [version], shared by all views; made when somebody needs to compare versions
    _base: Tensor | None = None  # the tensor that this is a view of, itself no view
    _steps: tuple[tuple[Any, dict[str, Any], int | None], ...] = ()  # the view ops that lead from `_base` to here
    _writes = 0  # of a base: how often its graph was changed by a write to it or a view; of a view: what it was when `_edge` was made
    _hooks: dict[int, Any] | None = None
    _post_hooks: dict[int, Any] | None = None
    _retains = False
    _inference = False  # made inside of `inference_mode`

    __array_priority__ = 1000.0  # np.float64(2) * tensor asks us

    def __new__(cls, *data: Any, device: Any = None) -> Any:
        """torch's legacy constructor: sizes make an uninitialised float tensor, a list or array makes a float copy."""
        self = object.__new__(cls)
        d = dtypes.default_numpy()
        if len(data) == 1 and isinstance(data[0], Tensor):
            self._a = data[0]._a.astype(d, copy=False)
        elif len(data) == 1 and not isinstance(data[0], (int, np.integer, Size)):
            self._a = np.array(data[0], dtype=d)
        else:
            shape = data[0] if len(data) == 1 and isinstance(data[0], Size) else data
            self._a = np.empty(tuple(map(int, shape)) if data else (0,), dtype=d)
        if device is not None:
            self._a = _moved(self._a, device)
        return self

    if TYPE_CHECKING:  # methods come from the table in core.methods

        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __pow__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __lt__(self, other: Any) -> Tensor: ...
        def __le__(self, other: Any) -> Tensor: ...
        def __gt__(self, other: Any) -> Tensor: ...
        def __ge__(self, other: Any) -> Tensor: ...
        def __and__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __setitem__(self, index: Any, value: Any) -> None: ...

    # -- as NumPy's, as a container, as text -----------------------------------------------------------------------------

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Tensor:
        return wrap(np.asarray(array))  # np.exp(tensor) is a tensor

    def __iter__(self) -> Iterator[Tensor]:
        if not self._a.ndim:
            raise DTypeError("iteration: expected a tensor with dimensions, got a 0-d tensor")
        return iter(self.unbind(0))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    __hash__ = object.__hash__

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        from core import printing

        return printing.tensor(self)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if not self._a.ndim and type(self) is Tensor else object.__format__(self, spec)

    def to_sparse(self, sparse_dim: int | None = None) -> Tensor:
        """The elements that are not zero, as coordinates and values (`core.sparse`)."""
        from core import sparse

        return sparse.to_sparse(self, sparse_dim)

    def to_dense(self, dtype: Any = None) -> Tensor:
        """The tensor itself: it is dense."""
        return self if dtype is None else self.to(dtype)

    # -- the graph -----------------------------------------------------------------------------------------------------

    @property
    def grad(self) -> Tensor | None:
        return self._grad

    @grad.setter
    def grad(self, g: Tensor | None) -> None:
        if g is not None:
            if not isinstance(g, Tensor):
                raise DTypeError(f"grad: expected a Tensor or None, got {type(g).__name__}")
            if g._a.shape != self._a.shape or g._a.dtype != self._a.dtype or type(g._a) is not type(self._a):
                raise ShapeError(
                    f"grad: expected {self.dtype} of shape {tuple(self.shape)} on {self.device}, "
                    f"got {g.dtype} of shape {tuple(g.shape)} on {g.device}"
                )
        self._grad = g

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Say whether a leaf wants a gradient. In place."""
        if not requires_grad and self._edge is not None:
            raise GraphError("requires_grad: expected a leaf, got the result of an op; use detach()")
        if requires_grad and self._inference and not mode.inference:
            raise GraphError("requires_grad: expected a tensor made outside of inference_mode, got one made inside; clone() it")
        if requires_grad and not self._requires_grad and self._a.dtype.kind not in "fcV":
            raise DTypeError(f"requires_grad: expected a floating or complex dtype, got {self.dtype}; convert it first")
        self._requires_grad = bool(requires_grad)
        return self

    @property
    def is_leaf(self) -> bool:
        return self._edge is None

    def is_inference(self) -> bool:
        """Whether the tensor was made inside of `inference_mode`."""
        return self._inference

    @property
    def grad_fn(self) -> Node | None:
        if self._base is not None and self._requires_grad:
            self._graph_edge()  # a write to the base may have changed it
        return None if self._edge is None else self._edge[0]

    @property
    def output_nr(self) -> int:
        return 0 if self._edge is None else self._edge[1]

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """Add the gradient of this tensor to the `grad` of each leaf behind it (or of `inputs` only).

        `gradient` weighs the elements and may be left out for a scalar. The graph is freed unless `retain_graph`.
        """
        # an import statement here takes ten times as long
        autograd = sys.modules.get("core.autograd") or import_module("core.autograd")
        autograd.backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    def detach(self) -> Tensor:
        """The same memory and version, outside of any graph."""
        t = wrap(self._a)
        t._counter = self._counted()
        return t

    def detach_(self) -> Tensor:
        """Leave the graph. In place."""
        if self._base is not None:
            raise GraphError("detach_: expected a tensor that is no view, got a view; use detach()")
        self._edge, self._requires_grad = None, False
        return self

    @property
    def data(self) -> Tensor:
        """The same memory, outside of any graph, with a version of its own: writes to it are not noticed."""
        return wrap(self._a)

    @data.setter
    def data(self, other: Tensor) -> None:
        self._a, self._inside = other._a, None

    def retain_grad(self) -> None:
        """Keep the gradient of the result of an op, too."""
        if not self._requires_grad:
            raise GraphError("retain_grad: expected a tensor that requires grad, got one that does not")
        if self._edge is None or self._retains:
            return
        self._retains = True
        me = weakref.ref(self)

        def keep(g: Any, create_graph: bool) -> None:
            t = me()
            if t is not None:
                g = g if create_graph else wrap(g.copy())
                t._grad = g if t._grad is None else t._grad + g

        Handle.of(self._edge[0], "output_hooks", (self._edge[1], keep, True))

    @property
    def retains_grad(self) -> bool:
        return self._retains

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Handle:
        """`hook(grad)` runs when this tensor's gradient is known, and may return another to use instead."""
        if not self._requires_grad:
            raise GraphError("register_hook: expected a tensor that requires grad, got one that does not")

        def on_gradient(g: Any, create_graph: bool) -> Any:
            new = hook(g if create_graph else concealed(g))
            return new if new is None or create_graph else new._a

        if self._edge is None:
            return Handle.of(self, "_hooks", on_gradient)
        return Handle.of(self._edge[0], "output_hooks", (self._edge[1], on_gradient, False))

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Handle:
        """`hook(tensor)` runs after this leaf's `grad` has been updated."""
        if self._edge is not None:
            raise GraphError("register_post_accumulate_grad_hook: expected a leaf, got the result of an op")
        return Handle.of(self, "_post_hooks", hook)

    # what the engine asks of a leaf

    def _arrive(self, g: Any, create_graph: bool) -> None:
        """All of this leaf's gradient of one walk."""
        if self._hooks:
            g = self._hooked(g, create_graph)
        old = self._grad
        if self._lent:
            self._lent = False
        if create_graph:
            self._grad = g if old is None else old + g
        elif old is None and self._home is None:
            self._grad = t = _new(Tensor)
            t._a = self._own(g)
        elif old is None:
            if g is not self._home:
                self._home[...] = g
            self._grad = wrap(self._home)
        elif old._requires_grad:
            self._grad = wrap(old._a + g)
        else:
            old._a += g
            old._bump()
        if self._post_hooks:
            for hook in list(self._post_hooks.values()):
                hook(self)

    def lent_home(self) -> Any:
        """Where all or a part of this leaf's gradient may be computed, instead of in new memory; None if somebody does so already."""
        if self._home is None or self._lent or self._grad is not None or self._hooks:
            return None
        self._lent = True
        return self._home

    def _hooked(self, g: Any, create_graph: bool) -> Any:
        if self._hooks:
            for hook in list(self._hooks.values()):
                new = hook(g, create_graph)
                g = g if new is None else new
        return g

    _fresh_references = 0  # references to a gradient that nobody else holds, seen from `_own`; measured below

    def _own(self, g: Any) -> Any:
        """The array itself if nobody else can see it, else a copy: two leaves may have been handed the same array."""
        if (
            type(g) is type(self._a)
            and g.base is None
            and sys.getrefcount(g) <= self._fresh_references
            and g.flags.c_contiguous
            and g.dtype is self._a.dtype
        ):
            return g
        return backend.of(self._a).xp.array(g, order="C", dtype=self._a.dtype)

    # -- versions, views and writes --------------------------------------------------------------------------------------

    def storage_offset(self) -> int:
        """How many elements after the start of its base this view starts."""
        return 0 if self._base is None else (self.data_ptr() - self._base.data_ptr()) // self.element_size()

    @property
    def _version(self) -> int:
        return self._counter[0] if self._counter else 0

    def _counted(self) -> list[int]:
        counter = self._counter
        if counter is None:
            counter = self._counter = [0]
        return counter

    def _bump(self) -> None:
        counter = self._counter
        if counter is not None:  # nobody compares what nobody has counted
            counter[0] += 1
        else:
            self._counter = [1]

    def _become_view(self, x: Tensor, op: Any, params: dict[str, Any], number: int | None = None) -> None:
        """This tensor is op(x, **params), in x's memory (its output `number`, if it has several)."""
        self._counter = x._counted()
        self._base = base = x if x._base is None else x._base
        self._steps = (*x._steps, (op, params, number))
        self._writes = base._writes

    def _graph_edge(self) -> Edge:
        """Where a consumer of this tensor connects."""
        base = self._base
        if base is not None and self._writes != base._writes:
            y = base  # the base was written to since: go the steps again
            with _grad_mode(True):
                for op, params, number in self._steps:
                    y = op.apply((y,), params)
                    y = y if number is None else y[number]
            self._edge, self._writes = y._edge, base._writes
            self._requires_grad = y._requires_grad
        return self._edge or (self, 0)

    def _check_inplace(self, name: str) -> None:
        if self._requires_grad and self._edge is None and mode.grad:
            raise GraphError(
                f"{name}_: a leaf Variable that requires grad is being used in an in-place operation; "
                "do it under no_grad(), or out of place"
            )
        if self._base is not None and self._base._requires_grad and self._base._edge is None and mode.grad:
            raise GraphError(
                f"{name}_: a view of a leaf Variable that requires grad is being used in an in-place operation"
            )

    def _rebase(self, edge: Edge) -> None:
        """This tensor's memory now holds the result of `edge`: let it and the tensor it is a view of say so."""
        base = self._base
        if base is None:
            self._edge, self._requires_grad = edge, True
            self._writes += 1
            return
        node = ViewWrite(base._graph_edge() if base._requires_grad else None, edge, self._steps)
        base._edge, base._requires_grad = (node, 0), True
        base._writes += 1
        self._graph_edge()

    # -- moving --------------------------------------------------------------------------------------------------------

    @classmethod
    def _of(cls, array: np.ndarray) -> Tensor:
        """A tensor that shares a NumPy array's memory."""
        dtypes.of(array.dtype)  # an unknown dtype is an error here, not later
        return wrap(array if type(array) is np.ndarray else array.view(np.ndarray))  # np.memmap is a kind of ndarray

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._edge is not None:
            raise GraphError("deepcopy: expected a leaf, got the result of an op; use detach().clone()")
        if id(self) in memo:
            return memo[id(self)]
        t = object.__new__(type(self))
        t.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items() if k[0] != "_"})
        t._a, t._requires_grad = self._a.copy(), self._requires_grad
        if self._grad is not None:
            t._grad = self._grad.__deepcopy__(memo)
        memo[id(self)] = t
        return t

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._edge is not None:
            raise GraphError("pickle: expected a leaf, got the result of an op; use detach()")
        return _rebuild, (type(self), self._host(), str(self.device), self._requires_grad)


class ViewWrite(Node):
    """A base after a write through one of its views: the view's region has the gradient of what was written, the rest the old one's."""

    __slots__ = ("steps",)

    def __init__(self, base: Edge | None, written: Edge, steps: tuple[Any, ...]):
        super().__init__([base, written])
        self.steps = steps

    def name(self) -> str:
        return "CopySlices"

    def pull(self, grads: Any, create_graph: bool) -> list[Any]:
        if not create_graph:
            with _grad_mode(False):
                rest, region = self._split(wrap(grads))
            return [rest._a, region._a]
        return list(self._split(grads))

    def _split(self, g: Tensor) -> tuple[Tensor, Tensor]:
        rest = g.clone()
        region = self._walk_steps(g)
        self._walk_steps(rest).zero_()
        return rest, region.clone()

    def _walk_steps(self, y: Tensor) -> Tensor:
        for op, params, number in self.steps:
            y = op.apply((y,), params)
            y = y if number is None else y[number]
        return y


def wrap(array: Any) -> Tensor:
    """A Tensor around a raw array, without copying."""
    t = object.__new__(Tensor)
    t._a = array if type(array) is np.ndarray or not isinstance(array, np.generic) else np.asarray(array)
    return t


def concealed(array: Any) -> Tensor:
    """A Tensor around a raw array; if that lies channels-last, nobody will see it so."""
    t: Tensor = object.__new__(Tensor)
    if array.ndim > 2 and array.strides[1] == array.itemsize and not array.flags.c_contiguous:
        t._inside = array
        return t
    return wrap(array)  # a sum of all elements may be a NumPy scalar


class _grad_mode:
    """Record or not, in this thread, for a block."""

    def __init__(self, on: bool):
        self.on = on

    def __enter__(self) -> None:
        self.previous, mode.grad = mode.grad, self.on

    def __exit__(self, *exc: object) -> None:
        mode.grad = self.previous


def _moved(array: Any, where: Any, non_blocking: bool = False) -> Any:
    """The array on another device; itself if it is there. `non_blocking`: see `Backend.from_numpy`."""
    where = device(where)
    be, target = backend.of(array), backend.get(where.type)
    if be is target and be.index_of(array) == (be.current() if where.index is None else where.index):
        return array
    if be is target:
        return be.copied(array, where.index)
    return target.from_numpy(be.to_numpy(array), where.index, non_blocking)


def _rebuild(cls: type, array: np.ndarray, where: str, requires_grad: bool) -> Tensor:
    import core.methods  # noqa: F401  # a new process may know of tensors only what it unpickles

    t: Any = object.__new__(cls)
    t._a = _moved(array, where)
    t._requires_grad = requires_grad
    return t


def _measure_fresh_references() -> None:
    """How many references `_own` sees to a gradient that only the walk holds: Python versions differ, so ask."""

    class Fresh(Node):
        __slots__ = ()

        def pull(self, grads: Any, create_graph: bool) -> list[Any]:
            return [grads + 1]

    class Probe(Tensor):
        def _own(self, g: Any) -> Any:
            Tensor._fresh_references = sys.getrefcount(g)
            return g

    leaf = object.__new__(Probe)
    leaf._a = np.zeros(1)
    engine.walk([((Fresh([(leaf, 0)]), 0), np.zeros(1))], retain_graph=False, create_graph=False)


_measure_fresh_references()
