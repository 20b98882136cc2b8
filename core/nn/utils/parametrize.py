"""Parameters computed from others: `register_parametrization(layer, "weight", Symmetric())` makes layer.weight =
Symmetric()(original).

What is computed from moves to `layer.parametrizations.weight.original`; parametrizations registered later run on the
result. Assigning to the parameter goes backwards through `right_inverse`. The layer gets a class of its own, in which
the parameter is a property.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from core._tensor import Tensor, _grad_mode
from core.errors import ArgumentError, ShapeError
from core.nn.modules.container import ModuleDict, ModuleList
from core.nn.modules.module import Module
from core.nn.parameter import Parameter

_cache_depth = 0
_cache: dict[tuple[int, str], Any] = {}


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Inside, each parametrized tensor is computed once."""
    global _cache_depth
    _cache_depth += 1
    try:
        yield
    finally:
        _cache_depth -= 1
        if not _cache_depth:
            _cache.clear()


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, and its `original` (or `original0`, `original1`, …)."""

    def __init__(self, modules: Any, original: Tensor, unsafe: bool = False):
        if not modules:
            raise ArgumentError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        new: Any = original
        with _grad_mode(False):
            for m in reversed(list(self)):
                if hasattr(m, "right_inverse"):
                    new = _inverted(m, new)
        self.is_tensor = isinstance(new, Tensor)
        if self.is_tensor:
            _keep(self, "original", original, new)
            self.ntensors = 1
        else:
            for i, part in enumerate(new):
                _keep(self, f"original{i}", original, part)
            self.ntensors = len(new)
        if not unsafe:
            got = self()
            if not isinstance(got, Tensor):
                raise ArgumentError(f"A parametrization must return a tensor. Got {type(got).__name__}.")
            if got.dtype != original.dtype or got.shape != original.shape:
                raise ShapeError(
                    "Registering a parametrization may not change the dtype or shape of the tensor, unless the "
                    "`unsafe` flag is enabled: "
                    f"expected {original.dtype} {tuple(original.shape)}, got {got.dtype} {tuple(got.shape)}"
                )

    def right_inverse(self, value: Tensor) -> None:
        """Set the original so that the result is this value."""
        with _grad_mode(False):
            new: Any = value
            for m in reversed(list(self)):
                if not hasattr(m, "right_inverse"):
                    raise ArgumentError(
                        f"parametrization {type(m).__name__} does not implement right_inverse, so the parameter "
                        f"cannot be assigned to"
                    )
                new = _inverted(m, new)
            for mine, part in zip(self._originals(), [new] if self.is_tensor else new):
                mine.data = part.detach().clone()

    def _originals(self) -> list[Any]:
        return [self.original] if self.is_tensor else [getattr(self, f"original{i}") for i in range(self.ntensors)]

    def forward(self) -> Any:
        first, *rest = self
        y = first(*self._originals())
        for m in rest:
            y = m(y)
        return y


def _inverted(parametrization: Module, value: Any) -> Any:
    try:
        return parametrization.right_inverse(value)
    except NotImplementedError:
        return value


def _keep(owner: Module, name: str, like: Tensor, value: Tensor) -> None:
    """Register a value as what the tensor was: a parameter or a buffer."""
    if isinstance(like, Parameter):
        if value is not like:
            value = Parameter(value.detach(), like.requires_grad)
        owner.register_parameter(name, value)  # type: ignore[arg-type]
    else:
        owner.register_buffer(name, value)


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether the module, or this tensor of it, is parametrized."""
    found = module.__dict__.get("_modules", {}).get("parametrizations")
    if not isinstance(found, ModuleDict):
        return False
    return len(found) > 0 if tensor_name is None else tensor_name in found


def _give_own_class(module: Module) -> None:
    cls: Any = type(module)

    def deepcopy(self: Any, memo: Any) -> Any:
        found = memo.get(id(self))
        if found is None:
            found = memo[id(self)] = object.__new__(type(self))
            found.__dict__ = copy.deepcopy(self.__dict__, memo)
        return found

    def no_pickle(self: Any) -> Any:
        raise RuntimeError(
            "Serialization of parametrized modules is only supported through state_dict(); use "
            "remove_parametrizations() first"
        )

    module.__class__ = type(f"Parametrized{cls.__name__}", (cls,), {"__deepcopy__": deepcopy,
        "__getstate__": no_pickle})


def _add_property(module: Module, name: str) -> None:
    def get(self: Any) -> Any:
        key = (id(self), name)
        if not _cache_depth:
            return self.parametrizations[name]()
        if key not in _cache:
            _cache[key] = self.parametrizations[name]()
        return _cache[key]

    def put(self: Any, value: Any) -> None:
        self.parametrizations[name].right_inverse(value)

    setattr(type(module), name, property(get, put))


def register_parametrization(module: Module, tensor_name: str, parametrization: Module, *,
        unsafe: bool = False) -> Module:
    """Compute a parameter or buffer of the module from another by a parametrization from now on. Returns the module."""
    parametrization.train(module.training)
    if is_parametrized(module, tensor_name):
        known: Any = module.parametrizations[tensor_name]
        if not unsafe:
            before = getattr(module, tensor_name)
            after = parametrization(before)
            if not isinstance(after, Tensor) or after.shape != before.shape or after.dtype != before.dtype:
                raise ShapeError(
                    "A parametrization may not change the dtype or shape of the tensor, unless the `unsafe` flag is "
                    "enabled")
        if hasattr(parametrization, "right_inverse"):
            with _grad_mode(False):
                value = getattr(module, tensor_name)
                known.right_inverse(_inverted(parametrization, value))
        known.append(parametrization)
        known.unsafe |= unsafe
        return module
    if tensor_name not in module._parameters and tensor_name not in module._buffers:
        raise ArgumentError(
            f"module '{type(module).__name__}' does not have a parameter, a buffer, or a parametrized element with "
            f"name '{tensor_name}'"
        )
    original = getattr(module, tensor_name)
    made = ParametrizationList([parametrization], original, unsafe)
    delattr(module, tensor_name)
    if not is_parametrized(module):
        _give_own_class(module)
        module.parametrizations = ModuleDict()
    _add_property(module, tensor_name)
    module.parametrizations.__dict__["_modules"][tensor_name] = made
    return module


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make the tensor an ordinary one again: its computed value, or with `leave_parametrized=False` the original.
    Returns the module.
    """
    if not is_parametrized(module, tensor_name):
        raise ArgumentError(f"Module {type(module).__name__} does not have a parametrization on {tensor_name}")
    known: Any = module.parametrizations[tensor_name]
    if not leave_parametrized and not known.is_tensor:
        raise ArgumentError(
            "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a "
            "sequence of tensors."
        )
    original = known._originals()[0]
    if leave_parametrized:
        with _grad_mode(False):
            value = getattr(module, tensor_name).detach()
        if known.is_tensor:
            original.data = value
        else:
            original = Parameter(value, original.requires_grad) if isinstance(original, Parameter) else value
    delattr(type(module), tensor_name)
    del module.parametrizations[tensor_name]
    if not is_parametrized(module):
        del module._modules["parametrizations"]
        module.__class__ = type(module).__bases__[0]
    if isinstance(original, Parameter):
        module.register_parameter(tensor_name, original)
    else:
        module.register_buffer(tensor_name, original)
    return module


def type_before_parametrizations(module: Module) -> type:
    """The module's class as it was before."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(from_module: Module, to_module: Module,
        tensor_name: str | None = None) -> Module:
    """Give another module copies of the parametrizations, and the same originals. Returns it."""
    if not is_parametrized(from_module):
        return to_module
    names = list(from_module.parametrizations.keys()) if tensor_name is None else [tensor_name]
    for name in names:
        known: Any = from_module.parametrizations[name]
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name).detach()))
        for m in known:
            register_parametrization(to_module, name, m, unsafe=known.unsafe)
        for mine, theirs in zip(to_module.parametrizations[name]._originals(), known._originals()):
            mine.data = theirs.data
    return to_module
