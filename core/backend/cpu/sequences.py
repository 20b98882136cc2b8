"""The CPU's attention, and long short-term memory.

In bfloat16 scores, probabilities and states are float32; what is multiplied in a recurrence is bfloat16. Contract: that of
`core.backend.cpu`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.backend.base import Ints
from core.backend.cpu.elements import BFLOAT16, ElementKernels
from core.backend.cpu.products import bfloat16_products
from core.backend.onednn import attention, recurrent
from core.backend.recurrence import together

# weights of a long short-term memory up to which oneDNN's own primitive is the faster, where the gradient of x is wanted or is not
_LSTM_WITH_DX, _LSTM_WITHOUT = 1 << 19, 1 << 17


class SequenceKernels(ElementKernels):
    """Mixed into `CPUBackend`."""

    def attention(self, q: Any, k: Any, v: Any, mask: Any, drop: Any, causal: bool, scale: float) -> tuple[Any, Any]:
        if q.dtype == BFLOAT16:
            wide_q, k, v, mask, drop = (self.widened(a) for a in (q, k, v, mask, drop))
            y, p = self.attention(wide_q, k, v, mask, drop, causal, scale)
            return self.cast(y, q.dtype), p
        found = attention.attention(q, k, v, mask, drop, causal, scale)
        return super().attention(q, k, v, mask, drop, causal, scale) if found is None else found

    def attention_grad(self, g: Any, q: Any, k: Any, v: Any, drop: Any, p: Any, scale: float) -> tuple[Any, Any, Any]:
        if q.dtype == BFLOAT16:
            g, q, k, v, drop, p = (self.widened(a) for a in (g, q, k, v, drop, p))
            dq, dk, dv = (self.cast(a, BFLOAT16) for a in self.attention_grad(g, q, k, v, drop, p, scale))
            return dq, dk, dv
        found = attention.attention_grad(g, q, k, v, drop, p, scale)
        return super().attention_grad(g, q, k, v, drop, p, scale) if found is None else found

    def lstm(
        self, x: Any, h: Any, cell: Any, w: Any, u: Any, b: Any, c: Any, r: Any, sizes: Ints, reverse: bool,
        want_dx: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        """By oneDNN's primitive, whose workspaces stand for the gates, where the layer is small: it always computes the gradient of x."""
        if x.dtype != BFLOAT16:
            small = w.size + u.size <= (_LSTM_WITH_DX if want_dx else _LSTM_WITHOUT)
            fits = small and r is None and x.dtype == w.dtype == u.dtype == h.dtype == cell.dtype == np.float32
            found = recurrent.lstm(x, h, cell, w, u, together(b, c), sizes, reverse) if fits else None
            return super().lstm(x, h, cell, w, u, b, c, r, sizes, reverse) if found is None else found
        wide: list[Any] = [*map(self.widened, (x, h, cell, w, u, b, c, r)), sizes, reverse]
        y, h, cell, *kept = bfloat16_products().lstm(*wide)
        return (*(self.cast(a, x.dtype) for a in (y, h, cell)), *kept)

    def lstm_grad(
        self, gy: Any, gh: Any, gc: Any, x: Any, w: Any, u: Any, r: Any, gates: Any, was: Any,
        was_cell: Any, bent: Any, sizes: Ints, reverse: bool, want_dx: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        if gates.dtype == np.uint8:
            dx, *rest = recurrent.lstm_grad(gy, gh, gc, x, w, u, gates, was, was_cell, bent, sizes, reverse)
            return dx if want_dx else None, *rest, None
        if x.dtype != BFLOAT16:
            return super().lstm_grad(gy, gh, gc, x, w, u, r, gates, was, was_cell, bent, sizes, reverse, want_dx)
        arrays = gy, gh, gc, x, w, u, r, gates, was, was_cell, bent
        wide: list[Any] = [*map(self.widened, arrays), sizes, reverse, want_dx]
        found = bfloat16_products().lstm_grad(*wide)
        return tuple(None if a is None else self.cast(a, x.dtype) for a in found)
