"""Pruning: parameters with a mask. `weight` becomes `weight_orig`·`weight_mask`, computed before each forward.

A method says in `compute_mask` which of the elements that are left go, too; masks of several calls on one parameter
are combined in a `PruningContainer`. An amount is a share from 0 to 1, or a whole number of elements.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np

from core import backend, rng
from core._tensor import Tensor, wrap
from core.creation import ones_like
from core.errors import ArgumentError
from core.nn.modules.module import Module


def _check_amount(amount: Any) -> None:
    if not isinstance(amount, (int, float, numbers.Real)):
        raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
    if amount < 0 or (not isinstance(amount, numbers.Integral) and amount > 1):
        raise ArgumentError(
            f"amount={amount} should either be a float in the range [0.0, 1.0] or a non-negative integer")


def _count(amount: Any, size: int) -> int:
    """How many of `size` elements an amount is."""
    _check_amount(amount)
    if isinstance(amount, numbers.Integral):
        if amount > size:
            raise ArgumentError(f"amount={amount} should be smaller than the number of parameters to prune={size}")
        return int(amount)
    return round(amount * size)


class BasePruningMethod(ABC):
    """A way to choose what is pruned, and the forward pre-hook that applies the mask."""

    PRUNING_TYPE: str  # "unstructured": of all elements; "structured": of slices; "global": of vectors made of several parameters
    _tensor_name: str

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self._tensor_name, self.apply_mask(module))

    @abstractmethod
    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The new mask, from the importance of the elements and the mask so far."""

    def apply_mask(self, module: Module) -> Tensor:
        """The original times the mask"""
        mask, original = getattr(module, self._tensor_name + "_mask"), getattr(module, self._tensor_name + "_orig")
        return mask.to(original.dtype) * original

    @classmethod
    def apply(cls, module: Module, name: str, *args: Any, importance_scores: Tensor | None = None,
            **kwargs: Any) -> Any:
        """Prune a parameter by this method, after what was pruned before. Returns the method, or the container of
        several.
        """
        found = _hook_of(module, name)
        method: Any = cls(*args, **kwargs)
        method._tensor_name = name
        original = getattr(module, name)
        if importance_scores is not None and importance_scores.shape != original.shape:
            raise ArgumentError(
                f"importance_scores should have the same shape as parameter {name} of {module}, got "
                f"{tuple(importance_scores.shape)}"
            )
        scores = original if importance_scores is None else importance_scores
        if found is not None:
            key, before = found
            del module._forward_pre_hooks[key]
            if not isinstance(before, PruningContainer):
                before = PruningContainer(before)
            before.add_pruning_method(method)
            method = before
            mask = method.compute_mask(scores.detach(), getattr(module, name + "_mask"))
        else:
            mask = method.compute_mask(scores.detach(), ones_like(scores.detach()))
            del module._parameters[name]
            module.register_parameter(name + "_orig", original)
        module.register_buffer(name + "_mask", mask.to(getattr(module, name + "_orig").dtype))
        setattr(module, name, method.apply_mask(module))
        module.register_forward_pre_hook(method)
        return method

    def prune(self, t: Tensor, default_mask: Tensor | None = None, importance_scores: Tensor | None = None) -> Tensor:
        """A tensor with its pruned elements zero, no module involved"""
        scores = t if importance_scores is None else importance_scores
        return t * self.compute_mask(scores, ones_like(t) if default_mask is None else default_mask)

    def remove(self, module: Module) -> None:
        """Make the pruned values the parameter."""
        name = self._tensor_name
        weight = self.apply_mask(module)
        delattr(module, name)
        original = module._parameters.pop(name + "_orig")
        del module._buffers[name + "_mask"]
        assert original is not None
        original.data = weight.detach()
        setattr(module, name, original)


def _hook_of(module: Module, name: str) -> tuple[int, BasePruningMethod] | None:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            return key, hook
    return None


class PruningContainer(BasePruningMethod):
    """Several methods on one parameter, each on what the ones before have left."""

    def __init__(self, *args: BasePruningMethod):
        self._pruning_methods: tuple[BasePruningMethod, ...] = ()
        self._tensor_name = args[0]._tensor_name if args else ""
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: BasePruningMethod) -> None:
        """Add at the end."""
        if self._tensor_name and method._tensor_name != self._tensor_name:
            raise ArgumentError(
                f"Can only add pruning methods acting on the parameter named '{self._tensor_name}', got "
                f"'{method._tensor_name}'"
            )
        self._pruning_methods += (method,)
        self._tensor_name = method._tensor_name

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Any:
        return iter(self._pruning_methods)

    def __getitem__(self, i: int) -> BasePruningMethod:
        return self._pruning_methods[i]

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of the last method, on what is left, combined with the mask so far."""
        method = self._pruning_methods[-1]
        mask = default_mask.to(t.dtype)
        if method.PRUNING_TYPE == "structured":  # slices of which something is left
            dim = method.dim % t.dim()  # type: ignore[attr-defined]
            others = tuple(i for i in range(t.dim()) if i != dim)
            index: Any = (slice(None),) * dim + (np.flatnonzero(mask._host().sum(axis=others) != 0),)
        elif method.PRUNING_TYPE == "unstructured":
            index = np.nonzero(mask._host() == 1)
        elif method.PRUNING_TYPE == "global":
            index = ...
        else:
            raise ArgumentError(
                f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE}; expected unstructured, structured or global")
        be = backend.of(t._a)
        index = tuple(be.from_numpy(i) if isinstance(i, np.ndarray) else i for i in index) if isinstance(index,
            tuple) else index
        new = mask.clone()
        part = method.compute_mask(wrap(t._a[index]), wrap(mask._a[index]))
        new._a[index] = part._a
        return new


class Identity(BasePruningMethod):
    """Prunes nothing; makes the mask."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask


def _without(mask: Tensor, order: np.ndarray) -> Tensor:
    """A copy of the mask with these places of the flat tensor zero."""
    new = mask._host().copy()
    new.reshape(-1)[order] = 0
    return wrap(backend.of(mask._a).from_numpy(new))


class RandomUnstructured(BasePruningMethod):
    """Elements at random."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: Any):
        _check_amount(amount)
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        count = _count(self.amount, t.numel())
        if not count:
            return default_mask.clone()
        u = rng.default_generator.uniform(t.numel(), np.dtype(np.float32))
        return _without(default_mask, np.argsort(-u, kind="stable")[:count])


class L1Unstructured(BasePruningMethod):
    """The elements that are least in absolute value."""

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: Any):
        _check_amount(amount)
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        count = _count(self.amount, t.numel())
        order = np.argsort(np.abs(t._host()).reshape(-1), kind="stable")
        return _without(default_mask, order[:count])


class _Structured(BasePruningMethod):
    PRUNING_TYPE = "structured"
    dim: int
    amount: Any

    def _score(self, slices: np.ndarray) -> np.ndarray:
        """(n, …) -> (n): the slices with the least go"""
        raise NotImplementedError

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        if t.dim() <= 1:
            raise ArgumentError(
                f"Structured pruning can only be applied to multidimensional tensors. Found tensor of shape "
                f"{tuple(t.shape)}")
        slices = np.moveaxis(t._host(), self.dim, 0)
        count = _count(self.amount, len(slices))
        if not count:
            return default_mask.clone()
        order = np.argsort(self._score(slices), kind="stable")[:count]
        new = default_mask._host().copy()
        np.moveaxis(new, self.dim, 0)[order] = 0
        return wrap(backend.of(default_mask._a).from_numpy(new))


class RandomStructured(_Structured):
    """Slices along `dim` at random."""

    def __init__(self, amount: Any, dim: int = -1):
        _check_amount(amount)
        self.amount, self.dim = amount, dim

    def _score(self, slices: np.ndarray) -> np.ndarray:
        return -rng.default_generator.uniform(len(slices), np.dtype(np.float32))


class LnStructured(_Structured):
    """The slices along `dim` whose n-norm is least."""

    def __init__(self, amount: Any, n: Any, dim: int = -1):
        _check_amount(amount)
        self.amount, self.n, self.dim = amount, n, dim

    def _score(self, slices: np.ndarray) -> np.ndarray:
        n = {"fro": 2, "inf": math.inf, "-inf": -math.inf}.get(self.n, self.n)
        return np.linalg.norm(slices.reshape(len(slices), -1), ord=n, axis=1)


class CustomFromMask(BasePruningMethod):
    """What a given mask says."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Tensor):
        self.mask = mask

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        return default_mask * self.mask.to(default_mask.dtype)


# -- functions
# -----------------------------------------------------------------------------------------------------------


def identity(module: Module, name: str) -> Module:
    """Give the parameter a mask of ones. Returns the module."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: Module, name: str, amount: Any) -> Module:
    """Prune elements at random. Returns the module."""
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: Module, name: str, amount: Any, importance_scores: Tensor | None = None) -> Module:
    """Prune the elements that are least in absolute value, or in importance. Returns the module."""
    L1Unstructured.apply(module, name, amount, importance_scores=importance_scores)
    return module


def random_structured(module: Module, name: str, amount: Any, dim: int) -> Module:
    """Prune slices along `dim` at random. Returns the module."""
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(
    module: Module, name: str, amount: Any, n: Any, dim: int, importance_scores: Tensor | None = None
) -> Module:
    """Prune the slices along `dim` whose n-norm is least. Returns the module."""
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: Module, name: str, mask: Tensor) -> Module:
    """Prune what a mask says. Returns the module."""
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]], pruning_method: type[BasePruningMethod], importance_scores: Any = None,
    **kwargs: Any
) -> None:  # fmt: skip
    """Prune several parameters as if they were one, so that the amount is of all together."""
    pairs = list(parameters)
    scores = importance_scores or {}
    tensors = [scores.get((m, name), getattr(m, name)).detach() for m, name in pairs]
    masks = [getattr(m, name + "_mask", ones_like(t)) for (m, name), t in zip(pairs, tensors)]
    flat = [np.concatenate([t._host().reshape(-1) for t in ts]) for ts in (tensors, masks)]
    # through a container, so that what is pruned already does not count
    container = PruningContainer()
    container._tensor_name = "temp"
    method: Any = pruning_method(**kwargs)
    method._tensor_name = "temp"
    if method.PRUNING_TYPE != "unstructured":
        raise TypeError(
            f'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found method {pruning_method} of '
            f'type {method.PRUNING_TYPE}'
        )
    container.add_pruning_method(method)
    final = container.compute_mask(wrap(flat[0]), wrap(flat[1]))._a
    start = 0
    for (m, name), t in zip(pairs, tensors):
        part = final[start : start + t.numel()].reshape(tuple(t.shape))
        custom_from_mask(m, name, wrap(backend.of(t._a).from_numpy(part)))
        start += t.numel()


def remove(module: Module, name: str) -> Module:
    """Make the pruned values the parameter, without a mask. Returns the module."""
    found = _hook_of(module, name)
    if found is None:
        raise ArgumentError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")
    key, hook = found
    hook.remove(module)
    del module._forward_pre_hooks[key]
    return module


def is_pruned(module: Module) -> bool:
    """Whether anything in the module is pruned."""
    return any(
        isinstance(hook, BasePruningMethod)
        for m in module.modules()
        for hook in m._forward_pre_hooks.values()
    )
