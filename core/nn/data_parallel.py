"""DataParallel over one device: the wrapper that scripts expect, with their model as `.module`. It splits nothing."""

from __future__ import annotations

from typing import Any

from core.errors import ArgumentError
from core.nn.modules.module import Module


def _one_device(device_ids: Any) -> None:
    if device_ids is not None and len(device_ids) > 1:
        raise ArgumentError(
            f"DataParallel: expected one device, got device_ids {list(device_ids)}; use ddp.DistributedDataParallel, "
            f"started by ddprun"
        )


class DataParallel(Module):
    """Calls `module`; names in its state_dict begin with "module."."""

    def __init__(self, module: Module, device_ids: Any = None, output_device: Any = None, dim: int = 0):
        super().__init__()
        _one_device(device_ids)
        self.module, self.dim = module, dim
        self.device_ids = list(device_ids or [])
        self.output_device = output_device

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return self.module(*inputs, **kwargs)


def data_parallel(
    module: Module, inputs: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0,
    module_kwargs: Any = None
) -> Any:  # fmt: skip
    """Call the module on one device."""
    _one_device(device_ids)
    return module(*(inputs if isinstance(inputs, tuple) else (inputs,)), **(module_kwargs or {}))
