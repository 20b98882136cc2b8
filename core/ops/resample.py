"""Windows as columns, and columns added back: two linear maps, each the gradient of the other."""

from __future__ import annotations

import math
from typing import Any

from core.backend.base import conv_out_shape
from core.errors import ShapeError
from core.ops.op import op


def _windows_of(size: Any, k: Any, stride: Any, padding: Any, dilation: Any, where: str) -> tuple[int, ...]:
    out = conv_out_shape(size, k, stride, padding, dilation)
    if min(out) < 1:
        raise ShapeError(f"{where}: expected an image that holds a window of {k}, got {tuple(size)}")
    return out


@op(
    x=lambda F, g, x_shape, k, stride, padding, dilation: F.col2im(
        g, size=x_shape[2:], k=k, stride=stride, padding=padding, dilation=dilation
    )
)
def im2col(be, x, *, k, stride, padding, dilation):
    """(N, C, *in) -> (N, C·∏k, ∏out): the windows of a convolution, as columns."""
    out = _windows_of(x.shape[2:], k, stride, padding, dilation, "unfold")
    columns = be._columns(x, k, out, stride, padding, dilation)
    return columns.reshape(x.shape[0], x.shape[1] * math.prod(k), math.prod(out)).copy()


@op(
    x=lambda F, g, k, stride, padding, dilation: F.im2col(g, k=k, stride=stride, padding=padding, dilation=dilation)
)
def col2im(be, x, *, size, k, stride, padding, dilation):
    """(N, C·∏k, ∏out) -> (N, C, *size): each column added where `im2col` took it from."""
    out = _windows_of(size, k, stride, padding, dilation, "fold")
    if x.shape[1] % math.prod(k) or x.shape[2] != math.prod(out):
        raise ShapeError(
            f"fold: expected input (N, C·{math.prod(k)}, {math.prod(out)}) for output_size {tuple(size)} and "
            f"kernel_size {k}, "
            f"got {tuple(x.shape)}"
        )
    columns = x.reshape(x.shape[0], -1, *k, *out)
    return be.col2im(columns, tuple(size), out, stride, padding, dilation)
