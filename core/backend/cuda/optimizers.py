"""Optimizer steps over many parameters at once: the host side of `optimizers.cuh`. One launch for each 64 parameters of one dtype.

Arrays are in C order and on one device. What a captured step must not freeze may live on the device, as float32 of one element: see
`Control`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.backend.cuda.launch import accumulator, instance

_MANY, _PIECE, _THREADS = 64, 1 << 14, (256,)  # MANY and PIECE of the source
_POINTERS = ("x", "g", "a", "b", "c", "step")
_RECORD = np.dtype(
    [(name, np.uint64, _MANY) for name in _POINTERS] + [("size", np.int64, _MANY), ("first", np.int32, _MANY + 1), ("count", np.int32)],
    align=True,
)  # fmt: skip
_SGD_NUMBERS, _SGD_FLAGS = ("lr", "momentum", "kept", "decay"), ("nesterov", "maximize", "fresh")
_ADAM_NUMBERS = ("lr", "beta1", "beta2", "eps", "decay", "correction1", "correction2")
_ADAM_FLAGS = ("decoupled", "amsgrad", "maximize")

Arrays = Sequence[Any]


@dataclass(frozen=True)
class Control:
    """On the device: the learning rate, what gradients are multiplied by, and a number that keeps everything as it is if it is not 0."""

    lr: Any = None
    inverse_scale: Any = None
    found_inf: Any = None

    def on(self, be: Any, index: int) -> Control:
        """The same on another device, if it is another."""
        values = (self.lr, self.inverse_scale, self.found_inf)
        if all(a is None or be.index_of(a) == index for a in values):
            return self
        return Control(*(None if a is None else be.copied(a, index) for a in values))

    def pointers(self) -> np.ndarray:
        return np.array(
            tuple(0 if a is None else a.data.ptr for a in (self.lr, self.inverse_scale, self.found_inf)), _CONTROL
        )


_CONTROL = np.dtype([(name, np.uint64) for name in ("lr", "inverse_scale", "found_inf")])
_HOST = Control()


def fits(be: Any, arrays: Arrays) -> bool:
    """Whether the kernels have this dtype, all arrays are of it, and lie in C order."""
    first = arrays[0]
    return instance(be, "optimizers", first) is not None and all(
        a.dtype == first.dtype and a.flags.c_contiguous for a in arrays
    )


def unscale_(be: Any, gs: Arrays, inverse_scale: Any, found_inf: Any) -> None:
    """gs *= inverse_scale, in place; found_inf becomes 1 if any is then not finite, and stays as it is if not."""
    for of, record, total in _launches(be, gs):
        be.launch(of, "unscale", (total,), _THREADS, record, inverse_scale, found_inf)


def sgd_(
    be: Any, xs: Arrays, gs: Arrays, buffers: Arrays | None, *, lr: float, momentum: float = 0, dampening: float = 0,
    weight_decay: float = 0, nesterov: bool = False, maximize: bool = False, fresh: bool = False, control: Control = _HOST,
) -> None:  # fmt: skip
    """The rule of `core.optim.SGD`, in place on xs and buffers. `fresh`: the buffers have not been written yet."""
    number = accumulator(xs[0])
    values = (lr, momentum, 1 - dampening, weight_decay, nesterov, maximize, fresh)
    record = np.array(values, _hyper(number, _SGD_NUMBERS, _SGD_FLAGS))
    for of, many, total in _launches(be, xs, g=gs, a=buffers):
        be.launch(of, "sgd", (total,), _THREADS, many, record, control.pointers())


def adam_(
    be: Any, xs: Arrays, gs: Arrays, ms: Arrays, vs: Arrays, tops: Arrays | None, *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float = 0, decoupled: bool = False, maximize: bool = False, step: float = 0, steps: Arrays | None = None,
    control: Control = _HOST,
) -> None:  # fmt: skip
    """The rule of `core.optim.Adam` and `AdamW`, in place on xs, ms, vs and tops (amsgrad's, or None).

    `step` is this step's number, the first is 1; or `steps` holds for each parameter, on the device, how many there were before, and is
    counted up.
    """
    number = accumulator(xs[0])
    corrections = (1.0, 1.0) if steps is not None else tuple(1 - beta**step for beta in betas)
    values = (lr, *betas, eps, weight_decay, *corrections, decoupled, tops is not None, maximize)
    record, pointers = np.array(values, _hyper(number, _ADAM_NUMBERS, _ADAM_FLAGS)), control.pointers()
    for of, many, total in _launches(be, xs, g=gs, a=ms, b=vs, c=tops, step=steps):
        if steps is not None:
            be.launch(of, "count_steps", (1,), (_MANY,), many, pointers)
        be.launch(of, "adam", (total,), _THREADS, many, record, pointers)


def _hyper(number: type, numbers: Sequence[str], flags: Sequence[str]) -> np.dtype:
    return np.dtype([(n, number) for n in numbers] + [(n, np.int32) for n in flags], align=True)


def _launches(be: Any, xs: Arrays, **others: Arrays | None) -> Iterator[tuple[Any, np.ndarray, int]]:
    """Instance, record and number of blocks for each launch."""
    of = instance(be, "optimizers", xs[0])
    assert of is not None, f"optimizer kernels have no {xs[0].dtype}"
    for start in range(0, len(xs), _MANY):
        some = slice(start, start + _MANY)
        now = xs[some]
        record, count, first = np.zeros((), _RECORD), len(now), 0
        for name, arrays in (("x", xs), *others.items()):
            if arrays is not None:
                record[name][:count] = [a.data.ptr for a in arrays[some]]
        record["size"][:count] = [a.size for a in now]
        for k, a in enumerate(now):
            record["first"][k] = first
            first += math.ceil(a.size / _PIECE)
        record["first"][count], record["count"] = first, count
        if first:
            yield of, record, first
