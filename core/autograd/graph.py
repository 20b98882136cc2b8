"""What a graph keeps, as users may change it: torch.autograd.graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core._tensor import Tensor
from core.engine import Node, mode

__all__ = ["Node", "save_on_cpu", "saved_tensors_hooks"]


class saved_tensors_hooks:
    """Inside of the block every tensor that an op keeps for backward goes through `pack`; backward gets it from `unpack`."""

    def __init__(self, pack_hook: Callable[[Tensor], Any], unpack_hook: Callable[[Any], Tensor]):
        self.hooks = (pack_hook, unpack_hook)

    def __enter__(self) -> None:
        mode.saved_hooks = (*mode.saved_hooks, self.hooks)

    def __exit__(self, *exc: object) -> None:
        mode.saved_hooks = mode.saved_hooks[:-1]


class save_on_cpu(saved_tensors_hooks):
    """What ops keep waits in the memory of the CPU."""

    def __init__(self, pin_memory: bool = False, device_type: str = "cuda"):
        super().__init__(lambda t: (t.device, t.cpu()), lambda packed: packed[1].to(packed[0]))
