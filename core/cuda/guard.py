"""Several GPUs in one process: work on an array is done on its own GPU, on the stream that is current there, as in torch.

CuPy computes on the current device, wherever its operands lie. So when arrays come to lie on a second GPU, what computes is wrapped, for
good: forward passes and gradient rules of all ops, kernels of the backend, methods of tensors, functions of tensors. Each then makes the
device of its first array the current one for as long as it runs. Operands of an op on two devices are an error. A process that uses one
GPU pays nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from types import FunctionType
from typing import Any

from core import backend, engine
from core._array import ArrayHolder
from core._tensor import Tensor
from core.errors import DeviceError
from core.ops import op as _op

# methods of the backend that name their device themselves, or take no array
_FREE = set(
    "made from_numpy copied index_of count current event synchronize at nccl pinned pinned_empty is_pinned using".split()
)
# methods and functions of tensors that speak of the current device, or of several
_FREE_OF_TENSORS = {"to", "cuda", "cpu", "backward", "data_parallel"}
# whose functions work on arrays
_ROOMS = ("core.functions", "core.nn.functional", "core.nn.init", "core.nn.utils", "core.fft", "core.linalg")
installed: list[tuple[Any, str, Any]] = []  # what was wrapped: (where, name, as it was)


def _index(be: Any, values: Iterable[Any]) -> int | None:
    """Where the first array lies; None if there is none."""
    for v in values:
        if type(v) is be.array_type:
            return int(v.data.device_id)
        if type(v) in (list, tuple):
            found = _index(be, v)
            if found is not None:
                return found
    return None


def _on(be: Any, index: int | None, f: Callable[..., Any], /, *args: Any, **params: Any) -> Any:
    """f(…) with that device as the current one."""
    if index is None or index == be.xp.cuda.runtime.getDevice():
        return f(*args, **params)
    with be.xp.cuda.Device(index):
        return f(*args, **params)


def _one_device(name: str, be: Any, arrays: Iterable[Any]) -> int | None:
    found = sorted({int(a.data.device_id) for a in arrays if type(a) is be.array_type})
    if len(found) > 1:
        raise DeviceError(
            f"{name}: Expected all tensors to be on the same device, but found at least two devices, cuda:{found[0]} and cuda:{found[1]}! "
            "Move them with .to(device)"
        )
    return found[0] if found else None


def _forward(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)  # the signature is read
    def forward(be: Any, *args: Any, **params: Any) -> Any:
        if be.device_type != "cuda":
            return plain(be, *args, **params)
        return _on(be, _one_device(name, be, args), plain, be, *args, **params)

    forward.guards = plain  # type: ignore[attr-defined]
    return forward


def _rule(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def rule(F: Any, g: Any, *values: Any) -> Any:
        be = getattr(F, "_be", None)  # none where a graph of the gradient is wanted: then the ops guard themselves
        if be is None or be.device_type != "cuda":
            return plain(F, g, *values)
        return _on(be, _index(be, (g,)), plain, F, g, *values)

    rule.guards = plain  # type: ignore[attr-defined]
    return rule


def _kernel(be: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def kernel(*args: Any, **params: Any) -> Any:
        return _on(be, _index(be, args), plain, *args, **params)

    return kernel


def _method(be: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def method(self: Any, *args: Any, **params: Any) -> Any:
        d = self.__dict__
        return _on(be, _index(be, (d.get("_a", d.get("_inside")),)), plain, self, *args, **params)

    return method


def _function(be: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def function(*args: Any, **params: Any) -> Any:
        arrays = (a.__dict__.get("_a", a.__dict__.get("_inside")) for a in args if isinstance(a, Tensor))
        return _on(be, _index(be, arrays), plain, *args, **params)

    return function


def _filled(be: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Zeros in the place of gradients that did not come, beside those that did."""

    @functools.wraps(plain)
    def filled(node: Any, grads: list[Any], create_graph: bool) -> list[Any]:
        return _on(
            be, _index(be, (g._a if isinstance(g, Tensor) else g for g in grads)), plain, node, grads, create_graph
        )

    return filled


def _each(be: Any) -> Callable[[Iterable[Any]], Iterator[Any]]:
    def each(tensors: Iterable[Any]) -> Iterator[Any]:
        for t in tensors:
            index = _index(be, (t._a,)) if isinstance(t, Tensor) else None
            if index is None:
                yield t
                continue
            with be.xp.cuda.Device(index):
                yield t

    return each


def _replace(where: Any, name: str, new: Any) -> None:
    installed.append((where, name, getattr(where, name)))
    setattr(where, name, new)


def _guard_ops() -> None:
    """Those that are not guarded yet."""
    for op in _op.OPS.values():
        if hasattr(op.forward, "guards"):
            continue
        _replace(op, "forward", _forward(op.name, op.forward))
        _replace(op, "rules", {of: _rule(rule) for of, rule in op.rules.items()})
        if op.whole is not None:
            _replace(op, "whole", _forward(op.name, op.whole))
        op._plans.clear()


def _guard_functions(be: Any) -> None:
    """By every name that they have in a module."""
    for name in _ROOMS:
        import_module(name)
    guarded: dict[int, Any] = {}
    for module in [m for name, m in sys.modules.items() if name == "core" or name.startswith(_ROOMS)]:
        for name, f in list(vars(module).items()):
            if isinstance(f, FunctionType) and f.__module__.startswith(_ROOMS) and name not in _FREE_OF_TENSORS:
                _replace(module, name, guarded.setdefault(id(f), _function(be, f)))


def install(be: Any) -> None:
    """From now on; `core.backend.cuda` calls it when arrays come to lie on a second device."""
    for name in dir(be):
        method = getattr(be, name)
        if not name.startswith("_") and callable(method) and hasattr(method, "__func__") and name not in _FREE:
            setattr(be, name, _kernel(be, method))
    for kind in (ArrayHolder, Tensor):
        for name, method in list(vars(kind).items()):
            if isinstance(method, FunctionType) and not name.startswith("__init") and name not in _FREE_OF_TENSORS:
                _replace(kind, name, _method(be, method))
    _guard_functions(be)
    _replace(engine, "each", _each(be))
    _replace(_op.OpNode, "_filled", _filled(be, _op.OpNode._filled))
    _guard_ops()
    be.raw = None  # it holds forward passes as they were
    backend.opened.append(_late)


def _late(be: Any) -> None:
    """For ops of rooms that are entered later."""
    if installed:
        _guard_ops()


def remove() -> None:
    """As if there had been one GPU; for tests, whose devices end with them."""
    while installed:
        where, name, plain = installed.pop()
        setattr(where, name, plain)
        if name == "rules":
            where._plans.clear()
    if _late in backend.opened:
        backend.opened.remove(_late)
