"""The loss scale on a GPU: scale, count of good steps and what was found stay on the device, so that nothing waits for them and a step with
them can be captured in a graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from core._tensor import Tensor, wrap


class DeviceScale:
    """Of one GradScaler, on the device of the first tensor that it saw."""

    def __init__(self, be: Any, like: Any, scale: float, good_steps: int):
        self.be, self._index = be, be.index_of(like)
        self.scale = wrap(be.from_numpy(np.array(scale, np.float32), self._index))
        self.good_steps = wrap(be.from_numpy(np.array(good_steps, np.int32), self._index))

    def unscale_(self, gradients: list[Any]) -> Tensor:
        """Divide gradients by the scale, in place; 1 (float32, 0-d) if any is then not finite, else 0."""
        be, by_device = self.be, {self._index: list[Any]()}
        for g in gradients:
            by_device.setdefault(be.index_of(g), []).append(g)
        found = self._unscaled(by_device.pop(self._index), self.scale._a, self._index)
        for index, some in by_device.items():
            other = self._unscaled(some, be.copied(self.scale._a, index), index)
            found = be.add(found, be.copied(other, self._index))
        return wrap(found)

    def _unscaled(self, gradients: list[Any], scale: Any, index: int) -> Any:
        """Of gradients on one device; 0-d in float32."""
        be, xp = self.be, self.be.xp
        with xp.cuda.Device(index):
            inverse, found = 1 / scale, xp.zeros((), np.float32)
            together: dict[int, list[Any]] = {}
            for g in gradients:
                if be.serves_updates((g,)):
                    together.setdefault(g.dtype.num, []).append(g)
                else:
                    g *= inverse.astype(g.dtype)
                    found += (~xp.isfinite(g)).any()
            for some in together.values():
                be.unscale_(some, inverse, found)
        return found

    def update(self, found: list[Tensor], growth: float, backoff: float, interval: int) -> None:
        """Lower the scale if anything was found, raise it after `interval` good steps; it never becomes infinite."""
        xp, scale, good = self.be.xp, self.scale._a, self.good_steps._a
        bad = xp.zeros((), bool)
        for f in found:
            bad = bad | (f._a > 0)
        grown = good + 1
        due = grown >= interval
        raised = scale * np.float32(growth)
        scale[...] = xp.where(bad, scale * np.float32(backoff), xp.where(due & xp.isfinite(raised), raised, scale))
        good[...] = xp.where(bad | due, np.int32(0), grown)

    def set(self, scale: float) -> None:
        """Another scale."""
        self.scale._a[...] = scale
