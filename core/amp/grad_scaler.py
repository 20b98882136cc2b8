"""GradScaler: float16 gradients are small, so the loss is scaled up, and the gradients down again before the step.

A step whose gradients hold inf or nan is left out and the scale lowered; after `growth_interval` good steps it is raised. Micikevicius
et al. 2018. On a GPU all of it happens there (`core.amp.device_scale`), and an optimizer whose step can be left out by the device
(`core.optim.fused`) is never waited for.
"""

from __future__ import annotations

from typing import Any

from core import backend
from core._tensor import Tensor
from core.amp.device_scale import DeviceScale
from core.errors import ArgumentError, CoreError


class GradScaler:
    """scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()"""

    def __init__(
        self, device: Any = "cuda", init_scale: float = 2.0**16, growth_factor: float = 2.0, backoff_factor: float = 0.5,
        growth_interval: int = 2000, enabled: bool = True,
    ):  # fmt: skip
        if growth_factor <= 1 or not 0 < backoff_factor < 1:
            raise ArgumentError(
                f"GradScaler: expected growth_factor > 1 and 0 < backoff_factor < 1, got {growth_factor} and {backoff_factor}"
            )
        self._enabled, self._scale, self._growth_tracker = enabled, float(init_scale), 0
        self._growth_factor, self._backoff_factor, self._growth_interval = growth_factor, backoff_factor, growth_interval
        # id of an optimizer -> whether its unscaled gradients hold inf or nan: where they are on a GPU a Tensor there, 0 or 1
        self._found: dict[int, Any] = {}
        self._stepped: set[int] = set()
        self._device: DeviceScale | None = None  # once a tensor of a GPU was seen

    def scale(self, outputs: Any) -> Any:
        """The loss (or a list of losses) times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(self.scale(o) for o in outputs)
        device = self._on_device(outputs._a)
        return outputs * (self._scale if device is None else device.scale)

    def _on_device(self, array: Any) -> DeviceScale | None:
        """The scale on the array's device; None for the CPU."""
        be: Any = backend.of(array)
        if be.device_type != "cuda":
            return None
        if self._device is None:
            self._device = DeviceScale(be, array, self._scale, self._growth_tracker)
        return self._device

    def unscale_(self, optimizer: Any) -> None:
        """Divide the optimizer's gradients by the scale, in place: before clipping them, say. Once a step."""
        if not self._enabled:
            return
        if id(optimizer) in self._found:
            raise CoreError("unscale_() has already been called on this optimizer since the last update()")
        gradients = [p._grad._a for group in optimizer.param_groups for p in group["params"] if p._grad is not None]
        device = self._on_device(gradients[0]) if gradients else None
        self._found[id(optimizer)] = self._unscaled(gradients) if device is None else device.unscale_(gradients)

    def _unscaled(self, gradients: list[Any]) -> bool:
        bad = False
        for g in gradients:
            g *= 1 / self._scale
            bad |= not bool(backend.of(g).xp.isfinite(g).all())
        return bad

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """The optimizer's step, unless its gradients hold inf or nan."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if id(optimizer) in self._stepped:
            raise CoreError("step() has already been called on this optimizer since the last update()")
        if id(optimizer) not in self._found:
            self.unscale_(optimizer)
        self._stepped.add(id(optimizer))
        found = self._found[id(optimizer)]
        if not isinstance(found, Tensor) or not _is_left_out_by_the_device(optimizer):
            return None if found else optimizer.step(*args, **kwargs)
        optimizer.found_inf = found
        try:
            return optimizer.step(*args, **kwargs)
        finally:
            del optimizer.found_inf

    def update(self, new_scale: Any = None) -> None:
        """Lower or raise the scale by what the step found, or set it."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
            if self._device is not None:
                self._device.set(self._scale)
        elif self._device is not None and self._found:
            found = [f for f in self._found.values() if isinstance(f, Tensor)]
            self._device.update(found, self._growth_factor, self._backoff_factor, self._growth_interval)
        elif not self._found:
            raise CoreError("No inf checks were recorded prior to update: call step() or unscale_() first")
        elif any(self._found.values()):
            self._scale *= self._backoff_factor
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker == self._growth_interval:
                self._scale *= self._growth_factor
                self._growth_tracker = 0
        self._found.clear()
        self._stepped.clear()

    def get_scale(self) -> float:
        """The scale."""
        if self._device is not None:
            self._scale = self._device.scale.item()
        return self._scale if self._enabled else 1.0

    def _good_steps(self) -> int:
        if self._device is not None:
            self._growth_tracker = int(self._device.good_steps.item())
        return self._growth_tracker

    def is_enabled(self) -> bool:
        """Whether it does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors and count, for `load_state_dict`."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(), "growth_factor": self._growth_factor, "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval, "_growth_tracker": self._good_steps(),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state."""
        if self._enabled:
            self._scale, self._growth_tracker = state_dict["scale"], state_dict["_growth_tracker"]
            self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
            self._growth_interval = state_dict["growth_interval"]
            self._device = None  # made anew from these


def _is_left_out_by_the_device(optimizer: Any) -> bool:
    from core.optim import Optimizer, fused

    return isinstance(optimizer, Optimizer) and fused.serves(optimizer)
