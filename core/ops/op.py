"""What an op is: one function that computes, one gradient rule for each array input, and how calling it extends the graph.

    @op(x=lambda F, g, out: g * out)
    def exp(be, x):
        "eˣ, elementwise."
        return be.xp.exp(x)

The function is the forward pass on raw arrays: `be` is the backend that holds them, arrays are positional, parameters keyword-only.
A rule carries the gradient `g` of the output back to one input. It says by the names of its own arguments what it needs, and nothing else
is kept for it:
    an input's name    that input            a parameter's name    its value
    `x_shape`          the shape of x alone  `out`                 the output
    `x_home`           where x's gradient is best written, or None
    a name in `outs`   that output, where there are several
    a name in `aux`    that further output of the function, which callers do not see
    `wanted`           of a variadic op: which of the inputs want a gradient
An op that ends with an activation has an `epilogue`, a rule that the gradient of the output goes through, once, before the others see it.
An op whose gradients share work, or whose rules are dear to call one by one, has a `whole(be, g, wanted, …)`: what all rules give, on raw
arrays, as a list, or None where it is not the case. It names what it needs as rules do, and gets None for what no wanted rule needs.
`F` is the namespace of ops. In plain backward it is the ops on raw arrays, so nothing is recorded; when a graph of the gradient is wanted
it is the ops on Tensors, and the same rule yields a differentiable gradient. A rule that cannot be differentiated this way (a
fused kernel) has a
`composite`: the same function in simpler ops, which is differentiated instead, and is the kernel's definition and test oracle.

Broadcasting and dtype promotion are undone here, once, for ops made by `pointwise`. The op's name is its public name, its label in
the graph and its id in the tests.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import numpy as np

from core import backend, dtypes, engine
from core._tensor import Tensor, concealed, wrap
from core.backend.base import Backend
from core.engine import mode
from core.errors import DeviceError, DTypeError, ShapeError
from core.ops.namespaces import OPS, Raw, graph
from core.ops.node import OpNode, Plan, narrowed, widened

__all__ = ["OPS", "Op", "Raw", "graph", "op", "pointwise"]

_SMOOTH = "fcV"  # kinds of dtypes that can have a gradient; V is bfloat16
_new, _by_array = object.__new__, backend._by_array

# other names under which torch's functions know these parameters
_ALIASES = {"axis": "dim", "keepdims": "keepdim", "axes": "dims"}


class Op:
    """A differentiable operation; calling it on Tensors computes and records."""

    def __init__(
        self,
        forward: Callable[..., Any],
        rules: dict[str, Callable[..., Any]],
        *,
        view: bool = False,
        broadcasts: bool = False,
        outs: Sequence[str] = ("out",),
        aux: Sequence[str] = (),
        names: Sequence[str] = (),
        composite: Callable[..., Any] | None = None,
        orderly: bool = False,
        narrow: bool = False,
        epilogue: Callable[..., Any] | None = None,
        whole: Callable[..., Any] | None = None,
    ):
        self.__name__ = self.name = forward.__name__
        self.__doc__ = forward.__doc__
        self.__module__ = forward.__module__
        self.__qualname__ = forward.__qualname__
        self.__wrapped__ = forward  # for inspect.signature
        self.forward = forward
        self.rules = rules
        self.view = view
        self.broadcasts = broadcasts
        self.orderly = broadcasts or orderly
        self.widens = broadcasts and not narrow
        self.composite = composite
        self.epilogue = epilogue
        self.whole = whole

        _, *parameters = inspect.signature(forward).parameters.values()
        positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self.variadic = bool(positional) and positional[0].kind is inspect.Parameter.VAR_POSITIONAL
        self.inputs = [p.name for p in positional]
        self.optional = sum(p.default is not p.empty for p in positional)
        self.arity = len(self.inputs)
        self.exact = -1 if self.variadic else self.arity  # so many positional arguments are the arrays: nothing to bind
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.takes_out = any(p.name == "out" for p in keywords)
        self.params = [p.name for p in keywords if p.name != "out"]
        self.param_names = frozenset(self.params)
        self.defaults = {p.name: p.default for p in keywords if p.default is not p.empty and p.name != "out"}
        self.public = {
            **dict(zip(self.inputs, self.inputs)),
            **dict(zip(("input", "other"), self.inputs)),
            **dict(zip(names, self.inputs)),
        }

        self.hidden = len(aux)
        self.single = len(outs) == 1 and bool(aux) and not view  # of several outputs callers see one
        self.outs = [*outs, *aux]
        self.rule_mask = -1 if self.variadic else sum(1 << i for i, name in enumerate(self.inputs) if name in rules)
        unknown = set(rules) - set(self.inputs)
        assert not unknown, f"{self.name}: rules for {unknown}, which are no inputs"
        self._plans: dict[int, Plan] = {}
        OpNode.offer(("self", "other", "result", *self.inputs, *self.outs))

    # -- calling -------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **params: Any) -> Any:
        if len(args) == self.exact:
            if not params:
                return self.apply(args, self.defaults)
            if params.keys() <= self.param_names:
                given = params if len(params) == len(self.params) else self.defaults | params
                if len(given) == len(self.params):
                    return self.apply(args, given)
        elif len(args) > self.exact >= 0 and not params:  # the parameters, too, by position
            named = dict(zip(self.params, args[self.exact :]))
            given = self.defaults | named
            if len(given) == len(self.params) and len(named) == len(args) - self.exact:
                return self.apply(args[: self.exact], given)
        bound, params = self._bind(args, params)
        if "out" in params:
            return _into(params.pop("out"), self.apply(bound, params))
        return self.apply(bound, params)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def _bind(self, args: tuple[Any, ...], params: dict[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
        """torch's calling manners: parameters may be positional after the arrays, arrays may be named, some names have aliases."""
        given = self.defaults | params
        if self.variadic:
            arrays: list[Any] = list(args[0]) if args else list(given.pop("tensors"))
            given.update(zip(self.params, args[1:]))
            return arrays, self._checked(given)
        arrays = list(args[: self.arity])
        if len(args) > self.arity:
            if len(args) - self.arity > len(self.params):
                raise TypeError(
                    f"{self.name}: expected at most {self.arity + len(self.params)} arguments, got {len(args)}"
                )
            given.update(zip(self.params, args[self.arity :]))
        if len(arrays) < self.arity:
            for i, name in enumerate(self.inputs[len(arrays) :], len(arrays)):
                key = next((k for k, v in self.public.items() if v == name and k in params), None)
                if key is not None:
                    arrays.append(given.pop(key))
                elif i >= self.arity - self.optional:
                    arrays.append(None)
                else:
                    raise TypeError(f"{self.name}: missing argument '{name}'")
        return arrays, self._checked(given)

    def _checked(self, given: dict[str, Any]) -> dict[str, Any]:
        for key in list(given):
            if key not in self.params and key != "out":
                name = _ALIASES.get(key)
                if name not in self.params:
                    raise TypeError(
                        f"{self.name}: expected parameters {', '.join(self.params) or '(none)'}, got '{key}'"
                    )
                given[name] = given.pop(key)
        if "out" in given and given["out"] is None:
            del given["out"]
        for key in self.params:
            if key not in given:
                raise TypeError(f"{self.name}: missing argument '{key}'")
        return given

    def apply(self, args: Sequence[Any], params: dict[str, Any]) -> Any:
        """Compute, and record if a gradient may be wanted."""
        state = mode.state
        if state.autocast is not None:
            args = state.autocast.cast(self.name, args)
        arrays, mask, be = self._arrays(args)
        slow = be.slow_dtype
        wide = widened(be, arrays) if self.widens and getattr(arrays[0], "dtype", slow) is slow is not None else None
        try:
            y = self.forward(be, *(wide or arrays), **params)
        except (ValueError, OverflowError) as error:
            self._explain(arrays, error)
            raise
        if wide:
            y = narrowed(be, y)
        outs: Sequence[Any] = ()
        if type(y) is tuple:
            if not self.single:
                return self._several(args, arrays, params, mask, be, y)
            outs = [a if type(a) is be.array_type else be.as_array(a) for a in y]
            y = outs[0]
        elif type(y) is not be.array_type:
            y = be.as_array(y)
        t: Tensor = _new(Tensor)
        if self.orderly and y.ndim > 2 and not y.flags.c_contiguous and not _shows_order(args):
            t._inside = y
        else:
            t._a = y
        if self.view:
            t._become_view(args[0], self, params)
        if mask & self.rule_mask:
            if state.grad and y.dtype.kind in _SMOOTH:
                t._edge = OpNode(self, args, arrays, params, mask & self.rule_mask, be, outs or (y,), (t,)), 0
                t._requires_grad = True
                return t
        if state.inference:
            t._inference = True
        return t

    def _several(
        self, args: Sequence[Any], arrays: list[Any], params: dict[str, Any], mask: int, be: Backend, y: tuple[Any, ...]
    ) -> Any:
        """The rest of `apply` for a function that returned several arrays."""
        outs = [a if type(a) is be.array_type else be.as_array(a) for a in y]
        seen = self.orderly and not _shows_order(args)
        tensors = [(concealed if seen else wrap)(a) for a in outs[: len(outs) - self.hidden]]
        if self.view:
            for i, t in enumerate(tensors):
                t._become_view(args[0], self, params, i)
        mask &= self.rule_mask
        state = mode.state
        smooth = [t for t, a in zip(tensors, outs) if a.dtype.kind in _SMOOTH] if mask and state.grad else []
        if smooth:  # outputs that can have a gradient come first
            node = OpNode(self, args, arrays, params, mask, be, outs, smooth)
            for i, t in enumerate(smooth):
                t._edge = (node, i)
                t._requires_grad = True
        elif state.inference:
            for t in tensors:
                t._inference = True
        return tuple(tensors)

    def _arrays(self, args: Sequence[Any]) -> tuple[list[Any], int, Backend]:
        """The raw arrays, which of them want a gradient (bit i for input i), and who computes."""
        arrays, mask, bit, be, orderly = [], 0, 1, None, self.orderly
        for a in args:
            if isinstance(a, Tensor):
                array = a._inside if orderly else None
                if array is None or "_a" in a.__dict__:
                    array = a._a
                if a._requires_grad:
                    mask |= bit
                if be is None:
                    be = _by_array.get(type(array)) or backend.of(array)
                elif type(array) is not be.array_type:
                    return self._arrays(self._on_one_device(args))
                arrays.append(array)
            elif isinstance(a, np.ndarray):
                return self._arrays([Tensor._of(x) if isinstance(x, np.ndarray) else x for x in args])
            else:
                arrays.append(a.item() if isinstance(a, np.generic) else a)
            bit <<= 1
        if be is None:
            raise DTypeError(
                f"{self.name}: expected a Tensor, got {', '.join(type(a).__name__ for a in args) or 'nothing'}"
            )
        return arrays, mask, be

    def _explain(self, arrays: Sequence[Any], error: Exception) -> None:
        """Our message for shapes that do not go together, or a number that the dtype cannot hold, if that is what the library
        stopped at."""
        if isinstance(error, OverflowError):
            raise DTypeError(
                f"{self.name}: expected numbers that the tensor's dtype can hold: {error}; convert the tensor first"
            ) from None
        shapes = [a.shape for a in arrays if hasattr(a, "shape")]
        if self.broadcasts:
            try:
                np.broadcast_shapes(*shapes)
            except ValueError:
                got = " and ".join(str(tuple(s)) for s in shapes)
                raise ShapeError(
                    f"{self.name}: expected shapes that broadcast, got {got}; reshape or expand one"
                ) from None

    def _on_one_device(self, args: Sequence[Any]) -> Sequence[Any]:
        """A 0-dimensional CPU tensor may meet tensors of a device, as a number would; anything else may not."""
        devices = {str(a.device) for a in args if isinstance(a, Tensor) and (a._a.ndim or a.device.type != "cpu")}
        if len(devices) != 1:
            where = ", ".join(str(a.device) for a in args if isinstance(a, Tensor))
            raise DeviceError(
                f"{self.name}: expected all tensors on one device, got {where}; move them with .to(device)"
            )
        target = devices.pop()
        return [a.to(target) if isinstance(a, Tensor) else a for a in args]

    def plan(self, mask: int) -> Plan:
        """What a node needs to keep if these inputs want a gradient."""
        mask = 1 if self.variadic else mask
        plan = self._plans.get(mask)
        if plan is None:
            plan = self._plans[mask] = Plan(self, mask)
        return plan

    # -- in place ------------------------------------------------------------------------------------------------------

    def inplace(self, x: Tensor, *args: Any, **params: Any) -> Tensor:
        """Compute with x as first input and write the result into x's memory. Returns x."""
        bound, params = self._bind((x, *args), params)
        x._check_inplace(self.name)
        arrays, mask, be = self._arrays(bound)
        target = arrays[0]
        recording = mode.grad and (mask & self.rule_mask or x._requires_grad)
        if recording and 0 in self.plan(mask & self.rule_mask).inputs:
            saved = [target.copy(order="K"), *arrays[1:]]  # a rule needs what is about to be overwritten
        else:
            saved = arrays
        direct = {"out": target} if self.takes_out and _same(arrays[0], arrays[1:]) else {}
        try:
            y = self.forward(be, *arrays, **params, **direct)
        except (ValueError, OverflowError) as error:
            self._explain(arrays, error)
            raise
        except TypeError:
            if direct:  # a floating result, an integer x
                raise DTypeError(
                    f"{self.name}_: result type can't be cast to {x.dtype}; convert the tensor first"
                ) from None
            raise
        if not direct:
            if y.shape != target.shape:
                raise ShapeError(
                    f"{self.name}_: expected a result of shape {target.shape}, got {y.shape}; write to a new tensor"
                )
            if dtypes.category(y.dtype) > dtypes.category(target.dtype):
                raise DTypeError(f"{self.name}_: result type {dtypes.of(y.dtype)} can't be cast to {x.dtype}")
            target[...] = y
        if recording:
            node = OpNode(self, bound, saved, params, mask & self.rule_mask, be, (target,), (x,), ahead=1)
            x._bump()
            x._rebase((node, 0))
        else:
            x._bump()
        return x


def _shows_order(args: Sequence[Any]) -> bool:
    """Whether somebody can see that an argument is not in C order: then the result may be seen so, too."""
    return any(isinstance(a, Tensor) and a._any_order() is not a._inside and not a._a.flags.c_contiguous for a in args)


def _same(x: Any, others: Sequence[Any]) -> bool:
    """Whether a kernel may write straight into x: the result has x's shape and dtype by construction."""
    for o in others:
        if hasattr(o, "dtype"):
            if o.dtype != x.dtype or (o.ndim and o.shape != x.shape):
                return False
        elif o is not None and (dtypes.scalar_category(o) or 0) > dtypes.category(x.dtype):
            return False
    return True


def _into(out: Any, result: Any) -> Any:
    """torch's `out=`: write the result where the caller wants it."""
    if isinstance(out, (tuple, list)):
        for o, r in zip(out, result):
            _into(o, r)
        return out
    if out._a.shape != result._a.shape:
        out._a = wrap(result._a.astype(out._a.dtype))._a
    else:
        out._a[...] = result._a
    out._bump()
    return out


def _add_arrays(x: Any, y: Any, out: Any = None) -> Any:
    return x + y if isinstance(x, np.generic) else backend.of(x).add(x, y, out)


engine.add_arrays = _add_arrays


# -- what a backend computes as a whole: see `Backend.fused` -----------------------------------------------------------


def _ask(be: Backend) -> None:
    """From now on the ops that this backend has kernels for ask it first. Where no such backend is opened, nothing is asked."""
    for key in be.fused:
        name, of = key if isinstance(key, tuple) else (key, None)
        op = OPS.get(name)
        if op is None:  # of a room that has not been entered yet: when it is, this is called again
            continue
        if of is None:
            if not hasattr(op.forward, "plain"):
                op.forward = _asking_forward(name, op.forward, op.defaults)
        elif not hasattr(op.rules[of], "plain"):
            op.rules[of] = _asking_rule(key, op.rules[of])
            op._plans.clear()


def _asking_forward(key: str, plain: Callable[..., Any], defaults: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(plain)  # the signature is read
    def forward(be: Backend, *args: Any, **params: Any) -> Any:
        kernel = be.fused.get(key)
        y = None if kernel is None else kernel(be, *args, **{**defaults, **params})
        return plain(be, *args, **params) if y is None else y

    forward.plain = plain  # type: ignore[attr-defined]
    return forward


def _asking_rule(key: tuple[str, str], plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def rule(F: Any, g: Any, *values: Any) -> Any:
        kernel = None if F is graph else F._be.fused.get(key)
        dx = None if kernel is None else kernel(F._be, g, *values)
        return plain(F, g, *values) if dx is None else dx

    rule.plain = plain  # type: ignore[attr-defined]
    return rule


backend.opened.append(_ask)


# -- decorators --------------------------------------------------------------------------------------------------------


def op(
    *,
    view: bool = False,
    outs: Sequence[str] = ("out",),
    aux: Sequence[str] = (),
    names: Sequence[str] = (),
    composite: Callable[..., Any] | None = None,
    broadcasts: bool = False,
    orderly: bool = False,
    narrow: bool = False,
    epilogue: Callable[..., Any] | None = None,
    whole: Callable[..., Any] | None = None,
    **rules: Callable[..., Any],
) -> Callable[[Callable[..., Any]], Op]:
    """Make an op of a function; see the top of this module.

    `names` are torch's names of the array inputs. `orderly`: takes arrays in any order in memory, and a result that is not in C order
    may stay so until somebody looks (see `Tensor`); true of whatever is pointwise. `narrow`: pointwise, and its kernels are as fast in
    a backend's `slow_dtype`; others compute in float32 there, and round once.
    """

    def make(forward: Callable[..., Any]) -> Op:
        made = Op(
            forward, rules, view=view, outs=outs, aux=aux, names=names, composite=composite, broadcasts=broadcasts,
            orderly=orderly, narrow=narrow, epilogue=epilogue, whole=whole,
        )  # fmt: skip
        assert made.name not in OPS, f"two ops are called {made.name}"
        OPS[made.name] = made
        for be in backend._open.values():
            for tell in backend.opened:
                tell(be)
        return made

    return make


def pointwise(**kwargs: Any) -> Callable[[Callable[..., Any]], Op]:
    """An op whose inputs broadcast against each other and are promoted to a common dtype."""
    return op(broadcasts=True, **kwargs)
