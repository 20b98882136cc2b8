"""An op that happened: what it keeps of its inputs and outputs, and how it carries a gradient back to them.

Contract: `Plan` says for one op and one set of inputs that want a gradient what is kept, by the names that the op's rules give. What an op
and a rule are: `core.ops.op`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from core import dtypes
from core._tensor import Tensor, concealed, wrap
from core.backend.base import Backend
from core.engine import Edge, Node, mode, next_number, walk
from core.errors import GraphError
from core.ops.namespaces import Raw, graph

if TYPE_CHECKING:
    from core.ops.op import Op


class Plan:
    """For one set of inputs that want a gradient: what to keep, and how to call each rule."""

    __slots__ = (
        "wanted", "inputs", "every", "outs", "shapes", "params", "which", "homes", "epilogue", "rules", "whole", "keeps",
    )  # fmt: skip

    def __init__(self, op: Op, mask: int):
        wanted = [(i, op.rules[n]) for i, n in enumerate(op.inputs) if n in op.rules and mask >> i & 1]
        self.wanted = [i for i, _ in wanted]
        names = {i: list(inspect.signature(rule).parameters)[2:] for i, rule in wanted}
        last = [] if op.epilogue is None else list(inspect.signature(op.epilogue).parameters)[2:]
        needs = dict.fromkeys([*last, *(n for ns in names.values() for n in ns)])
        self.every = op.variadic and op.inputs[0] in needs  # the list of all inputs
        self.inputs = [] if op.variadic else [i for i, n in enumerate(op.inputs) if n in needs or op.composite]
        self.outs = [i for i, n in enumerate(op.outs) if n in needs]
        self.shapes = [i for i, n in enumerate(op.inputs) if n + "_shape" in needs]
        self.params = [n for n in op.params if n in needs]
        self.which = op.variadic and "wanted" in needs
        order = [op.inputs[i] for i in self.inputs] + [op.outs[i] for i in self.outs]
        order += [op.inputs[0]] * self.every + [op.inputs[i] + "_shape" for i in self.shapes] + self.params
        order += ["wanted"] * self.which
        self.homes = [i for i, n in enumerate(op.inputs) if n + "_home" in needs]
        order += [op.inputs[i] + "_home" for i in self.homes]
        for n in needs:
            assert n in order, f"{op.name}: a rule names '{n}', which is no input, parameter, shape or output"
        self.epilogue = None if op.epilogue is None else (op.epilogue, _picker([order.index(n) for n in last]))
        # a rule that takes all that is kept, as it is kept, picks nothing
        self.rules = [
            (i, rule, None if names[i] == order else _picker([order.index(n) for n in names[i]])) for i, rule in wanted
        ]
        self.whole = None
        if op.whole is not None:
            needed = list(inspect.signature(op.whole).parameters)[3:]
            at = {n: i for i, n in enumerate(order)}
            gradients = [i in self.wanted for i in range(op.arity)]
            # behind what is kept stands a None
            self.whole = op.whole, gradients, _picker([at.get(n, len(order)) for n in needed])
        self.keeps = bool(self.inputs or self.outs or self.every)  # arrays, so that there is something to free


def _picker(places: list[int]) -> Callable[[list[Any]], Sequence[Any]]:
    """Takes the values at these places out of a list."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))


class OpNode(Node):
    """An op that happened."""

    __slots__ = ("op", "be", "plan", "values", "marks", "metas", "params", "outs")

    metas: Any  # of the inputs of what broadcasts (shape, dtype), or None where none of them differs from the output

    def __init__(
        self, op: Op, args: Sequence[Any], arrays: list[Any], params: dict[str, Any], mask: int, be: Backend,
        outs: Sequence[Any], tensors: Sequence[Tensor], ahead: int = 0,
    ):  # fmt: skip
        """`ahead`: how many writes to the output are about to be counted (1 in place)."""
        plan = op._plans.get(mask) or op.plan(mask)
        edges: list[Edge | None] = [None] * len(args)
        for i in plan.wanted if not op.variadic else [i for i in range(len(args)) if mask >> i & 1]:
            a = args[i]
            edges[i] = a._edge or (a, 0) if a._base is None else a._graph_edge()
        self.edges, self.outputs, self.number = edges, len(tensors), next_number()
        self.hooks = self.prehooks = self.output_hooks = None
        self.op, self.be, self.params, self.plan = op, be, params, plan
        marks: list[tuple[list[int], int]] = []
        values: list[Any] = []
        self.marks, self.metas = marks, None
        for i in plan.inputs:
            values.append(arrays[i])
        for i in plan.inputs if not plan.every else range(len(args)):
            a = args[i]
            if isinstance(a, Tensor) and (i or not ahead):
                if a._inference:
                    raise GraphError(
                        f"{op.name}: Inference tensors cannot be saved for backward: expected a tensor made outside of "
                        "inference_mode, got one made inside; clone() it"
                    )
                counter = a._counter
                if counter is None:
                    counter = a._counter = [0]
                marks.append((counter, counter[0]))
        for i in plan.outs:
            values.append(outs[i])
            if i < len(tensors):
                a = tensors[i]
                counter = a._counter
                if counter is None:
                    counter = a._counter = [0]
                marks.append((counter, counter[0] + ahead))
        if plan.every:
            values.append(arrays)
        for i in plan.shapes:
            values.append([a.shape for a in arrays] if op.variadic else arrays[i].shape)
        for n in plan.params:
            values.append(params[n])
        if plan.which:
            values.append([e is not None for e in edges])
        state = mode.state
        self.values: list[Any] | None = values
        if state.saved_hooks:
            self.values = _PackedValues(values, len(plan.inputs) + len(plan.outs))
        if op.broadcasts:
            y = outs[0]
            for i in plan.wanted:
                if arrays[i].dtype is not y.dtype or arrays[i].shape != y.shape:
                    self.metas = [None if e is None else (a.shape, a.dtype) for e, a in zip(edges, arrays)]
                    break
        if len(tensors) > 1:
            self.outs = [(t._a.shape, t._a.dtype) for t in tensors]
        if state.anomaly:
            self.trace = [frame for frame in traceback.extract_stack() if frame.filename != __file__]

    def name(self) -> str:
        return "".join(part.capitalize() for part in self.op.name.split("_")) + "Backward0"

    def _saved(self, name: str) -> Any:
        """What is kept under torch's name (`self`, `other`, `result`) or ours."""
        known = {self.op.outs[i]: k for k, i in enumerate(self.plan.outs, len(self.plan.inputs))}
        known |= {self.op.inputs[i]: k for k, i in enumerate(self.plan.inputs)}
        torchs = dict(zip(("self", "other"), self.op.inputs)) | {"result": self.op.outs[0]}
        k = known.get(torchs.get(name, name))
        if k is None:
            raise AttributeError(f"{self.name()} has no attribute '_saved_{name}'")
        if self.values is None:
            raise GraphError(f"{self.name()}: expected saved values, got a freed graph; pass retain_graph=True")
        edge = self.edges[self.plan.inputs[k]] if k < len(self.plan.inputs) else None
        return self._as_tensors(self.values)[k] if edge is None or isinstance(edge[0], Node) else edge[0]

    @classmethod
    def offer(cls, names: Iterable[str]) -> None:
        """Let nodes have these attributes `_saved_…`. No `__getattr__`: it would make every look at a node three times as long."""
        for name in names:
            if not hasattr(cls, "_saved_" + name):
                setattr(cls, "_saved_" + name, property(partial(cls._saved, name=name)))

    def free(self) -> None:
        if self.plan.keeps:
            self.values = None

    @property
    def freed(self) -> bool:
        return self.values is None

    def pull(self, grads: Any, create_graph: bool) -> list[Any]:
        values, plan, state = self.values, self.plan, mode.state
        assert values is not None
        if type(values) is _PackedValues:
            values = values.unpacked()
        for counter, version in self.marks:
            if counter[0] != version:
                raise GraphError(
                    f"backward: one of the variables needed for gradient computation has been modified by an inplace operation: "
                    f"{self.name()} expected it at version {version}, got version {counter[0]}; "
                    "use the out-of-place form, or clone() before writing"
                )
        if self.outputs > 1:
            grads = self._filled(grads, create_graph)
        if create_graph:
            if self.op.composite is not None:
                return self._pull_composite(grads)
            F: Any = graph
            values = self._as_tensors(values)
        else:
            F = self.be.raw or Raw.of(self.be)
        edges: Any = self.edges
        for i in plan.homes:
            leaf = edges[i][0]
            lends = state.homes and not create_graph and isinstance(leaf, Tensor) and leaf._home is not None
            values = [*values, leaf.lent_home() if lends else None]
        slow = self.be.slow_dtype
        wide = None
        if self.op.widens and not create_graph and getattr(grads, "dtype", None) is slow is not None:
            wide = widened(self.be, [grads, *values])
            if wide is not None:
                grads, *values = wide
        if plan.epilogue is not None:
            last, take = plan.epilogue
            grads = last(F, grads, *take(values))
        pulled: list[Any] | None = None
        if plan.whole is not None and not create_graph:
            whole, wanted, take = plan.whole
            pulled = whole(self.be, grads, wanted, *take([*values, None]))
        if pulled is None:
            pulled = self._by_rules(F, grads, values, wide is not None, create_graph)
        if state.anomaly:
            self._check_nan(pulled, create_graph)
        return pulled

    def _by_rules(self, F: Any, grads: Any, values: list[Any], was_widened: bool, create_graph: bool) -> list[Any]:
        """What each rule gives, in the shape and dtype of its input."""
        pulled: list[Any] = [None] * len(self.edges)
        for i, rule, pick in self.plan.rules:
            g = rule(F, grads, *(values if pick is None else pick(values)))
            if was_widened:
                g = narrowed(self.be, g)
            if self.op.variadic:
                return list(g)
            if self.metas is not None:
                shape, dtype = self.metas[i]
                if g.shape != shape:
                    g = _sum_to(F, g, shape)
                if create_graph:
                    if g._a.dtype != dtype:
                        g = F.cast(g, dtype=dtypes.of(dtype))
                elif g.dtype != dtype:
                    g = F.cast(g, dtype=dtypes.of(dtype))
            pulled[i] = g
        return pulled

    def _filled(self, grads: list[Any], create_graph: bool) -> list[Any]:
        """Zeros for outputs that no gradient reached."""
        zeros = self.be.xp.zeros
        make = (lambda shape, dtype: wrap(zeros(shape, dtype))) if create_graph else zeros
        return [make(*meta) if g is None else g for g, meta in zip(grads, self.outs)]

    def _as_tensors(self, values: list[Any]) -> list[Any]:
        """Saved arrays as Tensors that are part of the graph, for a gradient of the gradient."""
        plan, out = self.plan, list(values)
        for k, i in enumerate(plan.inputs):
            out[k] = self._as_tensor(out[k], self.edges[i])
        for k, i in enumerate(plan.outs, len(plan.inputs)):
            out[k] = self._as_tensor(out[k], (self, i) if i < self.outputs else None)
        if plan.every:
            k = len(plan.inputs) + len(plan.outs)
            out[k] = [self._as_tensor(a, e) for a, e in zip(out[k], self.edges)]
        return out

    def _as_tensor(self, value: Any, edge: Edge | None) -> Any:
        if type(value) is not self.be.array_type:
            return value  # a Python number, or an optional input that was not given
        t = concealed(value)
        if edge is not None and value.dtype.kind in "fcV":
            t._edge, t._requires_grad = edge, True
        return t

    def _pull_composite(self, grads: Any) -> list[Any]:
        """Differentiate the op's definition in simpler ops instead of its kernel."""
        assert self.values is not None and self.op.composite is not None
        xs = self._as_tensors(self.values)[: len(self.plan.inputs)]
        # the alias keeps the walk inside the composite: it ends at these nodes, which lead on to the real inputs
        xs = [graph.alias(x) if isinstance(x, Tensor) and x._requires_grad else x for x in xs]
        y = self.op.composite(*xs, **self.params)
        ends = {
            i: x._edge for i, x in zip(self.plan.inputs, xs) if isinstance(x, Tensor) and x._edge and x._requires_grad
        }
        ys = y if isinstance(y, tuple) else (y,)
        gs = grads if isinstance(grads, list) else [grads]
        found = walk(
            [(t._edge, g) for t, g in zip(ys, gs) if t._requires_grad],
            retain_graph=True, create_graph=True, inputs=list(ends.values()), accumulate=False, stop=True,
        )  # fmt: skip
        return [found.get(ends[i]) if i in ends and e is not None else None for i, e in enumerate(self.edges)]

    def _check_nan(self, pulled: list[Any], create_graph: bool) -> None:
        for i, g in enumerate(pulled):
            a = g._a if create_graph and g is not None else g
            if a is not None and a.dtype.kind in "fc" and bool((a != a).any()):
                where = (
                    "".join(traceback.format_list(self.trace)) if getattr(self, "trace", None) else "(not recorded)\n"
                )
                raise GraphError(f"{self.name()} returned nan values in its output {i}; the forward call was:\n{where}")


_FLOAT32, _WIDE_SIZE = np.dtype(np.float32), 1 << 10  # elements, from which it pays to convert


def widened(be: Backend, arrays: Sequence[Any]) -> list[Any] | None:
    """The arguments with float32 in place of the dtype that this backend is slow at; None where there are other dtypes, or little to do."""
    mine = [a for a in arrays if type(a) is be.array_type]
    if any(a.dtype is not be.slow_dtype for a in mine) or not any(a.size >= _WIDE_SIZE for a in mine):
        return None
    return [be.cast(a, _FLOAT32) if type(a) is be.array_type else a for a in arrays]


def narrowed(be: Backend, y: Any) -> Any:
    """What was computed of such arguments, in their dtype; what is of another dtype than float32 (bool) stays."""
    return be.cast(y, be.slow_dtype) if getattr(y, "dtype", None) == _FLOAT32 else y


def _sum_to(F: Any, g: Any, shape: tuple[int, ...]) -> Any:
    """Undo broadcasting: sum over the dimensions that were added or stretched."""
    added = g.ndim - len(shape)
    dims = tuple(range(added)) + tuple(i + added for i, n in enumerate(shape) if n == 1 and g.shape[i + added] != 1)
    if dims:
        g = F.sum(g, dim=dims, keepdim=True)
    return F.reshape(g, shape=shape) if added else g


# -- saved values that are packed (torch.autograd.graph.saved_tensors_hooks) -------------------------------------------


class _PackedValues(list[Any]):
    """Saved values of which the first `arrays`, where they are arrays, went through the hooks."""

    def __init__(self, values: list[Any], arrays: int):
        pack, self._unpack = mode.saved_hooks[-1]
        self._at = {k for k, v in enumerate(values[:arrays]) if hasattr(v, "dtype")}
        super().__init__(pack(wrap(v)) if k in self._at else v for k, v in enumerate(values))

    def unpacked(self) -> list[Any]:
        return [self._unpack(v)._a if k in self._at else v for k, v in enumerate(self)]
