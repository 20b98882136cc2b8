"""torch.utils._pytree: nested lists, tuples and dicts as a flat list and a description of the rest.

Contract: tuples (named ones too), lists, dicts, OrderedDicts and defaultdicts are nodes, and what `register_pytree_node` adds;
everything else is a leaf. A dict's order is its own.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.errors import ArgumentError

__all__ = [
    "TreeSpec", "register_pytree_node", "tree_all", "tree_any", "tree_flatten", "tree_leaves", "tree_map", "tree_map_only",
    "tree_structure", "tree_unflatten",
]  # fmt: skip

Flatten = Callable[[Any], tuple[list[Any], Any]]  # node -> children, what else it takes to make it
Unflatten = Callable[[Any, Any], Any]  # children, that -> node


def _named(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(type(node), "_fields")


_NODES: dict[type, tuple[Flatten, Unflatten]] = {
    tuple: (lambda x: (list(x), None), lambda children, _: tuple(children)),
    list: (lambda x: (list(x), None), lambda children, _: list(children)),
    dict: (lambda x: (list(x.values()), list(x)), lambda children, keys: dict(zip(keys, children))),
    OrderedDict: (lambda x: (list(x.values()), list(x)), lambda children, keys: OrderedDict(zip(keys, children))),
    defaultdict: (
        lambda x: (list(x.values()), (x.default_factory, list(x))),
        lambda children, rest: defaultdict(rest[0], zip(rest[1], children)),
    ),
}
_NAMED: tuple[Flatten, Unflatten] = (lambda x: (list(x), type(x)), lambda children, kind: kind(*children))


@dataclass(frozen=True)
class TreeSpec:
    """The shape of a tree: a node's type, what else it takes to make it, and the shapes of its children. A leaf has no type."""

    type: Any
    context: Any
    children_specs: list[TreeSpec]

    @property
    def num_leaves(self) -> int:
        """How many leaves."""
        return 1 if self.is_leaf() else sum(child.num_leaves for child in self.children_specs)

    def is_leaf(self) -> bool:
        """Whether this is a leaf's."""
        return self.type is None


_LEAF = TreeSpec(None, None, [])


def register_pytree_node(cls: type, flatten_fn: Flatten, unflatten_fn: Unflatten, **options: Any) -> None:
    """Make a class one of nodes: `flatten_fn(x)` gives (children, context), `unflatten_fn(children, context)` x again."""
    _NODES[cls] = (flatten_fn, unflatten_fn)


def tree_flatten(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> tuple[list[Any], TreeSpec]:
    """(leaves, spec)"""
    rules = _NAMED if _named(tree) else _NODES.get(type(tree))
    if rules is None or (is_leaf is not None and is_leaf(tree)):
        return [tree], _LEAF
    children, context = rules[0](tree)
    leaves: list[Any] = []
    specs = []
    for child in children:
        below, spec = tree_flatten(child, is_leaf)
        leaves += below
        specs.append(spec)
    return leaves, TreeSpec(type(tree), context, specs)


def tree_unflatten(leaves: Any, treespec: TreeSpec) -> Any:
    """The tree with these leaves."""
    leaves = list(leaves)
    if len(leaves) != treespec.num_leaves:
        raise ArgumentError(f"tree_unflatten: expected {treespec.num_leaves} leaves, got {len(leaves)}")
    return _grown(iter(leaves), treespec)


def _grown(leaves: Any, spec: TreeSpec) -> Any:
    if spec.is_leaf():
        return next(leaves)
    rules = _NAMED if spec.type not in _NODES else _NODES[spec.type]
    return rules[1]([_grown(leaves, child) for child in spec.children_specs], spec.context)


def tree_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[Any]:
    """The leaves, in order."""
    return tree_flatten(tree, is_leaf)[0]


def tree_structure(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> TreeSpec:
    """The tree's shape."""
    return tree_flatten(tree, is_leaf)[1]


def tree_map(func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """func(leaf, and the leaves at the same place of the other trees) everywhere. The others have the first one's shape."""
    leaves, spec = tree_flatten(tree, is_leaf)
    others = [tree_flatten(rest, is_leaf) for rest in rests]
    for _, other in others:
        if other != spec:
            raise ArgumentError(f"tree_map: expected trees of one shape, got {spec} and {other}")
    return tree_unflatten([func(*each) for each in zip(leaves, *(others_leaves for others_leaves, _ in others))], spec)


def tree_map_only(kinds: Any, func: Callable[[Any], Any], tree: Any) -> Any:
    """func(leaf) at leaves of these types, which may be a tuple; the others stay."""
    return tree_map(lambda leaf: func(leaf) if isinstance(leaf, kinds) else leaf, tree)


def tree_all(pred: Callable[[Any], bool], tree: Any) -> bool:
    """Whether it holds of all leaves."""
    return all(map(pred, tree_leaves(tree)))


def tree_any(pred: Callable[[Any], bool], tree: Any) -> bool:
    """Whether it holds of a leaf."""
    return any(map(pred, tree_leaves(tree)))
