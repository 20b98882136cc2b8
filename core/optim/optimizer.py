"""The Optimizer: parameter groups, state, and the step over them.

A member writes `init(p, group)`, the state of a new parameter, and `update(be, x_, g, state, group)`, the rule for one
parameter on raw arrays. Everything else is here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from core import backend, engine
from core._tensor import Tensor, _grad_mode, wrap
from core.backend.base import Backend
from core.engine import Handle
from core.errors import ArgumentError, DTypeError, StateDictError


class _Required:
    def __repr__(self) -> str:
        return "<required parameter>"


required: Any = _Required()
_PLAIN = {bool, int, float, str, list, tuple, type(None)}  # types of options; anything else may be a Tensor


class Optimizer:
    """Base class of all optimizers."""

    takes_complex = False  # whether the rule is right for complex numbers as it is written
    _opt_called = False  # schedulers ask whether a step came first; PyTorch's name
    _pre_hooks: dict[int, Any] | None = None
    _post_hooks: dict[int, Any] | None = None

    def __init__(self, params: Any, defaults: dict[str, Any]):
        if isinstance(params, Tensor):
            raise DTypeError(
                "optimizer: params argument given to the optimizer should be an iterable of Tensors or dicts, got a "
                "Tensor"
            )
        self.defaults = defaults
        self.state: Any = defaultdict(dict)  # parameter -> its state, a plain dict
        self.param_groups: list[dict[str, Any]] = []
        groups = list(params)
        if not groups:
            raise ArgumentError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; what is not given is the default."""
        params = param_group["params"]
        if isinstance(params, set):
            raise DTypeError(
                "optimizer: expected parameters in an ordered collection, got a set, whose order changes between runs"
            )
        params = [params] if isinstance(params, Tensor) else list(params)
        if params and isinstance(params[0], tuple):  # named_parameters()
            param_group = {**param_group, "param_names": [n for n, _ in params]}
            params = [p for _, p in params]
        for p in params:
            if not isinstance(p, Tensor):
                raise DTypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}")
            if p.dtype.is_complex and not self.takes_complex:
                raise DTypeError(
                    f"{type(self).__name__}: expected real parameters, got {p.dtype}; give real and imaginary parts"
                )
            if not p.is_leaf:
                raise ArgumentError("can't optimize a non-leaf Tensor")
        known = {id(p) for g in self.param_groups for p in g["params"]}
        ids = [id(p) for p in params]
        if known & set(ids):
            raise ArgumentError("some parameters appear in more than one parameter group")
        if len(set(ids)) != len(ids):
            raise ArgumentError("optimizer contains a parameter group with duplicate parameters")
        group = {**self.defaults, **param_group, "params": params}
        for name, value in group.items():
            if value is required:
                raise ArgumentError(f"parameter group didn't specify a value of required optimization parameter {name}")
        self.param_groups.append(group)

    # -- the rule, written by members ----------------------------------------------------------------------------------

    def init(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter at its first step."""
        return {}

    def update(self, be: Backend, x_: Any, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step: change the array x_ in place, given its gradient g, which must stay as it is."""
        raise NotImplementedError

    # -- the step ------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient. `closure` computes the loss anew and returns it."""
        if self._pre_hooks:
            for hook in list(self._pre_hooks.values()):
                hook(self, (closure,), {})
        loss = None
        if closure is not None:
            with _grad_mode(True):
                loss = closure()
        self._opt_called = True
        for group in self.param_groups:
            params = _stepped_at_once(self, group) if "cuda" in backend._open else group["params"]
            if params and not _PLAIN.issuperset(map(type, group.values())):  # an lr that is a Tensor
                group = {k: v.item() if isinstance(v, Tensor) else v for k, v in group.items()}
            if params:
                self.step_group(params, group)
        if self._post_hooks:
            for hook in list(self._post_hooks.values()):
                hook(self, (closure,), {})
        return loss

    def step_group(self, params: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Update those of a group's parameters that have a gradient, one by one."""
        for p in engine.each(params):
            if p._grad is not None:
                state = self.state.get(p) or self.init(p, group)
                g = p._grad._a
                self.update(backend.of(p._a), p._a, -g if group.get("maximize") else g, state, group)
                if state:
                    self.state[p] = state
                p._bump()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or set them to zero."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p._grad = None
                elif p._grad is not None:
                    p._grad = p._grad.detach()
                    p._grad.zero_()

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> Handle:
        """`hook(optimizer, args, kwargs)` runs before each step."""
        return Handle.of(self, "_pre_hooks", hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> Handle:
        """`hook(optimizer, args, kwargs)` runs after each step."""
        return Handle.of(self, "_post_hooks", hook)

    # -- state ---------------------------------------------------------------------------------------------------------

    def _numbers(self) -> dict[int, int]:
        return {id(p): i for i, p in enumerate(p for g in self.param_groups for p in g["params"])}

    def state_dict(self) -> dict[str, Any]:
        """{"state": by number of the parameter, "param_groups": options, with numbers for parameters}. Shares the
        state's memory."""
        number = self._numbers()
        groups = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": [number[id(p)] for p in g["params"]]}
            for g in self.param_groups
        ]
        state = {number[id(p)] if isinstance(p, Tensor) else p: s for p, s in self.state.items()}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state. Group sizes that differ are an error, and then nothing has been changed."""
        groups = state_dict["param_groups"]
        mine, theirs = [len(g["params"]) for g in self.param_groups], [len(g["params"]) for g in groups]
        if len(mine) != len(theirs):
            raise StateDictError(
                f"loaded state dict has a different number of parameter groups: expected {len(mine)}, got {len(theirs)}"
            )
        if mine != theirs:
            raise StateDictError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"expected {mine}, got {theirs}"
            )
        by_number = dict(
            zip((i for g in groups for i in g["params"]), (p for g in self.param_groups for p in g["params"]))
        )
        state: Any = defaultdict(dict)
        for key, s in state_dict["state"].items():
            p = by_number.get(key)
            state[key if p is None else p] = (
                {k: _fitted(v, p, k) for k, v in s.items()} if p is not None else deepcopy(s)
            )
        self.state = state
        for g, theirs_g in zip(self.param_groups, groups):
            params = g["params"]
            g.update(deepcopy({k: v for k, v in theirs_g.items() if k != "params"}))
            g["params"] = params

    def __repr__(self) -> str:
        lines = []
        for i, g in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {k}: {g[k]}" for k in sorted(g) if k != "params"]
        return f"{type(self).__name__} (\n" + "\n".join(lines) + "\n)"

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}


# what rules keep on the host in float32; PyTorch casts all but the first when it loads, and goes on with other digits
_SCALARS = ("step", "eta", "mu", "mu_product")


def _fitted(value: Any, p: Tensor, key: str) -> Any:
    """A state tensor on its parameter's device and, if floating, in its dtype; scalars stay as they were: a copy."""
    if not isinstance(value, Tensor):
        return deepcopy(value)
    if key not in _SCALARS and p.dtype.is_floating_point and value.dtype.is_floating_point:
        return value.detach().to(device=p.device, dtype=p.dtype, copy=True)
    return value.detach().clone()


def _stepped_at_once(optimizer: Optimizer, group: dict[str, Any]) -> list[Tensor]:
    """Let the GPU step what it can by one launch; returns the parameters that are left."""
    from core.optim import fused

    return fused.step(optimizer, group)


def zeros_like(p: Tensor) -> Tensor:
    """State of the parameter's shape, dtype and device."""
    return wrap(backend.of(p._a).xp.zeros_like(p._a))


def counter() -> Tensor:
    """A step count, as PyTorch keeps it: on the host, in float32."""
    return wrap(np.zeros((), dtype=np.float32))


def check(name: str, **values: Any) -> None:
    """Options that must not be negative; betas below 1."""
    for key, value in values.items():
        for v in value if isinstance(value, tuple) else (value,):
            if not v >= 0:
                raise ArgumentError(f"{name}: Invalid {key}: expected a number >= 0, got {value}")
            if key == "betas" and v >= 1:
                raise ArgumentError(f"{name}: Invalid betas: expected numbers in [0, 1), got {value}")
