"""The Module: parameters, buffers and other Modules under names, and a `forward`.

Contract: assignment registers (`self.w = Parameter(…)`, `self.layer = Linear(…)`); names of nested things are joined
by dots.
Not here: `state_dict` and loading (`state`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from core._tensor import Tensor, wrap
from core.creation import empty_like
from core.engine import Handle
from core.errors import ArgumentError
from core.nn.modules.hooks import (  # noqa: F401  # torch has the hooks on all modules here, too
    KINDS,
    BackwardWatch,
    announced,
    everywhere,
    register,
    register_module_backward_hook,
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from core.nn.modules.state import _EXTRA_STATE_KEY_SUFFIX as _EXTRA_STATE_KEY_SUFFIX  # torch has these here, too
from core.nn.modules.state import StateKeeper
from core.nn.modules.state import _IncompatibleKeys as _IncompatibleKeys
from core.nn.parameter import Buffer, Parameter


class Module(StateKeeper):
    """Base class of all layers and models."""

    training: bool
    call_super_init = False  # of a class that inherits from others, too: pass the arguments on to them
    _version = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if (args or kwargs) and not self.call_super_init:
            got = f"an unexpected keyword argument '{next(iter(kwargs))}'" if kwargs else f"{len(args)} positional arguments"
            raise TypeError(f"{type(self).__name__}.__init__() got {got}; torch.nn.Module takes none")
        fields = self.__dict__
        fields["training"] = True
        fields["_parameters"] = {}
        fields["_buffers"] = {}
        fields["_non_persistent_buffers_set"] = set()
        fields["_modules"] = {}
        fields.update({name: {} for name in KINDS})
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in KINDS:  # kinds of hooks that the pickling version did not know
            self.__dict__.setdefault(name, {})
        self.__dict__.setdefault("_non_persistent_buffers_set", set())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the module computes."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    # -- calling -------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (
            self._forward_pre_hooks
            or self._forward_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
            or everywhere.active
        ):
            return self.forward(*args, **kwargs)
        after = self._hooks("_forward_hooks")
        if not (everywhere._forward_hooks_always_called or self._forward_hooks_always_called):
            return self._call_with_hooks(args, kwargs, after)
        try:
            return self._call_with_hooks(args, kwargs, after)
        except Exception:  # hooks that want to be called in any case; what was raised comes first
            always = {**everywhere._forward_hooks_always_called, **self._forward_hooks_always_called}
            for key, hook, with_kwargs in after:
                if key in always:
                    hook(self, args, kwargs, None) if with_kwargs else hook(self, args, None)
            raise

    def _hooks(self, kind: str) -> list[tuple[int, Any, bool]]:
        """(number, hook, whether it wants the keyword arguments): those of all modules, then this one's."""
        return [
            (key, hook, key in getattr(owner, kind + "_with_kwargs"))
            for owner in (everywhere, self)
            for key, hook in getattr(owner, kind).items()
        ]

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any], after: list[tuple[int, Any, bool]]) -> Any:
        for _, hook, with_kwargs in self._hooks("_forward_pre_hooks"):
            if with_kwargs:
                new = hook(self, args, kwargs)
                if new is not None:
                    args, kwargs = new
            else:
                new = hook(self, args)
                if new is not None:
                    args = new if isinstance(new, tuple) else (new,)
        full = [*everywhere._backward_hooks.values(), *self._backward_hooks.values()]
        pre = [*everywhere._backward_pre_hooks.values(), *self._backward_pre_hooks.values()]
        watch = BackwardWatch(self, full, pre) if full or pre else None
        if watch is not None:
            args = watch.inputs(args)
        result = self.forward(*args, **kwargs)
        for _, hook, with_kwargs in after:
            new = hook(self, args, kwargs, result) if with_kwargs else hook(self, args, result)
            if new is not None:
                result = new
        return watch.outputs(result) if watch is not None else result

    def register_forward_pre_hook(self, hook: Any, *, prepend: bool = False, with_kwargs: bool = False) -> Handle:
        """`hook(module, args)` runs before `forward` and may return new arguments."""
        return register(self, "_forward_pre_hooks", hook, prepend, with_kwargs=with_kwargs)

    def register_forward_hook(
        self, hook: Any, *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> Handle:
        """`hook(module, args, output)` runs after `forward` and may return another output; `always_call`: after an
        error, too.
        """
        return register(self, "_forward_hooks", hook, prepend, with_kwargs=with_kwargs, always_called=always_call)

    def register_full_backward_hook(self, hook: Any, prepend: bool = False) -> Handle:
        """`hook(module, grad_input, grad_output)` runs when the gradients of the inputs are known and may return
        others.
        """
        return register(self, "_backward_hooks", hook, prepend)

    register_backward_hook = register_full_backward_hook

    def register_full_backward_pre_hook(self, hook: Any, prepend: bool = False) -> Handle:
        """`hook(module, grad_output)` runs when the gradients of the outputs are known and may return others."""
        return register(self, "_backward_pre_hooks", hook, prepend)

    # -- names ---------------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        fields = self.__dict__
        if isinstance(value, Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Module):
            _registrable(self, name, "_modules")
            self._modules[name] = announced(self, name, value, "module")
        elif isinstance(value, Buffer):
            self.register_buffer(name, value, value.persistent)
        elif name in fields.get("_parameters", ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as parameter '{name}': expected a Parameter or None"
                )
            self._parameters[name] = None
        elif name in fields.get("_modules", ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as child module '{name}': expected a Module or None"
                )
            self._modules[name] = None
        elif name in fields.get("_buffers", ()):
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"cannot assign '{type(value).__name__}' as buffer '{name}': expected a Tensor or None")
            self._buffers[name] = value
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__
        if "_modules" in fields:  # the last to be made
            if name in (room := fields["_parameters"]) or name in (room := fields["_buffers"]) or name in (room := fields["_modules"]):
                return room[name]
        elif name in ("_modules", "_parameters", "_buffers"):
            raise AttributeError(
                f"{type(self).__name__}: call super().__init__() before assigning or using parameters and modules"
            )
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        for room in (self._parameters, self._buffers, self._modules):
            if name in room:
                del room[name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._parameters, *self._buffers, *self._modules})

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None reserves the name."""
        _registrable(self, name, "_parameters")
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{type(param).__name__}' object to parameter '{name}': expected a Parameter or None"
            )
        if param is not None and param._edge is not None:
            raise ValueError(
                f"cannot assign non-leaf Tensor to parameter '{name}': expected a leaf, got the result of an op"
            )
        self._parameters[name] = announced(self, name, param, "parameter")

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but no parameter; `persistent` ones are part of the state_dict."""
        _registrable(self, name, "_buffers")
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"cannot assign '{type(tensor).__name__}' object to buffer '{name}': expected a Tensor or None"
            )
        self._buffers[name] = announced(self, name, tensor, "buffer")
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a child module; None reserves the name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        if not name or "." in name:
            raise KeyError(f"module name: expected a non-empty string without dots, got {name!r}")
        _registrable(self, name, "_modules")
        self._modules[name] = announced(self, name, module, "module")

    def register_module(self, name: str, module: Module | None) -> None:
        """`add_module` under another name."""
        self.add_module(name, module)

    def get_submodule(self, target: str) -> Module:
        """The module at a dotted path; "" is this one."""
        found: Any = self
        for part in target.split(".") if target else ():
            if part not in found._modules:
                raise AttributeError(
                    f"{type(found).__name__} has no attribute `{part}`; known: {', '.join(found._modules)}"
                )
            found = found._modules[part]
        return found

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put a module at a dotted path; `strict`: only in place of another."""
        path, _, name = target.rpartition(".")
        if not name:
            raise ArgumentError("set_submodule: Cannot set the submodule without a target name!")
        owner = self.get_submodule(path)
        if strict and not hasattr(owner, name):
            raise AttributeError(f"{type(owner).__name__} has no attribute `{name}`")
        if hasattr(owner, name) and not isinstance(getattr(owner, name), Module):
            raise AttributeError(f"`{name}` is not an nn.Module")
        setattr(owner, name, module)

    def get_parameter(self, target: str) -> Any:
        """The parameter at a dotted path."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        if name not in owner._parameters:
            raise AttributeError(
                f"{type(owner).__name__} has no attribute `{name}`; known: {', '.join(owner._parameters)}"
            )
        return owner._parameters[name]

    def get_buffer(self, target: str) -> Any:
        """The buffer at a dotted path."""
        path, _, name = target.rpartition(".")
        owner = self.get_submodule(path)
        if name not in owner._buffers:
            raise AttributeError(f"`{name}` is not a buffer; known: {', '.join(owner._buffers)}")
        return owner._buffers[name]

    # -- walking -------------------------------------------------------------------------------------------------------

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(path, module) for this module and all below it, each once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (m for _, m in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) for the modules right below."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The modules right below."""
        return (m for _, m in self.named_children())

    def _named_members(
        self, room: str, prefix: str, recurse: bool, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate) if recurse else [(prefix, self)]
        ):
            for name, value in module.__dict__[room].items():
                if value is None or (remove_duplicate and id(value) in seen):
                    continue
                seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter), a shared parameter once."""
        return self._named_members("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, a shared one once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(path, buffer)"""
        return self._named_members("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    # -- changing ------------------------------------------------------------------------------------------------------

    def apply(self, fn: Callable[[Module], Any]) -> Any:
        """Call fn on every module below and then on this one. Returns this module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Replace the contents of every parameter, its gradient, and every buffer by fn of it."""
        if recurse:
            for module in self.children():
                module._apply(fn)
        for p in self._parameters.values():
            if p is not None:
                p._a = fn(wrap(p._a))._a
                if p._grad is not None:
                    p._grad._a = fn(wrap(p._grad._a))._a
        for name, b in self._buffers.items():
            if isinstance(b, Buffer):  # stays one: its class may say more, as that of a buffer without a shape
                b._a = fn(wrap(b._a))._a
            elif b is not None:
                self._buffers[name] = fn(b)
        return self

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device; a floating dtype converts the floating parameters and buffers. In place; returns this
        module.
        """

        def convert(t: Tensor) -> Tensor:
            moved = t.to(*args, **kwargs)
            floating = t.dtype.is_floating_point or t.dtype.is_complex
            return moved if floating or moved.dtype is t.dtype else t.to(moved.device)

        return self._apply(convert)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Any:
        """Move to a device without copying: the contents are whatever is in the new memory."""
        return self._apply(lambda t: empty_like(t, device=device), recurse)

    def cpu(self) -> Any:
        """Move to the CPU."""
        return self._apply(lambda t: t.cpu())

    def cuda(self, device: Any = None) -> Any:
        """Move to a GPU."""
        return self._apply(lambda t: t.cuda(device))

    def type(self, dst_type: Any) -> Any:
        """Convert all parameters and buffers."""
        return self._apply(lambda t: t.type(dst_type))

    def _cast(self, name: str) -> Any:
        return self._apply(lambda t: getattr(t, name)() if t.dtype.is_floating_point else t)

    def float(self) -> Any:
        """Floating parameters and buffers as float32."""
        return self._cast("float")

    def double(self) -> Any:
        """Floating parameters and buffers as float64."""
        return self._cast("double")

    def half(self) -> Any:
        """Floating parameters and buffers as float16."""
        return self._cast("half")

    def bfloat16(self) -> Any:
        """Floating parameters and buffers as bfloat16."""
        return self._cast("bfloat16")

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        """Nothing to do: there is no compiler. Returns this module, so that scripts run."""
        return self

    def train(self, mode: bool = True) -> Any:
        """Training mode (dropout drops, batch norm learns) or not, here and below."""
        if not isinstance(mode, bool):
            raise ArgumentError(f"training mode is expected to be boolean, got {mode!r}")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Any:
        """Evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Whether the parameters want gradients."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zero."""
        for p in self.parameters():
            if set_to_none:
                p._grad = None
            elif p._grad is not None:
                p._grad = p._grad.detach()
                p._grad.zero_()

    def share_memory(self) -> Any:
        """Move parameters and buffers to memory that other processes see; see `core.multiprocessing.sharing`."""
        for t in (*self.parameters(), *self.buffers()):
            t.share_memory_()
        return self

    # -- looks ---------------------------------------------------------------------------------------------------------

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What stands between the parentheses in the printed module."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr().split("\n") if self.extra_repr() else []
        children = [f"({name}): " + repr(m).replace("\n", "\n  ") for name, m in self._modules.items()]
        lines = extra + children
        if not lines:
            return f"{self._get_name()}()"
        if len(extra) == 1 and not children:
            return f"{self._get_name()}({extra[0]})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


def _registrable(module: Module, name: str, room: str) -> None:
    """Check that a name may be registered, and take it away from wherever it is now."""
    fields = module.__dict__
    if "_modules" not in fields:
        kind = {"_modules": "module", "_parameters": "parameter", "_buffers": "buffer"}[room]
        raise AttributeError(f"cannot assign {kind} before Module.__init__() call; call super().__init__() first")
    if not isinstance(name, str) or not name or "." in name:
        raise KeyError(f"name: expected a non-empty string without dots, got {name!r}")
    for other in ("_parameters", "_buffers", "_modules"):
        if other != room:
            fields[other].pop(name, None)
    if name in fields:
        del fields[name]
    elif hasattr(type(module), name) and name not in fields[room]:
        raise KeyError(f"attribute '{name}' already exists")
