"""How a tensor prints: as PyTorch prints it.

Source of the rules: torch/_tensor_str.py (the rules, not the code): all elements in one width; scientific notation when the
greatest is above 10⁸, the ratio above 1000 or the least below 10⁻⁴; lines of 80 characters; more than 1000 elements are
summarised by three at each end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from core import dtypes

if TYPE_CHECKING:
    from core._tensor import Tensor


@dataclass
class _Options:
    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_options = _Options()
_PROFILES = {"default": _Options(), "short": _Options(2, 1000, 2), "full": _Options(4, math.inf)}


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Digits after the point, when to summarise and how, the width of a line. What is None stays."""
    if profile is not None:
        _options.__dict__.update(_PROFILES[profile].__dict__)
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    _options.__dict__.update({k: v for k, v in given.items() if v is not None})
    _options.sci_mode = sci_mode


class _Formatter:
    """One width and one notation for all the elements shown."""

    def __init__(self, a: np.ndarray):
        self.floating = a.dtype.kind == "f"
        self.sci, self.integral = False, True
        values = a.reshape(-1)
        if self.floating:  # zeros, nan and inf have no say in the notation, nor in the width
            values = values[np.isfinite(values) & (values != 0)]
            if values.size:
                sizes = np.abs(values.astype(np.float64))
                least, greatest = sizes.min(), sizes.max()
                self.integral = bool((values == np.ceil(values)).all())
                self.sci = bool(greatest / least > 1000 or greatest > 1e8 or least < 1e-4)
                if _options.sci_mode is not None:
                    self.sci = _options.sci_mode
        self.width = max((len(self._plain(v)) for v in values.tolist()), default=1)

    def _plain(self, v: Any) -> str:
        if self.floating:
            if self.sci:
                return f"{v:.{_options.precision}e}"
            if self.integral:
                return f"{v:.0f}." if math.isfinite(v) else f"{v:.0f}"
            return f"{v:.{_options.precision}f}"
        return str(v)

    def __call__(self, v: Any) -> str:
        return self._plain(v).rjust(self.width)


class _ComplexFormatter:
    def __init__(self, a: np.ndarray):
        self.real, self.imag = _Formatter(a.real), _Formatter(a.imag)
        self.width = self.real.width + self.imag.width + 1

    def __call__(self, v: complex) -> str:
        imag = self.imag(v.imag).lstrip()
        return f"{self.real(v.real)}{'' if imag[0] == '-' else '+'}{imag}j"


def tensor(t: Tensor) -> str:
    """The text of `repr(t)`."""
    prefix = "tensor("
    if type(t).__name__ == "Parameter":
        return "Parameter containing:\n" + _text(t, prefix)
    return _text(t, prefix)


def _text(t: Tensor, prefix: str) -> str:
    a, d = t._host(), t.dtype
    suffixes = []
    if t.device.type != "cpu":
        suffixes.append(f"device='{t.device}'")
    plain = d in (dtypes.get_default_dtype(), dtypes.get_default_dtype().to_complex(), dtypes.int64, dtypes.bool)
    if not a.size:
        if a.ndim != 1:
            suffixes.append(f"size={tuple(a.shape)}")
        if d is not dtypes.get_default_dtype():
            suffixes.append(f"dtype={d}")
        body = "[]"
    else:
        if not plain:
            suffixes.append(f"dtype={d}")
        shown = a.astype(np.float32) if d.name == "bfloat16" else a
        summary = a.size > _options.threshold
        corners = _corners(shown) if summary else shown
        format_ = _ComplexFormatter(corners) if d.is_complex else _Formatter(corners)
        body = _nested(shown, format_, summary, len(prefix))
    if t._edge is not None:
        name = t.grad_fn.name() if t.grad_fn is not None else "None"
        suffixes.append(f"grad_fn=<{name}>")
    elif t._requires_grad:
        suffixes.append("requires_grad=True")
    return _with_suffixes(prefix + body, suffixes, len(prefix))


def _with_suffixes(text: str, suffixes: list[str], indent: int) -> str:
    last = len(text) - text.rfind("\n") + 1
    for s in suffixes:
        if last + len(s) + 2 > _options.linewidth:
            text += ",\n" + " " * indent + s
            last = indent + len(s)
        else:
            text += ", " + s
            last += len(s) + 2
    return text + ")"


def _corners(a: np.ndarray) -> np.ndarray:
    """The elements that a summary shows."""
    n = _options.edgeitems
    for axis in range(a.ndim):
        if a.shape[axis] > 2 * n:
            a = np.take(a, [*range(n), *range(a.shape[axis] - n, a.shape[axis])], axis=axis)
    return a


def _nested(a: np.ndarray, format_: Any, summary: bool, indent: int) -> str:
    if a.ndim == 0:
        return format_(a.item())
    n = _options.edgeitems
    cut = summary and a.shape[0] > 2 * n
    if a.ndim == 1:
        per_line = max(1, (_options.linewidth - indent) // (format_.width + 2))
        cells = [format_(v) for v in (a[:n].tolist() + a[-n:].tolist() if cut else a.tolist())]
        if cut:
            cells.insert(n, " ...")
        lines = [cells[i : i + per_line] for i in range(0, len(cells), per_line)] or [[]]
        return "[" + (",\n" + " " * (indent + 1)).join(", ".join(line) for line in lines) + "]"
    rows = [*a[:n], *a[-n:]] if cut else list(a)
    texts = [_nested(r, format_, summary, indent + 1) for r in rows]
    if cut:
        texts.insert(n, "...")
    return "[" + ("," + "\n" * (a.ndim - 1) + " " * (indent + 1)).join(texts) + "]"
