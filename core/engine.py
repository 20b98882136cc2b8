"""The graph of a computation, and the walk that differentiates it.

A `Node` is one operation that happened: it knows where its inputs came from (`edges`) and how to pull a gradient of its outputs back to
its inputs (`pull`). `walk` visits each node once, after all its consumers, and hands each leaf its gradient as soon as the last use
of the leaf has been seen: `ddp` hangs on that.

Contract: nothing here knows of tensors, arrays or devices. A gradient is anything with `+`: a raw array in plain backward, a Tensor when
a graph of the gradient is wanted. A leaf is any object with `_arrive(gradient, create_graph)`. The walk is iterative, so depth is
bounded by memory alone. Node numbers grow with time, so descending number is an order in which consumers come first.
Not here: what an op is (`core.ops.op`), what users call (`core.autograd`).
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import count
from operator import attrgetter, itemgetter
from typing import Any

from core.errors import GraphError

next_number = count().__next__
_by_number = attrgetter("number")

# (target, output): the node and which of its outputs, or a leaf and 0
Edge = tuple[Any, int]


class Recording:
    """What a thread records. Slots: every op reads some of this."""

    __slots__ = ("grad", "inference", "autocast", "anomaly", "callbacks", "saved_hooks", "homes")

    def __init__(self) -> None:
        self.grad = True  # record a graph
        self.inference = False  # inside of `inference_mode`
        self.autocast: Any = None  # what converts the inputs of ops, inside of `autocast`
        self.anomaly = False  # remember where each node was made, check gradients for NaN
        self.callbacks: list[Callable[[], None]] | None = None  # to run when the current walk has ended
        self.homes = False  # inside of a walk whose gradients stay with the leaves, so that these may lend their homes
        # (pack, unpack), innermost last
        self.saved_hooks: tuple[tuple[Callable[[Any], Any], Callable[[Any], Any]], ...] = ()


def _of_state(name: str) -> Any:
    return property(lambda self: getattr(self.state, name), lambda self, value: setattr(self.state, name, value))


class _Mode(threading.local):
    """This thread's `Recording`, whole as `state`, and field by field. Threads are independent: ranks may be threads."""

    def __init__(self) -> None:
        self.state = Recording()

    grad, inference, autocast, anomaly, callbacks, saved_hooks, homes = map(_of_state, Recording.__slots__)


mode = _Mode()


class Node:
    """One operation of the graph."""

    __slots__ = ("edges", "number", "outputs", "hooks", "prehooks", "output_hooks", "trace", "__weakref__")

    edges: Sequence[Edge | None]  # one for each input; None where no gradient is wanted

    def __init__(self, edges: Sequence[Edge | None], outputs: int = 1):
        self.edges = edges
        self.outputs = outputs
        self.number = next_number()
        self.hooks = self.prehooks = self.output_hooks = None

    def pull(self, grads: Any, create_graph: bool) -> Sequence[Any]:
        """Gradients for the edges, from the gradient of the output (a list of them if there are several; None is zero)."""
        raise NotImplementedError

    def free(self) -> None:
        """Forget saved values. A later `pull` is an error."""

    @property
    def freed(self) -> bool:
        return False

    # -- what users see of a node, as `tensor.grad_fn`

    def name(self) -> str:
        return type(self).__name__

    @property
    def next_functions(self) -> tuple[tuple[Any, int], ...]:
        """Where the inputs came from; a leaf shows as an `AccumulateGrad`."""
        return tuple(
            (None, 0) if e is None else e if isinstance(e[0], Node) else (AccumulateGrad(e[0]), 0) for e in self.edges
        )

    def register_hook(self, hook: Callable[..., Any]) -> Handle:
        """`hook(grad_inputs, grad_outputs)` runs after `pull` and may return new grad_inputs. Values are raw unless a graph is made."""
        return Handle.of(self, "hooks", hook)

    def register_prehook(self, hook: Callable[..., Any]) -> Handle:
        """`hook(grad_outputs)` runs before `pull` and may return new ones."""
        return Handle.of(self, "prehooks", hook)

    def __repr__(self) -> str:
        return f"<{self.name()} object at {id(self):#x}>"


class AccumulateGrad:
    """How a leaf shows in `next_functions`."""

    def __init__(self, variable: Any):
        self.variable = variable
        self.next_functions: tuple[()] = ()

    def name(self) -> str:
        return "AccumulateGrad"

    def __repr__(self) -> str:
        return f"<AccumulateGrad object at {id(self.variable):#x}>"


class Handle:
    """What registering a hook returns: `remove()`, also as a context manager."""

    _ids = count()

    def __init__(self, hooks: dict[int, Any]):
        self.hooks = hooks
        self.id = next(self._ids)

    @classmethod
    def of(cls, owner: Any, attribute: str, hook: Any) -> Handle:
        """Add the hook to the dict at `owner.attribute`, made on first use."""
        hooks = getattr(owner, attribute)
        if hooks is None:
            hooks = {}
            setattr(owner, attribute, hooks)
        handle = cls(hooks)
        hooks[handle.id] = hook
        return handle

    def remove(self) -> None:
        self.hooks.pop(self.id, None)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def walk(
    roots: Sequence[tuple[Edge, Any]],
    *,
    retain_graph: bool,
    create_graph: bool,
    inputs: Sequence[Edge] | None = None,
    accumulate: bool = True,
    stop: bool = False,
) -> dict[Edge, Any]:
    """Carry the gradients of `roots`, pairs of an edge and its gradient, back through the graph.

    Without `inputs` every leaf that is reached gets its gradient by `_arrive`. With them only what lies between is visited; then
    the gradients are handed to those leaves (`accumulate`) or returned, keyed by edge. `stop`: nothing beyond them leads to
    another of them.
    """
    wanted = set(inputs or ())
    order, uses, branching = _reachable(roots, wanted if stop else ())
    needed = None if inputs is None else _needed(order, wanted)
    for node in order if needed is None else needed:
        if node.freed:
            raise GraphError(
                f"backward: expected a graph that still has its saved values, got {node.name()}, freed by an earlier "
                "backward; pass retain_graph=True to the earlier one"
            )
    found: dict[Edge, Any] = {}
    pending: dict[Any, Any] = {}  # node -> gradient, or list of gradients if it has several outputs; leaf -> gradient
    ours: set[Any] = set()  # keys of `pending` whose gradient is a sum that nobody else holds
    state = mode.state
    previous = state.grad, state.callbacks, state.homes
    callbacks: list[Callable[[], None]] = []
    state.grad, state.callbacks, state.homes = create_graph, callbacks, inputs is None
    try:
        for edge, grad in roots:
            _deposit(pending, ours, edge, grad, create_graph)
        for edge, _ in roots:
            if not isinstance(edge[0], Node) and edge[0] not in uses and edge[0] in pending:
                uses[edge[0]] = 0  # a leaf that is a root: nothing else to wait for unless the graph uses it, too
                if inputs is None:
                    edge[0]._arrive(pending.pop(edge[0]), create_graph)
                else:
                    _leave(edge, pending, wanted, accumulate, create_graph, found)
        for node in order:
            grads = pending.pop(node, None)
            if ours:
                ours.discard(node)
            if grads is not None and (node.output_hooks or wanted):
                grads = _at_node(node, grads, wanted, create_graph, found)
            if grads is None or (needed is not None and node not in needed):
                pulled: Any = None
            else:
                hooked = node.prehooks or node.hooks
                pulled = _pull(node, grads, create_graph) if hooked else node.pull(grads, create_graph)
                if not retain_graph:
                    node.free()
            del grads
            for i, to in enumerate(node.edges):
                if to is None:
                    continue
                target = to[0]
                if (
                    pulled is not None
                    and pulled[i] is not None
                    and (needed is None or target in needed or to in wanted)
                ):
                    if target in pending or target in branching:
                        _deposit(pending, ours, to, pulled[i], create_graph)
                    else:
                        pending[target] = pulled[i]
                left = uses.get(target)
                if left is not None:
                    uses[target] = left - 1
                    if left == 1 and target in pending:
                        if type(pulled) is list:
                            pulled[i] = None  # so that the leaf may keep the array itself
                        if inputs is None:
                            target._arrive(pending.pop(target), create_graph)
                        else:
                            _leave(to, pending, wanted, accumulate, create_graph, found)
        for callback in callbacks:  # a callback may add another
            callback()
    finally:
        state.grad, state.callbacks, state.homes = previous
    return found


def queue_callback(callback: Callable[[], None]) -> None:
    """Run `callback` when the walk that is under way in this thread has ended."""
    assert mode.callbacks is not None, "queue_callback outside of backward"
    mode.callbacks.append(callback)


# -- parts of the walk -------------------------------------------------------------------------------------------------


def _reachable(
    roots: Iterable[tuple[Edge, Any]], ends: Collection[Edge] = ()
) -> tuple[list[Node], dict[Any, int], set[Node]]:
    """All nodes behind the roots, consumers first, how many edges lead to each leaf, and which nodes have several outputs.
    Nothing behind `ends` is visited."""
    final = {target for target, _ in ends}
    nodes: set[Node] = set()
    branching: set[Node] = set()
    uses: dict[Any, int] = {}
    stack: list[Node] = []
    for (target, _), _ in roots:
        if isinstance(target, Node) and target not in nodes:
            nodes.add(target)
            stack.append(target)
    while stack:
        node = stack.pop()
        if node.outputs > 1:
            branching.add(node)
        if node in final:
            continue
        for edge in node.edges:
            if edge is None:
                continue
            target = edge[0]
            if not isinstance(target, Node):
                uses[target] = uses.get(target, 0) + 1
            elif target not in nodes:
                nodes.add(target)
                stack.append(target)
    return sorted(nodes, key=_by_number, reverse=True), uses, branching


def _needed(order: list[Node], wanted: set[Edge]) -> set[Node]:
    """The nodes that a gradient must pass to reach a wanted edge."""
    needed: set[Node] = set()
    for node in reversed(order):
        if any(e is not None and (e in wanted or e[0] in needed) for e in node.edges):
            needed.add(node)
    return needed


def _plainly(x: Any, y: Any, out: Any = None) -> Any:
    if out is None:
        return x + y
    out += y
    return out


# how two arrays are added, into `out` if given, which is x; `core.ops.op` puts the backend's way here
add_arrays: Callable[..., Any] = _plainly
each: Callable[[Iterable[Any]], Iterator[Any]] = iter  # tensors one by one; see `core.cuda.guard`


def _deposit(pending: dict[Any, Any], ours: set[Any], edge: Edge, grad: Any, create_graph: bool) -> None:
    target, output = edge
    several = isinstance(target, Node) and target.outputs > 1
    if several:
        slots = pending.setdefault(target, [None] * target.outputs)
        add = operator.add if create_graph else add_arrays
        slots[output] = grad if slots[output] is None else add(slots[output], grad)
    elif target not in pending:
        pending[target] = grad
    elif create_graph:
        pending[target] = pending[target] + grad
    elif target in ours:
        pending[target] = add_arrays(pending[target], grad, pending[target])  # a number is no place to write into
    else:
        pending[target] = add_arrays(pending[target], grad)
        ours.add(target)


def _leave(
    edge: Edge, pending: dict[Any, Any], wanted: set[Edge], accumulate: bool, create_graph: bool, found: dict[Edge, Any]
) -> None:
    """A leaf has all its gradient of a walk with inputs."""
    leaf = edge[0]
    if edge not in wanted:
        return
    if accumulate:
        leaf._arrive(pending.pop(leaf), create_graph)
    else:
        found[edge] = leaf._hooked(pending.pop(leaf), create_graph)


def _at_node(node: Node, grads: Any, wanted: set[Edge], create_graph: bool, found: dict[Edge, Any]) -> Any:
    """Run the hooks on the node's outputs and note gradients that are wanted."""
    if node.output_hooks:
        # what keeps the gradient for `retain_grad` runs last and sees what the others made of it
        for output, hook, _ in sorted(node.output_hooks.values(), key=itemgetter(2)):
            g = grads[output] if node.outputs > 1 else grads
            if g is not None:
                new = hook(g, create_graph)
                if new is None:
                    continue
                if node.outputs > 1:
                    grads[output] = new
                else:
                    grads = new
    if wanted:
        for output in range(node.outputs):
            if (node, output) in wanted:
                g = grads[output] if node.outputs > 1 else grads
                if g is not None:
                    found[node, output] = g
    return grads


def _pull(node: Node, grads: Any, create_graph: bool) -> Any:
    if node.prehooks:
        for hook in list(node.prehooks.values()):
            new = hook(tuple(grads) if node.outputs > 1 else (grads,))
            if new is not None:
                grads = list(new) if node.outputs > 1 else new[0]
    pulled = node.pull(grads, create_graph)
    if node.hooks:
        for hook in list(node.hooks.values()):
            new = hook(tuple(pulled), tuple(grads) if node.outputs > 1 else (grads,))
            if new is not None:
                pulled = list(new)
    return pulled
