"""Who decides when weights are averaged: torch's averagers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from core.errors import ArgumentError
from ddp import distributed
from ddp.algorithms.model_averaging import utils


class ModelAverager(ABC):
    """Called once after each step of the optimizer; `step` counts the calls."""

    def __init__(self, process_group: Any = None):
        self.process_group = distributed._group(process_group)
        self.step = 0

    @abstractmethod
    def average_parameters(self, params: Iterable[Any]) -> None:
        """Average the parameters (or an optimizer's groups of them), if it is time."""


class PeriodicModelAverager(ModelAverager):
    """Averages every `period` steps, from step `warmup_steps` on."""

    def __init__(self, period: int, warmup_steps: int = 0, process_group: Any = None):
        super().__init__(process_group)
        if warmup_steps < 0:
            raise ArgumentError(f"PeriodicModelAverager: expected warmup_steps >= 0, got {warmup_steps}")
        if period < 1:
            raise ArgumentError(f"PeriodicModelAverager: expected period >= 1, got {period}")
        self.period, self.warmup_steps = period, warmup_steps

    def average_parameters(self, params: Iterable[Any]) -> None:
        if self.step >= self.warmup_steps and (self.step - self.warmup_steps) % self.period == 0:
            utils.average_parameters_or_parameter_groups(params, self.process_group)
        self.step += 1
