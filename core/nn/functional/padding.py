"""Padding as a function."""

from __future__ import annotations

from typing import Any

from core._tensor import Tensor
from core.errors import ArgumentError, ShapeError
from core.ops import shape as _shape

__all__ = ["pad"]

_MODES = ("constant", "reflect", "replicate", "circular")


def pad(input: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    """`pad` is (before, after) for the last dimension, then the one before it, and so on; negative numbers cut.

    Modes: a constant, the neighbours mirrored ("reflect"), the border repeated ("replicate"), the other end
    ("circular"); the last three leave the first one or two dimensions, N and C, alone.
    """
    pad = tuple(int(p) for p in pad)
    if mode == "constant":
        return _shape.constant_pad(input, pad=pad, value=0.0 if value is None else value)
    if mode not in _MODES:
        raise ArgumentError(f"pad: expected mode {', '.join(_MODES)}, got {mode!r}")
    if value is not None and value != 0:
        raise ArgumentError(f'Padding mode "{mode}" doesn\'t take in value argument, got {value}')
    dims = len(pad) // 2
    if len(pad) % 2 or not 1 <= dims <= 3 or input.dim() not in (dims + 1, dims + 2):
        raise ShapeError(
            f"pad: expected an input of {dims + 1} or {dims + 2} dimensions for padding {pad} of mode {mode!r}, got "
            f"{tuple(input.shape)}"
        )
    for i in range(dims):
        lo, hi = pad[2 * i : 2 * i + 2]
        if lo or hi:
            input = _extended(input, input.dim() - 1 - i, lo, hi, mode)
    return input


def _extended(x: Tensor, dim: int, lo: int, hi: int, mode: str) -> Tensor:
    """One dimension longer: pieces of itself before and after it."""
    n = x._a.shape[dim]
    most = {"reflect": n - 1, "circular": n}.get(mode)
    if most is not None and max(lo, hi) > most:
        raise ShapeError(
            f"pad: Padding size should be less than "
            f"{'the corresponding input dimension' if mode == 'reflect' else 'or equal to the input size'}"
            f", but got padding ({lo}, {hi}) at dimension {dim} of input {tuple(x.shape)}"
        )
    if n + lo + hi < 1 or not n:
        raise ShapeError(
            f"pad: expected an output with elements, got padding ({lo}, {hi}) at dimension {dim} of {tuple(x.shape)}")

    def piece(start: int, length: int) -> Tensor:
        return _shape.narrow(x, dim=dim, start=start, length=length)

    body = piece(max(-lo, 0), n - max(-lo, 0) - max(-hi, 0))
    before, after = max(lo, 0), max(hi, 0)
    parts = [body]
    if mode == "circular":
        parts = [*([piece(n - before, before)] * (before > 0)), body, *([piece(0, after)] * (after > 0))]
    elif mode == "reflect":
        if before:
            parts.insert(0, _shape.flip(piece(1, before), dims=(dim,)))
        if after:
            parts.append(_shape.flip(piece(n - 1 - after, after), dims=(dim,)))
    else:
        shape = list(x._a.shape)
        if before:
            shape[dim] = before
            parts.insert(0, _shape.expand(piece(0, 1), shape=tuple(shape)))
        if after:
            shape[dim] = after
            parts.append(_shape.expand(piece(n - 1, 1), shape=tuple(shape)))
    return _shape.cat(parts, dim=dim)
