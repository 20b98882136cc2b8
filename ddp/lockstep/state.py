"""What a run consists of between two steps: parameters, buffers, optimizer, scheduler; to keep, to hash, to pack and to take over.

Contract: parameters change only in `optimizer.step`. Buffers may change in a forward; `keep` remembers them, and `taken` puts back what is
remembered. All values pass as host arrays, bit for bit. Not here: which step it is, and what is in a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor
from core.errors import ArgumentError


class State:
    """Of a model, its optimizer, and perhaps a scheduler."""

    def __init__(self, model: Any, optimizer: Any, scheduler: Any):
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.params: list[Any] = [p for p in model.parameters() if p._requires_grad]
        self.buffers: dict[str, Tensor] = dict(model.named_buffers())
        self.kept: dict[str, np.ndarray] = {}  # the buffers as they were when the operation began
        self._names = _checked_names(model, optimizer)

    # -- during an operation ------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Remember the buffers."""
        self.kept = {name: host(b).copy() for name, b in self.buffers.items()}

    def taken(self) -> dict[str, np.ndarray]:
        """The buffers that are not as they were kept, by name; they are put back."""
        changed = {}
        for name, buffer in self.buffers.items():
            value = host(buffer)
            if not same(value, self.kept[name]):
                changed[name] = value.copy()
                store(buffer, self.kept[name])
        return changed

    def give(self, values: Mapping[str, np.ndarray]) -> None:
        """Buffers have these values."""
        for name, value in values.items():
            store(self.buffers[name], value)

    def take_gradients(self) -> list[Any]:
        """The gradients of `params`, which have none then."""
        found = [p._grad for p in self.params]
        self.give_gradients([None] * len(found))
        return found

    def give_gradients(self, gradients: list[Any]) -> None:
        for p, g in zip(self.params, gradients):
            p._grad = g

    # -- between operations -------------------------------------------------------------------------------------------

    def items(self) -> Iterator[tuple[str, Any]]:
        """Named values, for digests."""
        for name, p in self.model.named_parameters():
            yield f"parameter {name}", p
        for name, buffer in self.buffers.items():
            yield f"buffer {name}", buffer
        for p, name in self._names.items():
            if p in self.optimizer.state:
                yield f"optimizer {name}", self.optimizer.state[p]
        yield (
            "optimizer options",
            [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups],
        )
        if self.scheduler is not None:
            yield "scheduler", self.scheduler.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """For `core.save`."""
        return {
            "model": self.model.state_dict(),
            "buffers": dict(self.buffers),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.give({name: host(buffer) for name, buffer in state["buffers"].items()})
        _load_optimizer(self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])


def host(t: Tensor) -> np.ndarray:
    return t._host()


def store(t: Tensor, value: np.ndarray) -> None:
    be = backend.of(t._a)
    t._a[...] = be.from_numpy(value, be.index_of(t._a)) if be.device_type != "cpu" else value
    t._bump()


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Bit for bit."""
    return a is b or np.array_equal(np.ascontiguousarray(a).reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8))


def is_floating(a: np.ndarray) -> bool:
    return a.dtype.kind in "fcV"


def _checked_names(model: Any, optimizer: Any) -> dict[Tensor, str]:
    """The optimizer's parameters, in its order, with their names in the model."""
    names = {id(p): name for name, p in model.named_parameters()}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if not all(id(p) in names for p in params):
        raise ArgumentError(
            "Lockstep: expected an optimizer of the model's parameters only, got one with others; make them part of the model"
        )
    return {p: names[id(p)] for p in params}


def _load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """As `load_state_dict`, but with every state in the dtype that it had: none may be rounded."""
    optimizer.load_state_dict(state)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in state["state"].items():
        mine = optimizer.state[params[number]]
        for key, value in values.items():
            if isinstance(value, Tensor):
                mine[key] = value.detach().to(params[number].device if value.dim() else "cpu", copy=True)
