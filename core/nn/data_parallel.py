"""DataParallel: one process, several GPUs. A batch is cut along one dimension, a copy of the module computes each part on its GPU, in a
thread of its own, and what they return is put together on the first.

All copies are one node of the graph: going back through it runs the graphs of the copies, again a thread for each GPU, and adds up their
gradients of a parameter in the order of the devices. On one device, or without a GPU, the module is just called. For speed use
`ddp.DistributedDataParallel`, started by ddprun: threads share one interpreter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from core import autograd, cuda
from core._tensor import Tensor, _grad_mode, _moved, wrap
from core.autograd.function import Function
from core.backend.cuda import is_available
from core.creation import zeros
from core.engine import mode
from core.errors import ArgumentError
from core.functions.memory import to
from core.nn.modules.module import Module
from core.ops.op import graph as F


class DataParallel(Module):
    """Calls `module` on parts of its tensor arguments; names in its state_dict begin with "module.".

    `device_ids`: GPUs, by default all; the parameters live on the first. `output_device`: where results go, by default the first. `dim`:
    along which arguments are cut and results put together; a result without dimensions becomes one of a vector.
    """

    def __init__(self, module: Module, device_ids: Any = None, output_device: Any = None, dim: int = 0):
        super().__init__()
        self.module, self.dim = module, dim
        self.device_ids = _indices(device_ids)
        self.output_device = self.device_ids[0] if output_device is None and self.device_ids else output_device
        if len(self.device_ids) > 1:
            module.to(f"cuda:{self.device_ids[0]}")

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        return data_parallel(self.module, inputs, self.device_ids, self.output_device, self.dim, kwargs)


def data_parallel(
    module: Module, inputs: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0,
    module_kwargs: Any = None
) -> Any:  # fmt: skip
    """module(*inputs, **module_kwargs) on several GPUs; see `DataParallel`."""
    inputs, kwargs = inputs if isinstance(inputs, tuple) else (inputs,), module_kwargs or {}
    devices = _indices(device_ids)
    tensors: list[Tensor] = []
    pattern = _taken_out((inputs, kwargs), tensors)
    lengths = {t._a.shape[dim] for t in tensors if t._a.ndim}
    if len(devices) < 2 or not lengths:
        return module(*inputs, **kwargs)
    if len(lengths) > 1:
        raise ArgumentError(
            f"DataParallel: expected tensors of one length along dimension {dim}, got {sorted(lengths)}"
        )
    cuts = _cuts(lengths.pop(), len(devices))
    run = _Run(module, pattern, devices[: len(cuts)], dim, cuts)
    outs = _Parallel.apply(run, *tensors, *module.parameters())
    return _put_back(run.result, list(outs if isinstance(outs, tuple) else (outs,)), run.where(output_device))


def scatter(inputs: Any, target_gpus: Sequence[Any], dim: int = 0) -> list[Any]:
    """Tensors cut into parts, one for each GPU, as deep as tuples, lists and dictionaries go; everything else goes to all of them."""
    tensors: list[Tensor] = []
    pattern, devices = _taken_out(inputs, tensors), _indices(target_gpus)
    cuts = _cuts(max((t._a.shape[dim] for t in tensors if t._a.ndim), default=1), len(devices))
    return [
        _put_back(pattern, [to(_part(t, cut, dim), f"cuda:{index}") for t in tensors], lambda t: t)
        for cut, index in zip(cuts, devices)
    ]


def gather(outputs: Sequence[Any], target_device: Any, dim: int = 0) -> Any:
    """What the GPUs returned, tensors put together along a dimension, on one of them."""
    where = _indices([target_device])[0]
    every: list[list[Tensor]] = [[] for _ in outputs]
    patterns = [_taken_out(o, found) for o, found in zip(outputs, every)]
    joined = [_joined([to(t, f"cuda:{where}") for t in same], dim) for same in zip(*every, strict=True)]
    return _put_back(patterns[0], joined, lambda t: t)


def replicate(network: Module, devices: Sequence[Any]) -> list[Module]:
    """Copies of a module whose parameters and buffers are copies on each GPU; on its own they are its own."""
    return [_replica(network, index, {}) for index in _indices(devices)]


def parallel_apply(
    modules: Sequence[Any], inputs: Sequence[Any], kwargs_tup: Any = None, devices: Any = None
) -> list[Any]:
    """modules[k](*inputs[k], **kwargs_tup[k]), each on its GPU, in threads."""
    places = _indices(devices if devices is not None else range(len(modules)))
    named = kwargs_tup or [{}] * len(modules)

    def call(k: int) -> Any:
        given = inputs[k] if isinstance(inputs[k], tuple) else (inputs[k],)
        return modules[k](*given, **named[k])

    return _in_threads(call, places)


# -- the node ----------------------------------------------------------------------------------------------------------


class _Run:
    """One call: how arguments are cut, and, once it has run, what the copies did."""

    def __init__(self, module: Module, pattern: Any, devices: list[int], dim: int, cuts: list[slice]):
        self.module, self.pattern, self.devices, self.dim, self.cuts = module, pattern, devices, dim, cuts
        self.result: Any = None  # how the results hang together
        self.leaves: list[list[Tensor]] = []  # of each copy: its arguments and parameters
        self.outs: list[list[Tensor]] = []

    def where(self, output_device: Any) -> Callable[[Tensor], Tensor]:
        index = self.devices[0] if output_device is None else _indices([output_device])[0]
        return lambda t: t if index == self.devices[0] else to(t, f"cuda:{index}")

    def forward(self, tensors: Sequence[Tensor], params: Sequence[Tensor], record: bool) -> list[Tensor]:
        """All copies; their tensors are leaves of graphs of their own."""

        def call(k: int) -> tuple[list[Tensor], list[Tensor], Any]:
            index = self.devices[k]
            args = [_leaf(_part(t, self.cuts[k], self.dim), index, t) for t in tensors]
            own = {id(p): _leaf(p, index, p) for p in params}
            replica = _replica(self.module, index, own)
            inputs, kwargs = _put_back(self.pattern, args, lambda t: t)
            with _grad_mode(record):
                result = replica(*inputs, **kwargs)
            outs: list[Tensor] = []
            pattern = _taken_out(result, outs)
            return [*args, *own.values()], outs, pattern

        done = _in_threads(call, self.devices)
        self.leaves, self.outs, self.result = [d[0] for d in done], [d[1] for d in done], done[0][2]
        return [
            _joined([_on(t.detach(), self.devices[0]) for t in same], self.dim) for same in zip(*self.outs, strict=True)
        ]

    def backward(self, grads: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
        """The gradients of the tensors, put together, and of the parameters, added up."""

        def call(k: int) -> list[Any]:
            pairs = [
                (o, self._share(g, n, k))
                for n, (o, g) in enumerate(zip(self.outs[k], grads))
                if o.requires_grad and g is not None
            ]
            leaves = [t for t, want in zip(self.leaves[k], wanted) if want]
            if not pairs or not leaves:
                return [None] * len(leaves)
            return list(autograd.grad([o for o, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True))

        each = _in_threads(call, self.devices)
        self.leaves, self.outs = [], []
        return [list(same) for same in zip(*each)]

    def _share(self, g: Tensor, n: int, k: int) -> Tensor:
        """The part of an output's gradient that belongs to copy k."""
        sizes = [o[n]._a.shape[self.dim] if o[n]._a.ndim else 1 for o in self.outs]
        start = sum(sizes[:k])
        part = _part(g, slice(start, start + sizes[k]), self.dim if self.outs[k][n]._a.ndim else 0)
        return _on(part if self.outs[k][n]._a.ndim else part.reshape(()), self.devices[k])


class _Parallel(Function):
    @staticmethod
    def forward(ctx: Any, run: _Run, *tensors: Tensor) -> Any:
        ctx.run, ctx.shapes = run, [t._a.shape for t in tensors]
        ctx.inputs = len(tensors) - sum(1 for _ in run.module.parameters())
        ctx.wanted = [t.requires_grad for t in tensors]
        outs = run.forward(tensors[: ctx.inputs], tensors[ctx.inputs :], record=any(ctx.needs_input_grad))
        return tuple(outs) if len(outs) > 1 else outs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        run, first = ctx.run, ctx.run.devices[0]
        found = iter(run.backward(grads, ctx.wanted))
        results: list[Any] = []
        for number, want in enumerate(ctx.wanted):
            parts = next(found) if want else []
            if all(g is None for g in parts):
                results.append(None)
                continue
            if number < ctx.inputs and ctx.shapes[number]:  # of an argument that was cut
                results.append(
                    _joined(
                        [_on(_or_zeros(g, ctx.shapes[number], run, k), first) for k, g in enumerate(parts)], run.dim
                    )
                )
            else:
                here = [_on(g, first) for g in parts if g is not None]
                total = here[0]
                for g in here[1:]:
                    total = total + g
                results.append(total)
        return None, *results


def _or_zeros(g: Any, shape: tuple[int, ...], run: _Run, k: int) -> Tensor:
    if g is not None:
        return g
    cut = run.cuts[k]
    size = [cut.stop - cut.start if d == run.dim % len(shape) else n for d, n in enumerate(shape)]
    return zeros(size, device=f"cuda:{run.devices[k]}")


# -- parts ---------------------------------------------------------------------------------------------------------------


def _indices(devices: Any) -> list[int]:
    """Numbers of GPUs; without any given all there are. Where there is no GPU there are none."""
    given = None if devices is None else [d if isinstance(d, int) else cuda.place.index(d) for d in devices]
    if not (is_available() or cuda.is_initialized()):
        if given is not None and len(given) > 1:
            raise ArgumentError(
                f"DataParallel: expected one device, since there is no GPU, got device_ids {given}; use ddp.DistributedDataParallel, "
                "started by ddprun"
            )
        return []
    return list(range(cuda.place.gpu().count())) if given is None else [cuda.place.index(d) for d in given]


def _cuts(length: int, parts: int) -> list[slice]:
    """As torch's `chunk` cuts: all of one length but the last; fewer where there is not enough."""
    each = max(1, -(-length // parts))
    return [slice(start, min(start + each, length)) for start in range(0, max(length, 1), each)]


def _part(t: Tensor, cut: slice, dim: int) -> Tensor:
    return F.narrow(t, dim=dim, start=cut.start, length=cut.stop - cut.start) if t._a.ndim else t


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return F.cat(list(parts), dim=dim) if parts[0]._a.ndim else F.cat([p.reshape(1) for p in parts], dim=0)


def _on(t: Tensor, index: int) -> Tensor:
    """On a GPU, outside of any graph."""
    moved = _moved(t._a, f"cuda:{index}")
    return t if moved is t._a else wrap(moved)


def _leaf(t: Tensor, index: int, like: Tensor) -> Tensor:
    return _on(t.detach(), index).detach().requires_grad_(like.requires_grad)


def _replica(module: Module, index: int, own: dict[int, Tensor]) -> Module:
    """The module over other tensors: those in `own`, by the number of the parameter, else copies on a GPU."""
    copy: Any = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    fields = copy.__dict__
    fields["_parameters"] = {
        name: None if p is None else own.get(id(p)) if id(p) in own else _on(p.detach(), index)
        for name, p in module._parameters.items()
    }
    fields["_buffers"] = {name: None if b is None else _on(b, index) for name, b in module._buffers.items()}
    fields["_modules"] = {name: None if m is None else _replica(m, index, own) for name, m in module._modules.items()}
    return copy


def _taken_out(value: Any, tensors: list[Tensor]) -> Any:
    """The value with a number in the place of each tensor, which is put into the list."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(len(tensors) - 1)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_taken_out(v, tensors) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_taken_out(v, tensors) for v in value)
    return {k: _taken_out(v, tensors) for k, v in value.items()} if isinstance(value, dict) else value


class _Place(int):
    """Stands for a tensor."""


def _put_back(pattern: Any, tensors: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(pattern, _Place):
        return change(tensors[pattern])
    if isinstance(pattern, tuple) and hasattr(pattern, "_fields"):
        return type(pattern)(*(_put_back(v, tensors, change) for v in pattern))
    if isinstance(pattern, (tuple, list)):
        return type(pattern)(_put_back(v, tensors, change) for v in pattern)
    return {k: _put_back(v, tensors, change) for k, v in pattern.items()} if isinstance(pattern, dict) else pattern


def _in_threads(call: Callable[[int], Any], devices: Sequence[int]) -> list[Any]:
    """call(k) for each device, in a thread with that device and the caller's modes. The first error is raised."""
    state, results = mode.state, [None] * len(devices)
    errors: list[Any] = [None] * len(devices)

    def run(k: int) -> None:
        mode.grad, mode.autocast = state.grad, state.autocast
        try:
            with cuda.device(devices[k]):
                results[k] = call(k)
        except BaseException as error:
            error.add_note(f"in replica {k} of DataParallel, on cuda:{devices[k]}")
            errors[k] = error

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(devices))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for error in errors:
        if error is not None:
            raise error
    return results
