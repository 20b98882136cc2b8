"""Tensors that a Module owns."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor


class Parameter(Tensor):
    """A tensor that becomes a parameter of the Module it is assigned to. Requires grad unless told otherwise."""

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> Any:
        self = object.__new__(cls)
        self._a = Tensor()._a if data is None else data._a
        if requires_grad:
            self.requires_grad_()
        return self


class Buffer(Tensor):
    """A tensor that becomes a buffer of the Module it is assigned to; `persistent` ones are part of the state_dict."""

    def __new__(cls, data: Any = None, *, persistent: bool = True) -> Any:
        self = object.__new__(cls)
        self._a = Tensor()._a if data is None else data._a
        self.persistent = persistent
        return self
