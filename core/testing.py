"""torch.testing: comparing tensors in tests."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor

__all__ = ["assert_close"]

_TOLERANCE = {  # dtype -> rtol, atol, as in torch
    "float16": (1e-3, 1e-5), "bfloat16": (1.6e-2, 1e-5), "float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7), "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}  # fmt: skip


def assert_close(
    actual: Any, expected: Any, *, allow_subclasses: bool = True, rtol: float | None = None, atol: float | None = None, equal_nan: bool
    = False,
    check_device: bool = True, check_dtype: bool = True, check_layout: bool = True, check_stride: bool = False, msg: Any = None,
) -> None:  # fmt: skip
    """An AssertionError unless |actual − expected| ≤ atol + rtol·|expected| everywhere, and shape, dtype and device agree. Sequences and
    mappings are compared by their elements."""
    options = {
        "rtol": rtol,
        "atol": atol,
        "equal_nan": equal_nan,
        "check_device": check_device,
        "check_dtype": check_dtype,
        "msg": msg,
    }
    if isinstance(expected, dict):
        _same("keys", sorted(actual), sorted(expected), msg)
        for key in expected:
            assert_close(actual[key], expected[key], **options)
        return
    if isinstance(expected, (list, tuple)):
        _same("length", len(actual), len(expected), msg)
        for a, e in zip(actual, expected):
            assert_close(a, e, **options)
        return
    a, e = (v if isinstance(v, Tensor) else core.tensor(v) for v in (actual, expected))
    _same("shape", tuple(a.shape), tuple(e.shape), msg)
    if check_dtype:
        _same("dtype", a.dtype, e.dtype, msg)
    if check_device:
        _same("device", a.device, e.device, msg)
    defaults = [_TOLERANCE.get(t.dtype.name, (0.0, 0.0)) for t in (a, e)]
    rtol = max(d[0] for d in defaults) if rtol is None else rtol
    atol = max(d[1] for d in defaults) if atol is None else atol
    d = core.promote_types(a.dtype, e.dtype)
    a, e = a.detach().cpu().to(d), e.detach().cpu().to(d)
    close = core.isclose(a, e, rtol=rtol, atol=atol, equal_nan=equal_nan)
    if not close.all():
        wide = core.complex128 if d.is_complex else core.float64
        worst = (a.to(wide) - e.to(wide)).abs().max().item()
        wrong = int((~close).sum())
        text = f"Tensor-likes are not close! Mismatched elements: {wrong} / {close.numel()}; greatest absolute difference: {worst}"
        raise AssertionError((msg(text) if callable(msg) else msg) or text)


def _same(what: str, actual: Any, expected: Any, msg: Any) -> None:
    if actual != expected:
        text = f"assert_close: expected {what} {expected}, got {actual}"
        raise AssertionError((msg(text) if callable(msg) else msg) or text)
