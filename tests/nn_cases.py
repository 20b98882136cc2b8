"""The rows of `tests.cases` for the ops of layers: normalisation, activations, attention, recurrence, losses, windows.

`tests.cases` takes them in; import that, not this. A fused op is held against its definition in simpler ops. The
functions of `core.nn.functional` have their own table in `tests.test_nn`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import core
from core.ops import attention, rnn
from tests.cases import Row, a, b, c, k, n, row, u

erf = np.vectorize(math.erf, otypes=[float])


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softplus(x: Any) -> Any:
    return np.log1p(np.exp(x))


def _defined(composite: Callable[..., Any]) -> Callable[..., Any]:
    """The definition of a fused op as a function of arrays."""

    def oracle(*xs: Any, **params: Any) -> Any:
        y = composite(*(core.from_numpy(x) if isinstance(x, np.ndarray) else x for x in xs), **params)
        return tuple(t.numpy() for t in y) if isinstance(y, tuple) else y.numpy()

    return oracle


def _standardize(x: Any, w: Any = None, b: Any = None, *, axes: Any, eps: float) -> Any:
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    return y * (1 if w is None else w) + (0 if b is None else b)


def _rms(x: Any, w: Any, axes: Any, eps: float) -> Any:
    return x / np.sqrt((x * x).mean(axes, keepdims=True) + eps) * (1 if w is None else w)


def _gelu(x: Any, approximate: str = "none") -> Any:
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x * (1 + erf(x / np.sqrt(2))) / 2


def _elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
    return np.where(x > 0, scale * x, scale * alpha * (np.exp(input_scale * x) - 1))


def _ctc(logp: Any, path: Any, frames: Any, lengths: Any) -> Any:
    """The sum over every way to label the frames."""
    blank = path[0, 0]
    losses = []
    for row_of in range(path.shape[0]):
        target = path[row_of, 1 : lengths[row_of] : 2].tolist()
        total = 0.0
        for labels in itertools.product(range(logp.shape[2]), repeat=int(frames[row_of])):
            merged = [label for label, _ in itertools.groupby(labels)]
            if [label for label in merged if label != blank] == target:
                total += math.exp(sum(logp[t, row_of, label] for t, label in enumerate(labels)))
        losses.append(-math.log(total))
    return np.array(losses)


def _im2col(x: Any, k: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    out = [(s - d * (m - 1) - 1) // t + 1 for s, m, t, d in zip(x.shape[2:], k, stride, dilation)]
    columns = [
        x[:, :, i * stride[0] : i * stride[0] + dilation[0] * k[0] : dilation[0],
        j * stride[1] : j * stride[1] + dilation[1] * k[1] : dilation[1]]
        for i in range(out[0]) for j in range(out[1])
    ]  # fmt: skip
    return np.stack([v.reshape(x.shape[0], -1) for v in columns], axis=-1)


def _col2im(columns: Any, size: Any, **p: Any) -> Any:
    """The transpose of `_im2col`, element by element."""
    shape = (columns.shape[0], columns.shape[1] // math.prod(p["k"]), *size)
    y = np.zeros(shape)
    for at in np.ndindex(shape):
        one = np.zeros(shape)
        one[at] = 1
        y[at] = (_im2col(one, **p) * columns).sum()
    return y


def smooth(name: str, f: Callable[..., Any], *cases: Any, torch: Any = "") -> Row:
    """An activation on usual shapes and with its parameters."""
    name_of = f"nn.functional.{name}" if torch == "" else torch
    return row(name, f, c(n(3, 4)), c(n()), c(n(4, 3).T), c(n(0, 2)), *cases, torch=name_of)


_w2 = {"k": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
_x, _h = n(6, 3), n(2, 4)
_sizes: tuple[dict[str, Any], ...] = (
    {"sizes": (2, 2, 2)}, {"sizes": (2, 2, 1, 1)}, {"sizes": (2, 2, 1, 1), "reverse": True}, {"sizes": (2, 2, 2),
    "reverse": True},
)  # fmt: skip
_path = np.array([[0, 1, 0, 2, 0], [0, 2, 0, 2, 0], [0, 1, 0, 0, 0]])


def _runs(gates: int, states: int, **params: Any) -> list[Any]:
    """The cases of a recurrent layer."""
    hs = [_h] * states
    weights = [n(4 * gates, 3), n(4 * gates, 4)]
    biases = [n(4 * gates), n(4 * gates)]
    return [c([_x, *hs, *weights, *biases, *[None] * (gates == 4)], **p, **params) for p in _sizes] + [
        c([_x, *hs, *weights, None, None, *[None] * (gates == 4)], **_sizes[0], **params)
    ]


def _full(composite: Callable[..., Any], **defaults: Any) -> Callable[..., Any]:
    return lambda *xs, **p: _defined(composite)(*xs, **({"reverse": False} | defaults | p))


def _positive(be, x, residual, scale):
    """Keeps what is positive."""
    keep = x > 0
    return residual + x * keep.astype(x.dtype) * scale, keep


NN_ROWS = [
    row("standardize", _standardize, c([n(3, 4, 2), n(1, 4, 1), n(1, 4, 1)], axes=(0, 2), eps=1e-5), c([n(3, 4), n(4),
        n(4)], axes=(1,), eps=1e-3),
        c([n(2, 3, 4), n(3, 4), None], axes=(1, 2), eps=1e-5), c([n(2, 3, 4), None, None], axes=(2,), eps=1e-5),
        torch=None),
    row("rms_norm", _rms, c([n(3, 4), n(4)], axes=(1,), eps=1e-3), c([n(2, 3, 4), n(3, 4)], axes=(1, 2), eps=1e-5),
        c([n(3, 4), None], axes=(1,), eps=1e-5),
        torch=None),
    smooth("leaky_relu", lambda x, negative_slope=0.01: np.where(x > 0, x, x * negative_slope), c(n(3),
        negative_slope=0.2)),
    row("prelu", lambda x, w: np.where(x > 0, x, x * w), c(n(3, 4), n(1)), c(n(2, 3, 4), n(3, 1)), torch=None),
    smooth("elu", _elu, c(n(3), alpha=0.5, scale=2.0, input_scale=1.5), torch=None),
    smooth("normal_cdf", lambda x: (1 + erf(x / np.sqrt(2))) / 2, c(u(-9, 9, 50)), torch="special.ndtr"),
    smooth("gelu", _gelu, c(n(3, 4), approximate="tanh"), c(u(-9, 9, 50))),
    smooth("silu", lambda x: x * sigmoid(x)),
    smooth("mish", lambda x: x * np.tanh(softplus(x))),
    smooth("softplus", lambda x, beta=1.0, threshold=20.0: np.where(beta * x > threshold, x, softplus(beta * x) / beta),
        c(n(9), beta=2.0, threshold=1.0)),
    smooth("logsigmoid", lambda x: -softplus(-x)),
    smooth("hardtanh", lambda x, lo=-1.0, hi=1.0: np.clip(x, lo, hi), c(n(9), lo=-0.5, hi=0.7),
        torch=lambda torch, x, lo=-1.0, hi=1.0: torch.nn.functional.hardtanh(x, lo, hi)),
    smooth("hardswish", lambda x: x * np.clip(x + 3, 0, 6) / 6, c(u(-5, 5, 20))),
    smooth("hardsigmoid", lambda x: np.clip(x + 3, 0, 6) / 6, c(u(-5, 5, 20)),  # torch's own rounds 1/6 to float32
        torch=lambda torch, x: torch.nn.functional.relu6(x + 3) / 6),
    smooth("softshrink", lambda x, lambd=0.5: np.sign(x) * np.maximum(np.abs(x) - lambd, 0), c(n(9), lambd=0.1)),
    smooth("hardshrink", lambda x, lambd=0.5: np.where(np.abs(x) > lambd, x, 0), c(n(9), lambd=0.1)),
    row("threshold", lambda x, threshold, value: np.where(x > threshold, x, value), c(n(3, 4), threshold=0.1,
        value=20.0), c(n(), threshold=0.0, value=-1.0),
        torch="nn.functional.threshold"),
    row("add_relu", lambda x, y: np.maximum(x + y, 0), c(n(3, 4), n(3, 4)), c(n(2, 3, 4), n(3, 1)), torch=None),
    row("add_gelu", lambda x, y, approximate="none": _gelu(x + y, approximate), c(n(3, 4), n(3, 4)),
        c(n(2, 3, 4), n(3, 1), approximate="tanh"), torch=None),
    row("linear_relu", lambda x, w, b: np.maximum(x @ w.T + b, 0), c(n(5, 3), n(4, 3), n(4)),
        c(n(2, 5, 3), n(4, 3), n(4)), torch=None),
    row("standardize_relu", lambda *xs, **params: np.maximum(_standardize(*xs, **params), 0),
        c([n(3, 4, 2), n(1, 4, 1), n(1, 4, 1)], axes=(0, 2), eps=1e-5), c([n(3, 4, 2), None, None], axes=(0, 2), eps=1e-5),
        torch=None),
    row("linear_gelu", lambda x, w, b: _gelu(x @ w.T + b, "tanh"), c(n(5, 3), n(8, 3), n(8)),
        c(n(2, 5, 3), n(4, 3), n(4)), torch=None),
    row("kept", lambda x, keep, scale: x * keep * scale, c(n(3, 4), b(3, 4), scale=2.0), torch=None),
    row("dropout_add", lambda x, residual, scale, draw: draw(None, x, residual, scale)[0],
        c(n(3, 4), n(3, 4), scale=2.0, draw=_positive), torch=None),
    row("attention", lambda *xs, causal=False, scale: _defined(attention._attention)(*xs, causal=causal, scale=scale),
        c([n(2, 3, 4), n(2, 5, 4), n(2, 5, 2), None, None], scale=0.5), c([n(3, 4), n(3, 4), n(3, 4), None, None],
        scale=0.5, causal=True),
        c([n(2, 2, 3, 4), n(2, 2, 5, 4), n(2, 2, 5, 4), b(2, 1, 3, 5), None], scale=1.0), c([n(2, 3, 4), n(1, 5, 4),
        n(1, 5, 4), k(n(3, 5)), None], scale=0.3),
        c([n(2, 4), n(3, 4), n(3, 4), a([[True, False, True], [False, False, False]]), k(a(np.array([[2.0, 0, 0], [2, 2,
        0]])))], scale=0.3), torch=None),
    row("rnn_layer", _full(rnn._rnn, relu=False), *_runs(1, 1), *_runs(1, 1, relu=True)[:1], torch=None),
    row("lstm_layer", _full(rnn._lstm), *_runs(4, 2), c([_x, n(2, 2), _h, n(16, 3), n(16, 2), n(16), n(16), n(2, 4)],
        sizes=(2, 2, 1, 1)), torch=None),
    row("gru_layer", _full(rnn._gru), *_runs(3, 1), torch=None),
    row("squared_error", lambda x, y, mean: np.mean((x - y) ** 2) if mean else np.sum((x - y) ** 2),
        c(n(3, 4), n(3, 4), mean=True), c(n(2, 3), n(2, 3), mean=False), torch=None),
    row("bce_with_logits", lambda x, y: softplus(x) - x * y, c(n(3, 4), u(0, 1, 3, 4)), c(n(3, 4), u(0, 1, 4)),
        torch=None),
    row("bce", lambda x, y: -y * np.log(x) - (1 - y) * np.log(1 - x), c(u(0.1, 0.9, 3, 4), u(0, 1, 3, 4)), torch=None),
    row("huber", lambda x, delta: np.where(np.abs(x) <= delta, x * x / 2, delta * (np.abs(x) - delta / 2)), c(n(3, 4),
        delta=0.7), c(n(), delta=9.0),
        torch=None),
    row("ctc", _ctc, c(k(n(4, 3, 3)), _path, np.array([4, 4, 2]), np.array([5, 5, 3])), torch=None),
    row("im2col", _im2col, c(n(2, 3, 5, 6), **_w2), torch=None),
    row("col2im", _col2im, c(n(2, 12, 12), size=(5, 5), **_w2 | {"k": (2, 2), "dilation": (1, 1)}), torch=None),
]  # fmt: skip
