"""Hooks of modules: what is called before and after them and with their gradients, on one module or on all.

Not here: when they run (`module`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from core._tensor import Tensor, wrap
from core.engine import Handle

if TYPE_CHECKING:
    from core.nn.modules.module import Module

# kinds of hooks: dicts by the handle's number, as programs that look into torch's find them. The last three are notes about
# hooks: which want the keyword arguments, which want to be called after an error, too
KINDS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
    "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called",
)  # fmt: skip


class Everywhere:
    """The hooks of all modules, and `active` once there has been one: a call without hooks looks at nothing else."""

    active = False

    def __init__(self) -> None:
        self._registration_hooks: dict[int, Any] = {}
        self.__dict__.update({name: {} for name in KINDS})

    def calls(self) -> bool:
        """Whether there is one now that a call of a module runs."""
        return self.active and any(getattr(self, name) for name in KINDS[:4])


everywhere = Everywhere()


def announced(module: Module, name: str, value: Any, kind: str) -> Any:
    """What is about to be registered, after the hooks on registration have seen it; they may return another."""
    for wanted, hook in list(everywhere._registration_hooks.values()):
        if wanted == kind and value is not None:
            new = hook(module, name, value)
            value = value if new is None else new
    return value


def register(owner: Module | Everywhere, attribute: str, hook: Any, prepend: bool = False, **notes: bool) -> Handle:
    handle = Handle.of(owner, attribute, hook)
    for note, holds in notes.items():
        if holds:
            getattr(owner, f"{attribute}_{note}")[handle.id] = True
    if prepend:
        hooks = handle.hooks
        others = {k: v for k, v in hooks.items() if k != handle.id}
        hooks.clear()
        hooks[handle.id] = hook
        hooks.update(others)
    return handle


# -- hooks on all modules ------------------------------------------------------------------------------------------------


def _register_everywhere(attribute: str, hook: Any, **notes: bool) -> Handle:
    everywhere.active = True
    return register(everywhere, attribute, hook, **notes)


def register_module_forward_pre_hook(hook: Any) -> Handle:
    """`hook(module, args)` runs before `forward` of every module."""
    return _register_everywhere("_forward_pre_hooks", hook)


def register_module_forward_hook(hook: Any, *, with_kwargs: bool = False, always_call: bool = False) -> Handle:
    """`hook(module, args, output)` runs after `forward` of every module."""
    return _register_everywhere("_forward_hooks", hook, with_kwargs=with_kwargs, always_called=always_call)


def register_module_full_backward_hook(hook: Any) -> Handle:
    """`hook(module, grad_input, grad_output)` runs when the gradients of the inputs of any module are known."""
    return _register_everywhere("_backward_hooks", hook)


def register_module_full_backward_pre_hook(hook: Any) -> Handle:
    """`hook(module, grad_output)` runs when the gradients of the outputs of any module are known."""
    return _register_everywhere("_backward_pre_hooks", hook)


register_module_backward_hook = register_module_full_backward_hook


def register_module_parameter_registration_hook(hook: Any) -> Handle:
    """`hook(module, name, parameter)` runs when any module gets a parameter, and may return another."""
    return Handle.of(everywhere, "_registration_hooks", ("parameter", hook))


def register_module_buffer_registration_hook(hook: Any) -> Handle:
    """`hook(module, name, buffer)` runs when any module gets a buffer, and may return another."""
    return Handle.of(everywhere, "_registration_hooks", ("buffer", hook))


def register_module_module_registration_hook(hook: Any) -> Handle:
    """`hook(module, name, submodule)` runs when any module gets a child, and may return another."""
    return Handle.of(everywhere, "_registration_hooks", ("module", hook))


# -- backward hooks ------------------------------------------------------------------------------------------------------


class BackwardWatch:
    """One call of a module with backward hooks: identity functions at its inputs and outputs see the gradients pass."""

    def __init__(self, module: Module, full: list[Any], pre: list[Any]):
        self.module = module
        self.full = full
        self.pre = pre
        self.grad_output: tuple[Any, ...] = ()
        self.watching_inputs = False

    def inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.positions = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a._requires_grad]
        self.count = len(args)
        if not self.positions or not self.full:
            return args
        self.watching_inputs = True
        passed = _pass(lambda *gs: self._at_inputs(gs), *(args[i] for i in self.positions))
        new = list(args)
        for i, t in zip(self.positions, passed):
            new[i] = t
        return tuple(new)

    def outputs(self, result: Any) -> Any:
        many = isinstance(result, (tuple, list))
        outs = list(result) if many else [result]
        at = [i for i, t in enumerate(outs) if isinstance(t, Tensor) and t._requires_grad]
        if not at:
            return result
        for i, t in zip(at, _pass(lambda *gs: self._at_outputs(gs), *(outs[i] for i in at))):
            outs[i] = t
        return type(result)(outs) if many else outs[0]

    def _at_outputs(self, gs: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in self.pre:
            new = hook(self.module, gs)
            if new is not None:
                gs = new if isinstance(new, tuple) else (new,)
        self.grad_output = gs
        if not self.watching_inputs:
            for hook in self.full:
                hook(self.module, (None,) * self.count, gs)
        return gs

    def _at_inputs(self, gs: tuple[Any, ...]) -> tuple[Any, ...]:
        for hook in self.full:
            grad_input: list[Any] = [None] * self.count
            for i, g in zip(self.positions, gs):
                grad_input[i] = g
            new = hook(self.module, tuple(grad_input), self.grad_output)
            if new is not None:
                new = new if isinstance(new, tuple) else (new,)
                gs = tuple(new[i] for i in self.positions)
        return gs


def _pass(on_gradients: Callable[..., Any], *tensors: Tensor) -> tuple[Any, ...]:
    """The tensors, unchanged; their gradients pass through `on_gradients` together."""
    from core.autograd.function import Function

    class Pass(Function):
        @staticmethod
        def forward(ctx: Any, *xs: Tensor) -> tuple[Tensor, ...]:
            return tuple(wrap(x._a) for x in xs)

        @staticmethod
        def backward(ctx: Any, *gs: Any) -> Any:
            return on_gradients(*gs)

    return Pass.apply(*tensors)
