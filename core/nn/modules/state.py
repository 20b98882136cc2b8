"""The state of a Module: its parameters and persistent buffers by path, out and in again.

Contract: what `state_dict` returns shares memory with the module. `load_state_dict` changes nothing where it raises.
"""

from __future__ import annotations

import functools
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from typing import Any

from core._tensor import Tensor
from core.engine import Handle
from core.errors import StateDictError
from core.nn.parameter import Parameter

_IncompatibleKeys = namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])  # type: ignore[name-match]
_EXTRA_STATE_KEY_SUFFIX = "_extra_state"
Expected = dict[str, tuple[Any, str, Any]]  # key -> module, name in it, parameter or buffer


class StateKeeper:
    """Mixed into `Module`; uses nothing of it but these."""

    _version: int
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    _non_persistent_buffers_set: set[str]
    _state_dict_hooks: dict[int, Any]
    _state_dict_pre_hooks: dict[int, Any]
    modules: Callable[..., Any]
    named_modules: Callable[..., Any]

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Parameters and persistent buffers by path, sharing memory with the module."""
        if args:
            destination, prefix, keep_vars = (*args, *(None, "", False)[len(args) :])  # type: ignore[misc]
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        for hook in list(self._state_dict_pre_hooks.values()):
            hook(self, prefix, keep_vars)
        metadata = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = metadata
        for name, p in self._parameters.items():
            if p is not None:
                destination[prefix + name] = p if keep_vars else p.detach()
        for name, b in self._buffers.items():
            if b is not None and name not in self._non_persistent_buffers_set:
                destination[prefix + name] = b if keep_vars else b.detach()
        if type(self).get_extra_state is not StateKeeper.get_extra_state:
            destination[prefix + _EXTRA_STATE_KEY_SUFFIX] = self.get_extra_state()
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in list(self._state_dict_hooks.values()):
            new = hook(self, destination, prefix, metadata)
            destination = destination if new is None else new
        return destination

    def get_extra_state(self) -> Any:
        """What a class wants in its state_dict besides tensors."""
        raise RuntimeError("Reached a code path in Module.get_extra_state() that should never be called.")

    def set_extra_state(self, state: Any) -> None:
        """Take back what `get_extra_state` returned."""
        raise RuntimeError("Reached a code path in Module.set_extra_state() that should never be called.")

    def register_state_dict_pre_hook(self, hook: Any) -> Handle:
        """`hook(module, prefix, keep_vars)` runs before the state_dict is made."""
        return Handle.of(self, "_state_dict_pre_hooks", hook)

    def register_load_state_dict_post_hook(self, hook: Any) -> Handle:
        """`hook(module, incompatible_keys)` runs after loading and may change the lists of keys."""
        return Handle.of(self, "_load_state_dict_post_hooks", hook)

    def register_state_dict_post_hook(self, hook: Any) -> Handle:
        """`hook(module, state_dict, prefix, local_metadata)` runs when the state_dict has been made."""
        return Handle.of(self, "_state_dict_hooks", hook)

    _register_state_dict_hook = register_state_dict_post_hook

    def register_load_state_dict_pre_hook(self, hook: Any) -> Handle:
        """`hook(module, state_dict, prefix, …)` runs before this module loads and may change the state_dict."""
        return Handle.of(self, "_load_state_dict_pre_hooks", functools.partial(hook, self))

    def _register_load_state_dict_pre_hook(self, hook: Any, with_module: bool = False) -> Handle:
        return Handle.of(self, "_load_state_dict_pre_hooks", functools.partial(hook, self) if with_module else hook)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy values into the parameters and buffers of the same path (`assign`: take the tensors themselves).

        Names or shapes that do not fit are one error, which lists them all, and then nothing has been changed;
        `strict=False` lets names pass.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"load_state_dict: expected a dict, got {type(state_dict).__name__}")
        state, missing, errors = OrderedDict(state_dict), [], []  # type: Any, list[str], list[str]
        expected = _expected(self, state, getattr(state_dict, "_metadata", None), strict, missing, errors)
        extras = {
            f"{path}.{_EXTRA_STATE_KEY_SUFFIX}" if path else _EXTRA_STATE_KEY_SUFFIX: module
            for path, module in self.named_modules(remove_duplicate=False)
            if type(module).set_extra_state is not StateKeeper.set_extra_state
        }
        missing += [k for k in [*expected, *extras] if k not in state]
        unexpected = [k for k in state if k not in expected and k not in extras]
        if strict and unexpected:
            errors.append("Unexpected key(s) in state_dict: " + ", ".join(f'"{k}"' for k in unexpected) + ".")
        if strict and missing:
            errors.append("Missing key(s) in state_dict: " + ", ".join(f'"{k}"' for k in missing) + ".")
        errors += _misfits(state, expected)
        if errors:
            raise StateDictError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors))
        _take(state, expected, assign)
        for key, module in extras.items():
            if key in state:
                module.set_extra_state(state[key])
        result = _IncompatibleKeys(missing, unexpected)
        for module in self.modules():
            for hook in list(module._load_state_dict_post_hooks.values()):
                hook(module, result)
        return result

    def _upgrade_state_dict(self, state_dict: dict[str, Any], prefix: str, version: int | None) -> None:
        """Change what an older version of this class saved (None: nobody knows which) into what this one expects."""

    def _load_names(self, prefix: str, expected: Expected) -> None:
        for name, p in self._parameters.items():
            if p is not None:
                expected[prefix + name] = (self, name, p)
        for name, b in self._buffers.items():
            if b is not None and name not in self._non_persistent_buffers_set:
                expected[prefix + name] = (self, name, b)


def _expected(module: Any, state: Any, metadata: Any, strict: bool, missing: list[str], errors: list[str]) -> Expected:
    """What is to be loaded, after all modules' hooks and `_upgrade_state_dict`, which may change the state."""
    expected: Expected = {}
    for path, m in module.named_modules(remove_duplicate=False):
        prefix = path + "." if path else ""
        for hook in list(m._load_state_dict_pre_hooks.values()):
            hook(state, prefix, {}, strict, missing, [], errors)
        version = None if metadata is None else metadata.get(path, {}).get("version")
        m._upgrade_state_dict(state, prefix, version)
        m._load_names(prefix, expected)
    return expected


def _misfits(state: Mapping[str, Any], expected: Expected) -> list[str]:
    """What is said of values that are no tensors, or of another shape."""
    errors = []
    for key, (_, _, mine) in expected.items():
        value: Any = state.get(key)
        if key in state and not isinstance(value, Tensor):
            errors.append(f'"{key}": expected a Tensor, got {type(value).__name__}.')
        elif key in state and value._a.shape != mine._a.shape:
            errors.append(
                f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, "
                f"the shape in current model is {mine.shape}."
            )
    return errors


def _take(state: Mapping[str, Any], expected: Expected, assign: bool) -> None:
    for key, (module, name, mine) in expected.items():
        if key not in state:
            continue
        value = state[key].detach()
        if not assign:
            mine._a[...] = value.to(mine.device)._a.astype(mine._a.dtype, copy=False)
            mine._bump()
        elif name in module._parameters:
            module._parameters[name] = Parameter(value, mine._requires_grad)
        else:
            module._buffers[name] = value
