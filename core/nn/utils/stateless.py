"""Modules called with other parameters than their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from core.nn.modules.module import Module


@contextlib.contextmanager
def _swapped(module: Module, given: dict[str, Any]) -> Iterator[None]:
    """Inside, the tensors at these paths are others."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path, value in given.items():
            owner_path, _, name = path.rpartition(".")
            owner = module.get_submodule(owner_path)
            room = owner._parameters if name in owner._parameters else owner._buffers
            if name not in room:
                raise KeyError(f"functional_call: {path!r} is no parameter or buffer of {type(module).__name__}")
            before.append((room, name, room[name]))
            room[name] = value
        yield
    finally:
        for room, name, value in reversed(before):
            room[name] = value


def functional_call(
    module: Module, parameters_and_buffers: dict[str, Any] | Sequence[dict[str, Any]], args: Any = None,
    kwargs: Any = None, *,
    tie_weights: bool = True, strict: bool = False,
) -> Any:  # fmt: skip
    """module(*args, **kwargs) with these tensors in place of its own, by path; gradients reach them.

    `tie_weights`: one that the module has under several paths is replaced under all. `strict`: every path must be
    given, and no other.
    """
    given = dict(parameters_and_buffers) if isinstance(parameters_and_buffers, dict) else {}
    if not isinstance(parameters_and_buffers, dict):
        for part in parameters_and_buffers:
            given.update(part)
    mine = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    if strict and set(given) != set(mine):
        missing, unexpected = sorted(set(mine) - set(given)), sorted(set(given) - set(mine))
        raise RuntimeError(
            f"functional_call: expected every parameter and buffer, missing {missing}, unexpected {unexpected}")
    if tie_weights:
        for path, value in list(given.items()):
            for other, tensor in mine.items():
                if other not in given and tensor is mine.get(path):
                    given[other] = value
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    with _swapped(module, given):
        return module(*args, **(kwargs or {}))
