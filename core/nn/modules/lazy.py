"""Modules that learn their sizes from the first input, and the parameters they have until then.

A lazy class inherits `LazyModuleMixin` first, names the class it turns into (`cls_to_become`) and says in
`initialize_parameters(*inputs)` how to make its parameters. A state_dict loaded before the first input decides the
sizes, too.
"""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.creation import empty
from core.errors import GraphError
from core.nn.modules.module import Module
from core.nn.parameter import Buffer, Parameter


class _Uninitialized:
    """A tensor whose shape is not known yet; its dtype and device are."""

    _a: Any

    def materialize(self, shape: tuple[int, ...], device: Any = None, dtype: Any = None) -> None:
        """Become an ordinary tensor of this shape, with whatever was in memory."""
        mine: Any = self
        self._a = empty(*shape, device=device or mine.device, dtype=dtype or mine.dtype)._a
        mine.__class__ = Parameter if isinstance(self, Parameter) else Tensor

    @property
    def shape(self) -> Any:
        raise GraphError(
            "Can't access the shape of an uninitialized parameter or buffer: expected a module that has seen an input; "
            "call it once, or load a state_dict"
        )


class UninitializedParameter(_Uninitialized, Parameter):
    """A parameter whose shape is not known yet."""

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> Any:
        return super().__new__(cls, empty(0, device=device, dtype=dtype), requires_grad)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return "<UninitializedParameter>"

    def __deepcopy__(self, memo: Any) -> Any:
        return memo.setdefault(id(self), type(self)(self._requires_grad, self.device, self.dtype))


class UninitializedBuffer(_Uninitialized, Buffer):
    """A buffer whose shape is not known yet."""

    def __new__(cls, requires_grad: bool = False, device: Any = None, dtype: Any = None,
            persistent: bool = True) -> Any:
        return super().__new__(cls, empty(0, device=device, dtype=dtype), persistent=persistent)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return "<UninitializedBuffer>"

    def __deepcopy__(self, memo: Any) -> Any:
        return memo.setdefault(id(self), type(self)(False, self.device, self.dtype))


def is_lazy(tensor: Any) -> bool:
    """Whether a parameter or buffer has no shape yet."""
    return isinstance(tensor, _Uninitialized)


class LazyModuleMixin:
    """Mixed into a Module, in front of it."""

    cls_to_become: type[Module] | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        me: Any = self
        self._initialize_hook = me.register_forward_pre_hook(LazyModuleMixin._initialize, with_kwargs=True)
        self._load_hook = me._register_load_state_dict_pre_hook(LazyModuleMixin._take_shapes, with_module=True)

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Make the parameters for this input."""
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def has_uninitialized_params(self) -> bool:
        """Whether any parameter or buffer has no shape yet."""
        me: Any = self
        return any(is_lazy(t) for t in [*me._parameters.values(), *me._buffers.values()])

    def _initialize(self: Any, args: Any, kwargs: Any) -> None:
        self.initialize_parameters(*args, **kwargs)
        self._initialize_hook.remove()
        self._load_hook.remove()
        del self._initialize_hook, self._load_hook
        if self.cls_to_become is not None:
            self.__class__ = self.cls_to_become

    def _take_shapes(self: Any, state: Any, prefix: str, *_: Any) -> None:
        for name, t in [*self._parameters.items(), *self._buffers.items()]:
            value = state.get(prefix + name)
            if is_lazy(t) and value is not None and not is_lazy(value):
                t.materialize(tuple(value.shape))
