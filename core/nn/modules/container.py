"""Modules that hold Modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from core.errors import RangeError
from core.nn.modules.module import Module
from core.nn.parameter import Parameter


class _Numbered(Module):
    """Modules under the names "0", "1", …"""

    def _at(self, i: Any) -> str:
        n = len(self._modules)
        i = i.__index__()
        if not -n <= i < n:
            raise RangeError(f"{type(self).__name__}: index {i} is out of range: expected {-n} to {n - 1}")
        return list(self._modules)[i]

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return self._cut(list(self._modules.items())[i])
        return self._modules[self._at(i)]

    def _cut(self, items: list[tuple[str, Any]]) -> Any:
        return type(self)([m for _, m in items])

    def __setitem__(self, i: Any, module: Module) -> None:
        setattr(self, self._at(i), module)

    def __delitem__(self, i: Any) -> None:
        names = list(self._modules)[i] if isinstance(i, slice) else [self._at(i)]
        for name in names:
            del self._modules[name]
        self._renumber(list(self._modules.values()))

    def _renumber(self, modules: list[Any]) -> None:
        self.__dict__["_modules"] = {str(k): m for k, m in enumerate(modules)}

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def append(self, module: Module) -> Any:
        """Add at the end."""
        self.add_module(str(len(self)), module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Add before an index."""
        modules = list(self._modules.values())
        modules.insert(index, module)
        self._renumber(modules)
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add several at the end."""
        for m in list(modules):
            self.append(m)
        return self

    def pop(self, key: int) -> Module:
        """Take one out."""
        module = self[key]
        del self[key]
        return module


class Sequential(_Numbered):
    """Modules called one after the other. Takes modules, or an OrderedDict of named ones."""

    def __init__(self, *args: Any):
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def _cut(self, items: list[tuple[str, Any]]) -> Any:
        return type(self)(OrderedDict(items))

    def __add__(self, other: Sequential) -> Sequential:
        return Sequential(*self, *other)

    def forward(self, input: Any) -> Any:
        for module in self._modules.values():
            input = module(input)
        return input


class ModuleList(_Numbered):
    """A list whose modules are registered."""

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__()
        self.extend(modules or ())

    def __iadd__(self, modules: Iterable[Module]) -> ModuleList:
        return self.extend(modules)

    def __add__(self, modules: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *modules])

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.isdigit()]


class ModuleDict(Module):
    """A dict whose modules are registered."""

    def __init__(self, modules: Any = None):
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Remove all."""
        self._modules.clear()

    def pop(self, key: str) -> Any:
        """Take one out."""
        return self._modules.pop(key)

    def keys(self) -> Any:
        """The names."""
        return self._modules.keys()

    def items(self) -> Any:
        """(name, module) pairs."""
        return self._modules.items()

    def values(self) -> Any:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Any) -> None:
        """Add or replace from a mapping or pairs."""
        for key, module in modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules:
            self[key] = module


class ParameterList(Module):
    """A list whose parameters are registered."""

    def __init__(self, values: Any = None):
        super().__init__()
        self._size = 0
        self.extend(values or ())

    def append(self, value: Any) -> ParameterList:
        """Add at the end; a plain tensor becomes a parameter."""
        setattr(self, str(self._size), value if isinstance(value, Parameter) else Parameter(value))
        self._size += 1
        return self

    def extend(self, values: Any) -> ParameterList:
        """Add several at the end."""
        for v in values:
            self.append(v)
        return self

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return ParameterList(list(self)[i])
        if not -self._size <= i < self._size:
            raise RangeError(f"ParameterList: index {i} is out of range: expected {-self._size} to {self._size - 1}")
        return getattr(self, str(i % self._size))

    def __setitem__(self, i: int, value: Any) -> None:
        setattr(self, str(i % self._size), value if isinstance(value, Parameter) else Parameter(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self._size))


class ParameterDict(Module):
    """A dict whose parameters are registered."""

    def __init__(self, parameters: Any = None):
        super().__init__()
        self.update(parameters or {})

    def __getitem__(self, key: str) -> Any:
        return self._parameters[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value if isinstance(value, Parameter) else Parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._parameters[key]

    def __len__(self) -> int:
        return len(self._parameters)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __contains__(self, key: str) -> bool:
        return key in self._parameters

    def keys(self) -> Any:
        """The names."""
        return self._parameters.keys()

    def items(self) -> Any:
        """(name, parameter) pairs."""
        return self._parameters.items()

    def values(self) -> Any:
        """The parameters."""
        return self._parameters.values()

    def update(self, parameters: Any) -> None:
        """Add or replace from a mapping or pairs."""
        for key, value in parameters.items() if hasattr(parameters, "items") else parameters:
            self[key] = value
