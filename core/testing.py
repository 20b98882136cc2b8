"""torch.testing: comparing tensors in tests."""

from __future__ import annotations

from typing import Any

import core
from core._tensor import Tensor

__all__ = ["assert_allclose", "assert_close", "make_tensor"]

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


def assert_allclose(
    actual: Any, expected: Any, rtol: float | None = None, atol: float | None = None, equal_nan: bool = True, msg: Any = ""
) -> None:
    """`assert_close`, the older spelling: dtypes may differ."""
    assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan, check_dtype=False, check_device=True, msg=msg or None)


def make_tensor(
    *shape: Any, dtype: Any, device: Any = "cpu", low: float | None = None, high: float | None = None, requires_grad: bool = False,
    noncontiguous: bool = False, exclude_zero: bool = False, memory_format: Any = None,
) -> Tensor:  # fmt: skip
    """Random elements in [low, high): by default −9 to 10 for whole numbers (0 without a sign), −9 to 9 for others, 0 or 1 for bool."""
    size = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    drawn = (*size[:-1], 2 * size[-1]) if noncontiguous and size else size
    if dtype is core.bool:
        x = core.randint(0, 2, drawn).to(dtype)
    elif not (dtype.is_floating_point or dtype.is_complex):
        least = 0 if not dtype.is_signed else -9
        x = core.randint(int(least if low is None else low), int(10 if high is None else high), drawn).to(dtype)
    else:
        real = dtype.to_real() if dtype.is_complex else dtype
        lo, hi = -9.0 if low is None else low, 9.0 if high is None else high
        parts = [core.empty(drawn).uniform_(lo, hi).to(real) for _ in range(1 + dtype.is_complex)]
        x = core.complex(*parts) if dtype.is_complex else parts[0]
    if exclude_zero:
        x[x == 0] = 1
    x = x[..., ::2] if noncontiguous and size else x
    return x.to(device).requires_grad_(requires_grad)
