"""Steps of all parameters of a group at once, on a GPU: a launch for each 64 of one dtype, where a launch for each would cost more than it
computes.

Serves SGD, Adam and AdamW as they are written; a subclass with a rule of its own steps as everywhere. What a captured graph must not
freeze is on the device: step counts, a learning rate that is a tensor there, and whether the step is to be left out (`found_inf`, which
`GradScaler` gives).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from core import backend
from core._tensor import Tensor, wrap
from core.backend.cuda.optimizers import Control
from core.errors import CoreError
from core.optim.adam import Adam
from core.optim.optimizer import Optimizer, zeros_like
from core.optim.sgd import SGD


def step(optimizer: Optimizer, group: dict[str, Any]) -> list[Tensor]:
    """Step what can be stepped so; returns the other parameters."""
    be: Any = backend.get("cuda")
    rule = _rule(optimizer, group)
    if rule is None:
        return _uncounted(be, optimizer, group["params"])
    served, rest = _sorted_out(be, group["params"])
    lr, found_inf = group["lr"], getattr(optimizer, "found_inf", None)
    on_device = isinstance(lr, Tensor) and isinstance(lr._a, be.array_type) and lr._a.dtype == np.float32
    if served:
        control = Control(lr=lr._a if on_device else None, found_inf=None if found_inf is None else found_inf._a)
        options = {**group, "lr": 0.0 if on_device else lr.item() if isinstance(lr, Tensor) else lr}
    for (index, _), params in served.items():
        with be.xp.cuda.Device(index):
            rule(optimizer, be, params, options, control.on(be, index))
        for p in params:
            p._bump()
    return _uncounted(be, optimizer, rest)


def _uncounted(be: Any, optimizer: Optimizer, params: list[Tensor]) -> list[Tensor]:
    """These parameters, unless a graph is being captured and a count on the host would stand still in it."""
    if params and be.xp.cuda.get_current_stream().is_capturing():
        for p in params:
            counts = [v for v in optimizer.state[p].values() if isinstance(v, Tensor) and not v.is_cuda]
            if p.is_cuda and p._grad is not None and counts:
                raise CoreError(
                    f"{type(optimizer).__name__}: expected state on the GPU while a graph is captured, got counts on the host, which would "
                    "stand still; use SGD, Adam or AdamW with contiguous parameters, or step outside of the graph"
                )
    return params


def serves(optimizer: Optimizer) -> bool:
    """Whether every parameter that has a gradient is stepped so: then nobody needs to know on the host whether to step."""
    be: Any = backend.get("cuda")
    return all(
        _rule(optimizer, group) is not None and not _sorted_out(be, group["params"])[1]
        for group in optimizer.param_groups
    )


def _rule(optimizer: Optimizer, group: dict[str, Any]) -> Callable[..., None] | None:
    if group.get("fused") is False or group.get("differentiable"):
        return None
    return _RULES.get((type(optimizer).update, type(optimizer).init))


def _sorted_out(be: Any, params: list[Tensor]) -> tuple[dict[tuple[int, int], list[Tensor]], list[Tensor]]:
    """The parameters with a gradient: those that the kernels take, by device and dtype, and the others."""
    served: dict[tuple[int, int], list[Tensor]] = {}
    rest, several = [], be.count() > 1
    for p in params:
        if p._grad is None:
            continue
        x, g = p._a, getattr(p._grad, "_a", None)
        if (
            isinstance(x, be.array_type)
            and isinstance(g, be.array_type)
            and g.dtype == x.dtype
            and x.flags.c_contiguous
        ):
            served.setdefault((be.index_of(x) if several else 0, x.dtype.num), []).append(p)
        else:
            rest.append(p)
    for key in [key for key, some in served.items() if not be.serves_updates((some[0]._a,))]:
        rest += served.pop(key)
    return served, rest


def _gradients(be: Any, params: list[Tensor]) -> list[Any]:
    return [be.xp.ascontiguousarray(p._grad._a) for p in params if p._grad is not None]


def _sgd(optimizer: Optimizer, be: Any, params: list[Tensor], options: dict[str, Any], control: Control) -> None:
    names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
    given: Any = {name: options[name] for name in names}
    if not options["momentum"]:
        be.sgd_([p._a for p in params], _gradients(be, params), None, control=control, **given)
        return
    fresh: list[Tensor] = []
    begun: list[Tensor] = []
    for p in params:
        state = optimizer.state[p]
        (fresh if state.get("momentum_buffer") is None else begun).append(p)
    for p in fresh:  # of zeros: a first step that is left out must not leave garbage
        optimizer.state[p]["momentum_buffer"] = zeros_like(p)
    for some, is_fresh in ((fresh, True), (begun, False)):
        if some:
            buffers = [optimizer.state[p]["momentum_buffer"]._a for p in some]
            be.sgd_([p._a for p in some], _gradients(be, some), buffers, fresh=is_fresh, control=control, **given)


def _adam(optimizer: Optimizer, be: Any, params: list[Tensor], options: dict[str, Any], control: Control) -> None:
    for p in params:
        state = optimizer.state[p]
        if not state:
            state.update(optimizer.init(p, options))
        if not isinstance(
            state["step"]._a, be.array_type
        ):  # the count moves to the device at the first step, or after loading
            state["step"] = wrap(be.from_numpy(state["step"]._a.astype(np.float32), be.index_of(p._a)))
    states = [optimizer.state[p] for p in params]
    ms, vs, steps = ([s[name]._a for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    tops = [s["max_exp_avg_sq"]._a for s in states] if options["amsgrad"] else None
    be.adam_(
        [p._a for p in params], _gradients(be, params), ms, vs, tops, lr=options["lr"], betas=options["betas"], eps=options["eps"],
        weight_decay=options["weight_decay"], decoupled=options["decoupled_weight_decay"], maximize=options["maximize"], steps=steps,
        control=control,
    )  # fmt: skip


_RULES: dict[Any, Callable[..., None]] = {(SGD.update, SGD.init): _sgd, (Adam.update, Adam.init): _adam}
