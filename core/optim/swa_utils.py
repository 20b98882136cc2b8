"""Averages of weights over training: torch.optim.swa_utils.

`AveragedModel` holds a copy of a model whose weights are a mean of those seen so far (SWA) or move towards them (EMA).
Sources: Izmailov et al. 2018 (SWA); Polyak & Juditsky 1992.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from itertools import chain
from typing import Any

from core._tensor import Tensor, _grad_mode
from core.creation import tensor
from core.dtypes import int64
from core.errors import ArgumentError
from core.nn.modules.module import Module
from core.optim.lr_scheduler.scheduler import LRScheduler, each
from core.optim.optimizer import Optimizer


def get_swa_avg_fn() -> Callable[[Any, Any, Any], Any]:
    """The mean of all models seen."""
    return lambda average, current, n: average + (current - average) / (n + 1)


def get_ema_avg_fn(decay: float = 0.999) -> Callable[[Any, Any, Any], Any]:
    """decay·average + (1 − decay)·current"""
    _check_decay(decay)
    return lambda average, current, n: decay * average + (1 - decay) * current


def get_swa_multi_avg_fn() -> Callable[[Any, Any, Any], None]:
    """The mean of all models seen, for lists of tensors, in place."""
    return _in_place(get_swa_avg_fn())


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[[Any, Any, Any], None]:
    """decay·average + (1 − decay)·current, for lists of tensors, in place."""
    return _in_place(get_ema_avg_fn(decay))


def _in_place(rule: Callable[[Any, Any, Any], Any]) -> Callable[[Any, Any, Any], None]:
    def update(averages: list[Tensor], currents: list[Tensor], n: Any) -> None:
        for average, current in zip(averages, currents):
            _write(average, rule(average.detach(), current.detach(), n))

    return update


def _write(target: Tensor, value: Tensor) -> None:
    target._a[...] = value._a.astype(target._a.dtype, copy=False)
    target._bump()


def _check_decay(decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ArgumentError(f"Invalid decay value {decay} provided: expected a value in [0, 1]")


class AveragedModel(Module):
    """A copy of `model`, updated by `update_parameters(model)`: the mean of the parameters seen, or what
    `avg_fn(average, current, n)` says.

    `multi_avg_fn` gets lists and works in place. Buffers are copied, or averaged, too, with `use_buffers`.
    """

    def __init__(
        self, model: Module, device: Any = None, avg_fn: Any = None, multi_avg_fn: Any = None, use_buffers: bool = False
    ):
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ArgumentError("AveragedModel: Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", tensor(0, dtype=int64, device=device))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take another state of the model into the average; the first one is copied."""
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(model.parameters())
        buffers = list(zip(self.module.buffers(), model.buffers()))
        if self.use_buffers:
            mine, theirs = list(chain(mine, (b for b, _ in buffers))), list(chain(theirs, (b for _, b in buffers)))
        theirs = [b.detach().to(a.device) for a, b in zip(mine, theirs)]
        n = int(self.n_averaged)
        with _grad_mode(False):
            if n == 0:
                for a, b in zip(mine, theirs):
                    _write(a, b)
            else:
                update = self.multi_avg_fn or _in_place(self.avg_fn or get_swa_avg_fn())
                update(mine, theirs, n)
            if not self.use_buffers:
                for a, b in buffers:
                    _write(a, b.detach().to(a.device))
        self.n_averaged._a += 1


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Compute the running statistics of the model's batch normalisation anew, as means over the batches (or their
    first items) of `loader`."""
    momenta = {m: m.momentum for m in model.modules() if hasattr(m, "reset_running_stats")}
    if not momenta:
        return
    was_training = model.training
    model.train()
    for m in momenta:
        m.reset_running_stats()
        m.momentum = None  # a mean over all batches
    with _grad_mode(False):
        for batch in loader:
            x = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(x if device is None else x.to(device))
    for m, momentum in momenta.items():
        m.momentum = momentum
    model.train(was_training)


class SWALR(LRScheduler):
    """From the rate in force to `swa_lr` in `anneal_epochs` steps, by half a cosine ("cos") or straight ("linear");
    then it stays."""

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Any,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ):
        for lr, group in zip(each("swa_lr", optimizer, swa_lr), optimizer.param_groups):
            group["swa_lr"] = lr
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(
                f"SWALR: anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ArgumentError(f"SWALR: anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self._anneal_strategy, self.anneal_epochs = anneal_strategy, anneal_epochs
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        step = self._step_count - 1 if self.anneal_epochs else max(1, self._step_count - 1)
        before, now = (self._done(n) for n in (step - 1, step))
        rates = []
        for group in self.optimizer.param_groups:
            lr, end = group["lr"], group["swa_lr"]
            start = end if before == 1 else (lr - before * end) / (1 - before)  # where the way from here began
            rates.append(end * now + start * (1 - now))
        return rates

    def _done(self, step: int) -> float:
        t = max(0, min(1, step / max(1, self.anneal_epochs)))
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2


__all__ = [
    "AveragedModel", "update_bn", "SWALR", "get_ema_multi_avg_fn", "get_swa_multi_avg_fn", "get_ema_avg_fn", "get_swa_avg_fn",
]  # fmt: skip
