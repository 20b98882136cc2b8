"""The table of ops: for each one inputs, parameters, and what NumPy says the result is.

A row is `row(name, oracle, case, …)`; a case is the inputs in order,
    then parameters by keyword. An input is a recipe that draws an array
(`n(3, 4)`: standard normal),
    or anything else as it is. The oracle gets the same inputs as arrays and the same parameters. `tests.test_ops` runs
the rows on every device,
    `tests.test_oracle_ops` runs them against PyTorch; an op or a public function without a row fails the first.
Arrays are float64, so that gradients can be checked by differences; other dtypes are the business of `test_oracle_ops`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from core import fft, functions, linalg
from core.nn import functional
from core.ops.op import OPS, Op

# -- recipes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How to draw an array."""

    draw: Callable[[np.random.Generator], np.ndarray]
    constant: bool = False  # not differentiated: weights of classes

    @property
    def T(self) -> Recipe:
        """The same with its memory in the other order: not contiguous."""
        return Recipe(lambda rng: self.draw(rng).T)


def n(*shape: int) -> Recipe:
    """Standard normal."""
    return Recipe(lambda rng: np.asarray(rng.standard_normal(shape)))


def u(low: float, high: float, *shape: int) -> Recipe:
    """Uniform, from low to high."""
    return Recipe(lambda rng: np.asarray(rng.uniform(low, high, shape)))


def d(*shape: int) -> Recipe:
    """Distinct, at least 0.1 apart: for maxima, and for order."""
    size = int(np.prod(shape))
    return Recipe(lambda rng: np.asarray((rng.permutation(size).reshape(shape) - size / 2) / 10 + 0.05))


def i(high: int, *shape: int) -> Recipe:
    """Integers in [0, high)."""
    return Recipe(lambda rng: np.asarray(rng.integers(0, high, shape)))


def b(*shape: int) -> Recipe:
    """Booleans."""
    return Recipe(lambda rng: np.asarray(rng.integers(0, 2, shape).astype(bool)))


def z(*shape: int) -> Recipe:
    """Complex normal."""
    return Recipe(lambda rng: np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)))


def a(values: Any) -> Recipe:
    """These values."""
    return Recipe(lambda rng: np.array(values))


def k(recipe: Recipe) -> Recipe:
    """The same, as a constant."""
    return Recipe(recipe.draw, constant=True)


# -- rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    inputs: tuple[Any, ...]
    params: dict[str, Any]

    def arrays(self, seed: int = 0) -> list[Any]:
        """The inputs drawn, with those of variadic ops as a list."""
        rng = np.random.default_rng(seed)
        return [_drawn(x, rng) for x in self.inputs]


def _drawn(x: Any, rng: np.random.Generator) -> Any:
    return x.draw(rng) if isinstance(x, Recipe) else [_drawn(y, rng) for y in x] if isinstance(x, list) else x


def c(*inputs: Any, **params: Any) -> Case:
    return Case(inputs, params)


@dataclass(frozen=True)
class Row:
    name: str  # of an op, of a function of core.functions, or after "F.", "linalg.", "fft." of core.nn.functional and so on
    oracle: Callable[..., Any]
    cases: tuple[Case, ...]
    torch: Any  # torch's name for it ("nn.functional.relu"), a function of (torch, *inputs, **params), or None: torch has not got it
    dtypes: bool  # whether it is held against PyTorch in every dtype

    @property
    def call(self) -> Callable[..., Any]:
        """What users call."""
        room, _, name = self.name.rpartition(".")
        if room:
            return getattr({"F": functional, "linalg": linalg, "fft": fft}[room], name)
        return OPS.get(self.name) or getattr(functions, self.name)

    def smooth(self, case: Case, number: int, x: Any) -> bool:
        """Whether input `number`, the array x, has a gradient."""
        f = self.call
        if getattr(case.inputs[number], "constant", False):
            return False
        has_rule = not isinstance(f, Op) or f.variadic or (number < f.arity and f.inputs[number] in f.rules)
        return has_rule and isinstance(x, np.ndarray) and x.dtype.kind in "fc"


def row(name: str, oracle: Callable[..., Any], *cases: Case, torch: Any = "", dtypes: bool = False) -> Row:
    return Row(name, oracle, cases, name.replace("F.", "nn.functional.") if torch == "" else torch, dtypes)


def required() -> set[str]:
    """Every name that must have a row. Functions of core.nn.functional have rows where they do more than call an op."""
    public = {
        k
        for family in functions.FAMILIES
        for k, f in vars(family).items()
        if inspect.isfunction(f) and f.__module__ == family.__name__ and k[0] != "_"
    }
    return set(OPS) | public - set(NOT_HERE)


# Public functions that are no functions of arrays to an array: where they are tested
NOT_HERE = {
    "to": "test_tensor", "transfer": "test_tensor", "cpu": "test_tensor", "cuda": "test_tensor", "type_": "test_tensor",
    "numel": "test_tensor", "is_tensor": "test_tensor", "equal": "test_tensor", "allclose": "test_tensor",
    "broadcast_tensors": "test_tensor", "broadcast_shapes": "test_tensor", "type_as": "test_tensor", "get_device": "test_tensor",
    "is_nonzero": "test_tensor", "is_same_size": "test_tensor", "is_signed": "test_tensor", "is_conj": "test_tensor",
        "pin_memory": "test_tensor",
    "is_pinned": "test_tensor", "cauchy_": "test_oracle_ops", "geometric_": "test_oracle_ops", "log_normal_": "test_oracle_ops",
    "poisson": "test_oracle_ops", "randint_like": "test_oracle_ops", "binomial": "test_oracle_random", "histogramdd": "test_science",
    **dict.fromkeys("""apply_ as_strided_ as_strided_scatter fill_diagonal_ frexp is_set_to is_shared map2_ map_ new nonzero_static
    pca_lowrank resize_ resize_as_ set_ share_memory_ storage svd_lowrank unravel_index untyped_storage""".split(), "test_science"),
    "record_stream": "test_science", "standard_gamma_draws": "test_oracle_distributions",
}  # fmt: skip


# -- oracles -----------------------------------------------------------------------------------------------------------


def _axes(f: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction of NumPy with torch's parameters."""
    return lambda x, dim=None, keepdim=False: f(x, axis=tuple(dim) if isinstance(dim, list) else dim, keepdims=keepdim)


def _along(take: Callable[..., Any]) -> Callable[..., Any]:
    """(values, indices) along a dimension, from the indices."""

    def oracle(x: Any, dim: int = -1, keepdim: bool = False, **params: Any) -> Any:
        if not x.ndim:
            return x, np.int64(0)
        index = take(x, dim, **params)
        values = np.take_along_axis(x, index, dim)
        return (values, index) if keepdim else (values.squeeze(dim), index.squeeze(dim))

    return oracle


def _order(x: Any, dim: int = -1, descending: bool = False, **_: Any) -> Any:
    return np.argsort(-x if descending else x, axis=dim, kind="stable")


def _sorted(x: Any, dim: int = -1, **params: Any) -> Any:
    return _along(_order)(x, dim, True, **params)


def _topk(x: Any, k: int, dim: int = -1, largest: bool = True) -> Any:
    return _along(lambda x, dim: np.take(_order(x, dim, largest), np.arange(k), axis=dim))(x, dim, True)


def _softmax(x: Any, dim: int) -> Any:
    e = np.exp(x)
    return e / e.sum(dim, keepdims=True)


def _norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    ax = np.abs(x)
    red = {"axis": dim, "keepdims": keepdim}
    if p == np.inf:
        return ax.max(**red)
    if p == -np.inf:
        return ax.min(**red)
    if p == 0:
        return (x != 0).sum(**red).astype(ax.dtype)
    return (ax ** (2 if p == "fro" else p)).sum(**red) ** (1 / (2 if p == "fro" else p))


def _picked(x: Any, index: Any, dim: int) -> Any:
    """For each element of the index, its place in x."""
    for at in np.ndindex(index.shape):
        place = list(at)
        place[dim] = index[at]
        yield at, tuple(place)


def _gather(x: Any, index: Any, dim: int) -> Any:
    y = np.empty(index.shape, x.dtype)
    for at, place in _picked(x, index, dim):
        y[at] = x[place]
    return y


def _scatter(x: Any, index: Any, src: Any, dim: int, add: bool = False) -> Any:
    y = x.copy()
    for at, place in _picked(x, index, dim):
        value = src[at] if isinstance(src, np.ndarray) else src
        y[place] = y[place] + value if add else value
    return y


def _index_put(x: Any, y: Any, index: Any, accumulate: bool = False) -> Any:
    out = x.copy()
    if accumulate:
        np.add.at(out, index, y)
    else:
        out[index] = y
    return out


def _conv(
    x: Any, w: Any, b: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    """By the definition, an output at a time."""
    k = w.shape[2:]
    stride, padding, dilation = (v if isinstance(v, tuple) else (v,) * len(k) for v in (stride, padding, dilation))
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    size = [(m - t * (q - 1) - 1) // s + 1 for m, q, s, t in zip(x.shape[2:], k, stride, dilation)]
    y = np.zeros((len(x), len(w), *size), x.dtype)
    per_in, per_out = w.shape[1], len(w) // groups
    for g, at in product(range(groups), np.ndindex(*size)):
        window = tuple(slice(o * s, o * s + t * (q - 1) + 1, t) for o, s, t, q in zip(at, stride, dilation, k))
        xs = x[(slice(None), slice(g * per_in, (g + 1) * per_in), *window)].reshape(len(x), -1)
        ws = w[g * per_out : (g + 1) * per_out].reshape(per_out, -1)
        y[(slice(None), slice(g * per_out, (g + 1) * per_out), *at)] = xs @ ws.T
    return y if b is None else y + b.reshape(-1, *(1,) * len(k))


def _transposed(f: Callable[[Any], Any], g: Any, shape: Any) -> Any:
    """The transpose of a linear f on arrays of this shape, applied to g: column by column."""
    dx = np.empty(shape)
    for at in np.ndindex(*shape):
        unit = np.zeros(shape)
        unit[at] = 1
        dx[at] = (f(unit) * g).sum()
    return dx


def _windows(x: Any, k: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, fill: float) -> Any:
    """For each output, its window, with what lies outside of the input as `fill`."""
    size = []
    for m, q, s, p, t in zip(x.shape[2:], k, stride, padding, dilation):
        span = m + 2 * p - t * (q - 1) - 1
        o = (-(-span // s) if ceil_mode else span // s) + 1
        size.append(o - 1 if ceil_mode and (o - 1) * s >= m + p else o)
    x = np.pad(
        x,
        [(0, 0), (0, 0), *((p, p + t * q + s) for p, q, s, t in zip(padding, k, stride, dilation))],
        constant_values=fill,
    )
    for at in np.ndindex(*size):
        yield (
            at,
            size,
            x[(..., *(slice(o * s, o * s + t * (q - 1) + 1, t) for o, s, t, q in zip(at, stride, dilation, k)))],
        )


def _pool(how: Callable[[Any], Any], fill: float) -> Callable[..., Any]:
    def oracle(x: Any, *, k: Any, stride: Any, padding: Any, dilation: Any = None, ceil_mode: bool = False) -> Any:
        y = None
        for at, size, window in _windows(x, k, stride, padding, dilation or (1,) * len(k), ceil_mode, fill):
            y = np.empty((*x.shape[:2], *size), x.dtype) if y is None else y
            y[(..., *at)] = how(window.reshape(*x.shape[:2], -1))
        return y

    return oracle


_max_pool = _pool(lambda w: w.max(-1), -np.inf)
_sum_pool = _pool(lambda w: w.sum(-1), 0)


def _public_pool(n: int, average: bool) -> Callable[..., Any]:
    def oracle(
        x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> Any:  # fmt: skip
        k, s, p, t = (
            (v,) * n if isinstance(v, int) else v for v in (kernel_size, stride or kernel_size, padding, dilation)
        )
        single = x.ndim == n + 1
        x = x[None] if single else x
        g = {"k": k, "stride": s, "padding": p, "dilation": t, "ceil_mode": ceil_mode}
        if not average:
            y = _max_pool(x, **g)
        else:
            # torch counts the padding, but not what ceil_mode adds beyond it
            ones = (
                np.ones_like(x)
                if not count_include_pad
                else np.ones((*x.shape[:2], *(m + 2 * q for m, q in zip(x.shape[2:], p))))
            )
            counted = _sum_pool(ones, **(g if not count_include_pad else g | {"padding": (0,) * n}))
            y = _sum_pool(x, **g)
            y = y / (divisor_override or counted[(..., *map(slice, y.shape[2:]))])
        return y[0] if single else y

    return oracle


def _nll(x: Any, target: Any, w: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Any:
    x = x[None] if x.ndim == 1 else x
    t = target.reshape(len(x), -1)
    loss, weights = np.zeros(t.shape), np.zeros(t.shape)
    for at in np.ndindex(*t.shape):
        if t[at] != ignore_index:
            weights[at] = 1 if w is None else w[t[at]]
            loss[at] = -weights[at] * x.reshape(*x.shape[:2], -1)[at[0], t[at], at[1]]
    return {"none": loss.reshape(target.shape), "sum": loss.sum(), "mean": loss.sum() / weights.sum()}[reduction]


def _cross_entropy(
    x: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    dim = 1 if x.ndim > 1 else 0
    logp = np.log(_softmax(x, dim))
    classes = x.shape[dim]
    wide = (classes,) + (1,) * (x.ndim - 1 - dim)
    w = np.ones(classes) if weight is None else weight
    if target.dtype.kind == "f":
        t = target * (1 - label_smoothing) + label_smoothing / classes
        loss = -(logp * t * w.reshape(wide)).sum(dim)
        return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / max(1, loss.size)}[reduction]
    keep = target != ignore_index
    hard = _nll(logp, target, w, ignore_index, "none")
    soft = np.where(keep, -(logp * w.reshape(wide)).sum(dim), 0) / classes
    loss = hard * (1 - label_smoothing) + soft * label_smoothing
    return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / (w[np.where(keep, target, 0)] * keep).sum()}[
        reduction
    ]


def _reduced(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y, reduction="mean": {"mean": np.mean, "sum": np.sum, "none": lambda v: v}[reduction](f(x, y))


def _adaptive(x: Any, output_size: Any) -> Any:
    h, w = (output_size, output_size) if isinstance(output_size, int) else output_size
    h, w = h or x.shape[-2], w or x.shape[-1]
    y = np.empty((*x.shape[:-2], h, w))
    for r, q in np.ndindex(h, w):
        rows, cols = (slice(j * m // o, -(-(j + 1) * m // o)) for j, m, o in ((r, x.shape[-2], h), (q, x.shape[-1], w)))
        y[..., r, q] = x[..., rows, cols].mean((-2, -1))
    return y


def _pad(x: Any, pad: Any, value: float = 0.0) -> Any:
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + [(pad[j], pad[j + 1]) for j in range(len(pad) - 2, -1, -2)]
    x = x[tuple(slice(max(-lo, 0), m - max(-hi, 0)) for (lo, hi), m in zip(pairs, x.shape))]
    return np.pad(x, [(max(lo, 0), max(hi, 0)) for lo, hi in pairs], constant_values=value)


def _extreme(whole: Any, index: Any, pair: Any) -> Callable[..., Any]:
    def oracle(x: Any, other: Any = None, dim: Any = None, keepdim: bool = False) -> Any:
        if other is not None:
            return pair(x, other)
        return whole(x) if dim is None else _along(lambda x, dim: index(x, dim, keepdims=True))(x, dim, keepdim)

    return oracle


def _moments(f: Any) -> Callable[..., Any]:
    return lambda x, dim=None, correction=1, keepdim=False, unbiased=True: f(
        x, axis=dim, ddof=correction if unbiased else 0, keepdims=keepdim
    )


def _logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Any:
    return np.log(np.exp(x).sum(axis=dim, keepdims=keepdim))


def _diagonal_put(x: Any, g: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    y = x.copy()
    view = np.diagonal(y, offset, dim1, dim2)
    view.flags.writeable = True
    view[...] = g
    return y


def _slice_put(x: Any, g: Any, index: Any) -> Any:
    y = x.copy()
    y[index] = g
    return y


def _pieces(x: Any, sizes: Any, dim: int = 0) -> Any:
    m = x.shape[dim]
    ends = np.cumsum(sizes) if isinstance(sizes, list) else np.arange(sizes, m + sizes, sizes)
    return tuple(np.split(x, ends[:-1], dim))


def _squeeze(x: Any, dim: Any = None) -> Any:
    dims = range(x.ndim) if dim is None else dim if isinstance(dim, tuple) else (dim,)
    drop = {j % max(x.ndim, 1) for j in dims}
    return x.reshape([m for j, m in enumerate(x.shape) if j not in drop or m != 1])


def _clamp(x: Any, lo: Any = None, hi: Any = None) -> Any:
    x = x if lo is None else np.maximum(x, lo)
    return x if hi is None else np.minimum(x, hi)


def _div(x: Any, y: Any, rounding_mode: Any = None) -> Any:
    return {None: np.true_divide, "floor": np.floor_divide, "trunc": lambda x, y: np.trunc(x / y)}[rounding_mode](x, y)


def _softmax_grad(g: Any, y: Any, dim: int) -> Any:
    return y * (g - (g * y).sum(dim, keepdims=True))


def _pick(x: Any, won: Any, k: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """By flat position in each window."""
    y = np.empty(won.shape)
    for at, _, window in _windows(x, k, stride, padding, dilation, False, 0):
        flat = window.reshape(*x.shape[:2], -1)
        y[(..., *at)] = np.take_along_axis(flat, won[(..., *at)][..., None].astype(int), -1)[..., 0]
    return y


def _max_pool_index(x: Any, k: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool = False) -> Any:
    """Positions are values of a second pool, over the positions themselves."""
    y = None
    where = np.broadcast_to(np.arange(np.prod(x.shape[2:]), dtype=float).reshape(x.shape[2:]), x.shape)
    places = [w for *_, w in _windows(where, k, stride, padding, dilation, ceil_mode, -1)]
    for (at, size, window), place in zip(_windows(x, k, stride, padding, dilation, ceil_mode, -np.inf), places):
        y = np.empty((*x.shape[:2], *size), np.int64) if y is None else y
        best = window.reshape(*x.shape[:2], -1).argmax(-1)[..., None]
        y[(..., *at)] = np.take_along_axis(place.reshape(*x.shape[:2], -1), best, -1)[..., 0]
    return y


def _of_won(f: Callable[..., Any]) -> Callable[..., Any]:
    """max_pool_grad is the transpose of max_pool_pick."""
    return lambda g, won, x_shape, **p: _transposed(lambda x: f(x, won, **p), g, x_shape)


# -- the table ---------------------------------------------------------------------------------------------------------


def _gelu_slope(x: Any, approximate: str) -> Any:
    if approximate == "none":
        erf = np.vectorize(math.erf, otypes=[float])
        return (1 + erf(x / np.sqrt(2))) / 2 + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    t = np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t * t) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x * x)


def unary(name: str, oracle: Callable[..., Any], low: float = -2.0, high: float = 2.0, **kwargs: Any) -> Row:
    """An elementwise function of one argument."""
    shapes = [u(low, high, 3, 4), u(low, high), u(low, high, 0, 3), u(low, high, 4, 3).T]
    return row(name, oracle, *map(c, shapes), **{"dtypes": True} | kwargs)


def binary(name: str, oracle: Callable[..., Any], *more: Case, draw: Any = n, **kwargs: Any) -> Row:
    """An elementwise function of two arguments: shapes that broadcast, and numbers."""
    cases = [
        c(draw(3, 4), draw(3, 4)), c(draw(3, 4), draw(4)), c(draw(2, 1), draw(1, 3)), c(draw(), draw(2)), c(draw(), draw()),
        c(draw(0, 3), draw(3)), c(draw(4, 3).T, draw(3, 4)), c(draw(2, 3), 2.5),
    ]  # fmt: skip
    return row(name, oracle, *cases, *more, **{"dtypes": True} | kwargs)


def reduction(
    name: str, oracle: Callable[..., Any], *more: Case, draw: Any = n, empty: bool = True, **kwargs: Any
) -> Row:
    """A reduction: over one dimension, several, all."""
    cases = [
        c(draw(3, 4)), c(draw(3, 4), dim=0), c(draw(2, 3, 4), dim=-1, keepdim=True), c(draw(2, 3, 4), dim=(0, 2)),
        c(draw(3, 4), dim=(0, 1), keepdim=True), c(draw()), c(draw(4, 3).T, dim=1), c(draw(2, 0, 3), dim=0),
    ]  # fmt: skip
    return row(name, oracle, *cases, *([c(draw(0, 3), dim=0), c(draw(0))] * empty), *more, **{"dtypes": True} | kwargs)


def positive(*shape: int) -> Recipe:
    return u(0.5, 2.0, *shape)


_g1 = {"k": (2,), "stride": (2,), "padding": (1,)}
_g2 = {"k": (2, 3), "stride": (2, 1), "padding": (1, 0)}
_d1, _d2 = {"dilation": (1,)}, {"dilation": (1, 2)}
_conv2 = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
_conv1 = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1}
_reductions = ("none", "sum", "mean")

POINTWISE = [
    binary("add", lambda x, y, alpha=1: x + alpha * y, c(n(2, 3), n(3), alpha=2), c(n(3), 2, alpha=0.5)),
    binary("sub", lambda x, y, alpha=1: x - alpha * y, c(n(2, 3), n(3), alpha=2)),
    binary("rsub", lambda x, y, alpha=1: y - alpha * x, c(n(2, 3), n(3), alpha=2)),
    binary("mul", lambda x, y: x * y, c(2.5, n(3)), torch=lambda torch, x, y: x * y),
    binary("div", _div, c(2.5, positive(3)), *(c(n(2, 3), positive(3), rounding_mode=m) for m in ("floor", "trunc")),
        draw=positive,
           torch=lambda torch, x, y, **p: torch.div(torch.as_tensor(x), y, **p)),
    binary("remainder", np.remainder, c(n(3), -1.5), draw=lambda *s: u(1, 4, *s)),
    binary("fmod", np.fmod, c(n(3), -1.5), draw=lambda *s: u(1, 4, *s)),
    binary("pow", np.power, *(c(positive(3), p) for p in (0, 1, 2, 3, 0.5, -1, -0.5)), c(2.0, n(3)),
        c(n(3), 3), draw=positive),
    unary("neg", np.negative),
    unary("abs", np.abs),
    unary("sign", np.sign),
    unary("sgn", np.sign),
    row("conj", np.conj, c(n(3)), c(z(2, 3)), torch=lambda torch, x: torch.conj(x).resolve_conj()),
    unary("exp", np.exp),
    unary("expm1", np.expm1),
    unary("log", np.log, 0.2),
    unary("log2", np.log2, 0.2),
    unary("log10", np.log10, 0.2),
    unary("log1p", np.log1p, -0.8),
    unary("sqrt", np.sqrt, 0.2),
    unary("rsqrt", lambda x: 1 / np.sqrt(x), 0.2),
    unary("reciprocal", lambda x: 1 / x, 0.2),
    unary("square", np.square),
    unary("sin", np.sin),
    unary("cos", np.cos),
    unary("tan", np.tan, -1, 1),
    unary("asin", np.arcsin, -0.9, 0.9),
    unary("acos", np.arccos, -0.9, 0.9),
    unary("atan", np.arctan),
    binary("atan2", np.arctan2, draw=positive, torch=lambda torch, x, y: torch.atan2(x, torch.as_tensor(y))),
    unary("sinh", np.sinh),
    unary("cosh", np.cosh),
    unary("tanh", np.tanh),
    unary("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    unary("floor", np.floor),
    unary("ceil", np.ceil),
    unary("trunc", np.trunc),
    row("round", lambda x, decimals=0: np.round(x, decimals), c(n(3, 4)), c(n()), c(n(3), decimals=2), dtypes=True),
    unary("relu", lambda x: np.maximum(x, 0)),
    binary("maximum", np.maximum, torch=lambda torch, x, y: torch.maximum(x, torch.as_tensor(y))),
    binary("minimum", np.minimum, torch=lambda torch, x, y: torch.minimum(x, torch.as_tensor(y))),
    row("clamp", _clamp, c(n(3, 4), -0.5, 0.5), c(n(3), None, 0.5), c(n(3), -0.5), c(n(3, 4), n(4), None),
        c(n(2, 3), u(-1, 0, 3), u(0, 1, 2, 1)),
        c(n(), -0.5), c(n(4, 3).T, 0), c(n(0, 2), 0, 1), dtypes=True),
    row("where", np.where, c(b(3, 4), n(3, 4), n(4)), c(b(2, 1), n(1, 3), n()), c(b(3), n(3), 0.0),
        c(b(3), 1.0, n(3)), c(b(), n(2), n(2)),
        c(b(0, 2), n(2), n(2)), dtypes=True),
    row("masked_fill", lambda x, m, v: np.where(m, v, x), c(n(3, 4), b(3, 4), 1.5), c(n(3, 4), b(4), n()),
        c(n(3), b(2, 3), 7), c(n(), b(), 2),
        dtypes=True),
    row("cast", lambda x, dtype: x.astype(dtype), c(n(3), dtype=np.float64), c(u(-9, 9, 3, 4), dtype=np.int64),
        c(b(3), dtype=np.float64),
        torch=None),
    unary("clone", np.copy, dtypes=False),
    *(binary(k, f, c(i(3, 2, 3), i(3, 3)), c(i(3, 4), 1)) for k, f in {
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}.items()),
    *(row(k, f, c(b(3, 4), b(4)), c(i(3, 2, 3), n(3)), c(b(), b(2)), dtypes=True) for k, f in {
        "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}.items()),
    row("logical_not", np.logical_not, c(b(3, 4)), c(i(2, 3)), c(b()), dtypes=True),
    *(row(k, f, c(b(3, 4), b(4)), c(i(9, 2, 3), i(9, 3)), c(i(9, 3), 5), dtypes=True) for k, f in {
        "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor}.items()),
    row("bitwise_not", np.invert, c(b(3, 4)), c(i(9, 3)), dtypes=True),
    *(row(k, f, c(a([1.0, np.nan, np.inf, -np.inf])), c(n(0, 2)), c(i(3, 2)), dtypes=True) for k, f in {
        "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite}.items()),
    row("isclose", np.isclose, c(a([1.0, 2.0, np.nan]), a([1.0 + 1e-9, 2.1, np.nan])),
        c(n(3), n(3), rtol=1.0, atol=0.5)),
]  # fmt: skip

REDUCE = [
    reduction("sum", _axes(np.sum)),
    reduction("mean", _axes(np.mean), empty=False),
    row("prod", _axes(np.prod), c(n(3, 4)), c(n(3, 4), dim=0), c(n(2, 3, 4), dim=-1, keepdim=True), c(n()),
        c(n(4, 3).T, dim=1), c(n(0, 3), dim=0),
        c(a([[0.0, 2.0, 3.0], [0.0, 0.0, 3.0]]), dim=1), c(a([0.0, 2.0, 3.0])), dtypes=True),
    reduction("amax", _axes(np.max), draw=d, empty=False),
    reduction("amin", _axes(np.min), draw=d, empty=False),
    row("max_dim", _along(lambda x, dim: x.argmax(dim, keepdims=True)), c(d(3, 4), dim=0),
        c(d(2, 3, 4), dim=-2, keepdim=True), c(d(3), dim=0),
        c(d(), dim=0), c(d(4, 3).T, dim=1), c(n(0, 3), dim=1), torch="max"),
    row("min_dim", _along(lambda x, dim: x.argmin(dim, keepdims=True)), c(d(3, 4), dim=0),
        c(d(2, 3, 4), dim=-2, keepdim=True), c(d(3), dim=0),
        c(d(), dim=0), torch="min"),
    *(row(k, _axes(f), c(d(3, 4)), c(d(3, 4), dim=0), c(d(2, 3), dim=-1, keepdim=True), c(d()),
        c(d(4, 3).T), dtypes=True) for k, f in {
        "argmax": np.argmax, "argmin": np.argmin}.items()),
    *(row(k, _axes(f), c(b(3, 4)), c(b(3, 4), dim=1), c(b(2, 3, 2), dim=(0, 2), keepdim=True), c(i(2, 3)), c(b()),
        c(b(0, 3)), c(b(0, 3), dim=0))
      for k, f in {"any": np.any, "all": np.all}.items()),
    reduction("var", _moments(np.var), c(n(3, 4), dim=0, correction=0),
        c(n(3, 4), correction=2), draw=lambda *s: n(*(s or (2,))), empty=False,
              dtypes=False),
    reduction("logsumexp", _logsumexp, empty=False, dtypes=False),
    reduction("norm2", lambda x, dim=None, keepdim=False: _norm(x, 2, dim, keepdim), torch=lambda torch, x,
        **p: torch.norm(x, **p), dtypes=False),
    row("cumsum", lambda x, dim: np.cumsum(x, dim) if x.ndim else x, c(n(3, 4), dim=0), c(n(2, 3), dim=-1),
        c(n(), dim=0), c(n(0, 2), dim=0),
        c(n(4, 3).T, dim=1), dtypes=True),
    row("cumprod", lambda x, dim: np.cumprod(x, dim) if x.ndim else x, c(n(3, 4), dim=0), c(n(2, 3), dim=-1),
        c(n(), dim=0),
        c(a([2.0, 0.0, 3.0, 0.0, 4.0]), dim=0), c(n(2, 3, 2), dim=1), dtypes=True),
    row("sum_to", lambda x, shape: x.reshape((-1, *shape)).sum(0) if shape == (3,) else x.sum((0, 2),
        keepdims=True)[0], c(n(2, 4, 3), shape=(3,)),
        c(n(2, 3, 4), shape=(3, 1)), torch=lambda torch, x, shape: x.sum_to_size(shape)),
]  # fmt: skip
REDUCE = [
    r if r.name != "logsumexp" else row(r.name, r.oracle, *(k for k in r.cases if k.params), torch=r.torch)
    for r in REDUCE
]

SHAPE = [
    row("view_as_shape", lambda x, shape: x.reshape(shape), c(n(3, 4), shape=(2, 6)), c(n(3, 4), shape=(-1,)),
        c(n(), shape=(1, 1)), c(n(0, 3), shape=(3, 0)),
        torch=lambda torch, x, shape: x.view(shape)),
    row("reshape", lambda x, shape: x.reshape(shape), c(n(3, 4), shape=(2, -1)), c(n(4, 3).T, shape=(12,)),
        c(n(1), shape=()), c(n(0, 3), shape=(0,))),
    row("alias", lambda x: x, c(n(2, 3)), c(n()), torch=lambda torch, x: x.view_as(x)),
    row("permute", lambda x, dims: x.transpose(dims), c(n(2, 3, 4), dims=(2, 0, 1)), c(n(2, 3), dims=(-1, 0)),
        c(n(), dims=())),
    row("transpose", lambda x, dim0, dim1: x.swapaxes(dim0, dim1) if x.ndim else x, c(n(2, 3, 4), dim0=0, dim1=-1),
        c(n(3), dim0=0, dim1=0),
        c(n(), dim0=0, dim1=-1)),
    row("expand", lambda x, shape: np.broadcast_to(x, [m if s == -1 else s for s, m in zip(shape,
        (1,) * (len(shape) - x.ndim) + x.shape)]),
        c(n(3, 1), shape=(2, 3, 4)), c(n(3, 1), shape=(-1, 5)), c(n(), shape=(2, 2)), c(n(1, 3), shape=(0, 3)),
        torch=lambda torch, x, shape: x.expand(shape)),
    row("squeeze", _squeeze, c(n(1, 3, 1)), c(n(1, 3, 1), dim=-1), c(n(1, 3, 1), dim=1),
        c(n(1, 3, 1), dim=(0, 1, 2)), c(n()), c(n(1), dim=0)),
    row("split_with_sizes", lambda x, split_sizes, dim=0: tuple(np.split(x, np.cumsum(split_sizes)[:-1], dim)),
        c(n(5, 2), split_sizes=(2, 3)), c(n(2, 3), split_sizes=(1, 0, 2), dim=-1), c(n(3), split_sizes=(3,))),
    row("unbind", lambda x, dim=0: tuple(np.moveaxis(x, dim, 0)), c(n(3, 2)), c(n(2, 3), dim=-1), c(n(1, 2)), c(n(3))),
    row("unsqueeze", np.expand_dims, c(n(2, 3), 0), c(n(2, 3), -1), c(n(), 0), torch="unsqueeze"),
    row("diagonal", lambda x, offset=0, dim1=0, dim2=1: np.diagonal(x, offset, dim1, dim2), c(n(3, 4)),
        c(n(3, 4), offset=1), c(n(3, 4), offset=-1),
        c(n(2, 3, 4), offset=1, dim1=-1, dim2=0), c(n(2, 3), offset=9)),
    row("diagonal_put", _diagonal_put, c(np.zeros((3, 4)), n(3)), c(np.zeros((3, 4)), n(2), offset=-1),
        c(np.zeros((2, 3, 4)), n(3, 2), dim1=0, dim2=2),
        torch=lambda torch, x, g, **p: torch.diagonal_scatter(x, g, **p)),
    row("new_zeros", lambda x, shape, dtype=None: np.zeros(shape, dtype), c(n(2), shape=(2, 3)), c(n(2), shape=()),
        torch=lambda torch, x, shape: x.new_zeros(shape)),
    row("fill", lambda x, value: np.full_like(x, value), c(n(2, 3), value=1.5), c(n(), value=2), torch=None),
    row("zero", np.zeros_like, c(n(2, 3)), c(n()), torch="zeros_like"),
    row("copy", lambda x, y: np.broadcast_to(y, x.shape).astype(x.dtype), c(n(2, 3), n(3)), c(n(2, 3), n()),
        c(n(3), n(3)), torch=None),
    row("cat", lambda *xs, dim=0: np.concatenate(xs, dim), c([n(2, 3), n(1, 3)]),
        c([n(2, 3), n(2, 1), n(2, 2)], dim=-1), c([n(2)]), c([n(2, 3), n(0, 3)])),
    row("stack", lambda *xs, dim=0: np.stack(xs, dim), c([n(2, 3), n(2, 3)]), c([n(2, 3), n(2, 3)], dim=-1),
        c([n(), n()]), c([n(3, 2).T, n(2, 3)], dim=1)),
    row("narrow", lambda x, dim, start, length: np.take(x, np.arange(start, start + length), dim),
        c(n(3, 4), dim=1, start=1, length=2),
        c(n(3, 4), dim=-2, start=-1, length=1), c(n(3), dim=0, start=3, length=0)),
    row("slice_view", lambda x, index: x[index], c(n(3, 4), index=(1,)),
        c(n(3, 4), index=(slice(None, None, 2), None, 2)), c(n(3, 4), index=(2, 3)),
        c(n(3, 4), index=(..., slice(1, 3))), c(n(3), index=(slice(5, 9),)), torch=lambda torch, x, index: x[index]),
    row("slice_grad", lambda g, shape, index: _slice_put(np.zeros(shape, g.dtype), g, index), c(n(4), shape=(3, 4), index=(1,)),
        c(n(2, 4), shape=(3, 4), index=(slice(None, None, 2),)), c(n(0), shape=(3,), index=(slice(3, 3),)), torch=None),
    row("slice_put", _slice_put, c(np.zeros((3, 4)), n(4), index=(1,)),
        c(np.zeros((3, 4)), n(2, 4), index=(slice(None, None, 2),)), torch=None),
    row("flip", lambda x, dims: np.flip(x, dims), c(n(3, 4), dims=(0,)), c(n(2, 3, 4), dims=(0, -1)),
        c(n(0, 2), dims=(1,)), c(n(), dims=())),
    row("roll", lambda x, shifts, dims=None: np.roll(x, shifts, dims), c(n(3, 4), shifts=1),
        c(n(3, 4), shifts=(1, -2), dims=(0, 1)), c(n(3), shifts=-4, dims=0)),
    row("repeat", lambda x, repeats: np.tile(x, repeats), c(n(2, 3), repeats=(2, 1)), c(n(2), repeats=(3, 1, 2)),
        c(n(), repeats=(2,)), c(n(), repeats=()),
        torch=lambda torch, x, repeats: x.repeat(repeats)),
    row("constant_pad", _pad, c(n(2, 3), pad=(1, 2)), c(n(2, 3), pad=(0, -1, 2, 0), value=1.5),
        c(n(4), pad=(-1, -2)), c(n(2, 2, 2), pad=(0, 0, 1, 0)),
        torch=lambda torch, x, pad, value=0.0: torch.nn.functional.pad(x, pad, value=value)),
    *(row(k, lambda x, diagonal=0, f=f: f(x, diagonal), c(n(3, 4)), c(n(2, 3, 3), diagonal=1),
        c(n(3, 3), diagonal=-1)) for k, f in {
        "tril": np.tril, "triu": np.triu}.items()),
]  # fmt: skip

INDEX = [
    row("index", lambda x, index: x[index], c(n(4, 3), index=(np.array([0, 2, 2]),)),
        c(n(4, 3), index=(slice(None), np.array([[0], [-1]]))),
        c(n(2, 3, 4), index=(np.array([0, 1]), slice(None), np.array([3, 0]))),
            c(n(3), index=(np.zeros(0, int),)), torch=None),
    row("index_grad", lambda g, shape, index: _index_put(np.zeros(shape, g.dtype), g, index, accumulate=True),
        c(n(3, 4), shape=(5, 4), index=(np.array([1, -1, 1]),)), c(n(2, 2, 3), shape=(4, 3), index=(np.array([[3, 3], [0, 3]]),)),
        c(n(2, 2), shape=(2, 3), index=(slice(None), np.array([1, 1]))), c(n(0, 2), shape=(3, 2), index=(np.zeros(0, int),)),
        torch=None),
    row("index_put", _index_put, c(n(4, 3), n(2, 3), index=(np.array([0, 2]),)),
        c(n(4, 3), n(3), index=(np.array([1, 3]),)),
        c(n(4), n(3), index=(np.array([1, 1, 0]),), accumulate=True),
            c(n(4, 3), n(), index=(np.array([1, 1]), np.array([0, 2])), accumulate=True), torch=None),
    row("gather", _gather, c(n(3, 4), i(3, 2, 4), dim=0), c(n(3, 4), i(4, 3, 6), dim=-1), c(n(3), i(3, 5), dim=0),
        c(n(2, 3, 4), i(3, 1, 5, 2), dim=1),
        torch=lambda torch, x, index, dim: torch.gather(x, dim, index)),
    row("scatter_add", lambda x, index, src, dim: _scatter(x, index, src, dim, True),
        c(n(3, 4), i(3, 2, 4), n(2, 4), dim=0), c(n(3, 4), i(4, 3, 2), n(3, 5), dim=1),
        c(n(3), i(3, 5), n(5), dim=-1), torch=lambda torch, x, index, src, dim: torch.scatter_add(x, dim, index, src)),
    row("scatter", _scatter, c(n(3, 4), a([[0, 1, 2, 0]]), n(1, 4), dim=0),
        c(n(3, 4), a([[2], [0], [1]]), 1.5, dim=1), c(n(3), a([2]), n(2), dim=0),
        torch=lambda torch, x, index, src, dim: torch.scatter(x, dim, index, src)),
    row("index_select", lambda x, index, dim: np.take(x, index, dim), c(n(3, 4), i(3, 5), dim=0),
        c(n(2, 3, 4), i(4, 2), dim=-1), c(n(3), i(3, 0), dim=0),
        torch=lambda torch, x, index, dim: torch.index_select(x, dim, index)),
    row("embedding", lambda index, w, padding_idx=None: w[index], c(i(5, 2, 3), n(5, 4)),
        c(i(5), n(5, 4)), torch="nn.functional.embedding"),
    row("nonzero", np.argwhere, c(b(3, 4)), c(i(2, 5)), c(a(1)), c(n(0, 2))),
    row("sort", _sorted, c(d(3, 4)), c(d(3, 4), dim=0, descending=True), c(d()), c(d(4, 3).T, dim=-2),
        c(i(3, 9), descending=True, stable=True),
        c(d(0, 3), dim=0)),
    row("argsort", lambda x, **p: _sorted(x, **p)[1], c(d(3, 4)), c(d(3, 4), dim=0, descending=True),
        c(d(5), stable=True)),
    row("topk", _topk, c(d(5), 2), c(d(3, 4), 2, dim=0), c(d(3, 4), 3, largest=False), c(d(2, 3), 0), torch="topk"),
]  # fmt: skip

LINALG = [
    row("matmul", np.matmul, *(c(n(*x), n(*y)) for x, y in [
        ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (3,)), ((3,),
            (5, 3, 4)), ((2, 3), (5, 3, 4)),
        ((5, 2, 3), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 4)), ((1, 2, 3), (4, 3, 2)), ((0, 3), (3, 2)), ((2, 0), (0, 3)),
            ((2, 5, 2, 3), (3, 4))]),
        c(n(3, 2).T, n(4, 3).T), c(z(2, 3), z(3, 2)), c(z(3), z(3))),
    row("linear", lambda x, w, b=None: x @ w.T + (0 if b is None else b), c(n(2, 3), n(4, 3), n(4)),
        c(n(2, 5, 3), n(4, 3)), c(n(3), n(4, 3), n(4)),
        c(n(0, 3), n(4, 3), n(4)), torch="nn.functional.linear"),
    row("mm", np.matmul, c(n(2, 3), n(3, 4))),
    row("bmm", np.matmul, c(n(5, 2, 3), n(5, 3, 4))),
    row("mv", np.matmul, c(n(2, 3), n(3))),
    row("dot", np.dot, c(n(3), n(3)), c(n(0), n(0))),
    row("outer", np.outer, c(n(3), n(4))),
    row("addmm", lambda x, y, z, beta=1, alpha=1: beta * x + alpha * (y @ z), c(n(2, 4), n(2, 3), n(3, 4)),
        c(n(4), n(2, 3), n(3, 4), beta=0.5, alpha=2)),
]  # fmt: skip

NN = [
    row("conv", _conv, c(n(2, 4, 5, 7), n(6, 2, 3, 2), n(6), **_conv2), c(n(2, 2, 6), n(3, 2, 3), None, **_conv1),
        c(n(1, 1, 3, 4, 3), n(2, 1, 2, 2, 2), n(2), stride=(1, 2, 1), padding=(1, 0, 1), dilation=(1, 1, 2),
            groups=1), torch=None),
    row("conv_relu", lambda *xs, **p: np.maximum(_conv(*xs, **p), 0), c(n(2, 4, 5, 7), n(6, 2, 3, 2), n(6), **_conv2),
        c(n(2, 2, 6), n(3, 2, 3), None, **_conv1), torch=None),
    row("conv_input_grad", lambda g, w, x_shape, **p: _transposed(lambda x: _conv(x, w, **p), g, x_shape),
        c(n(1, 6, 3, 5), n(6, 2, 3, 2), x_shape=(1, 4, 5, 7), **_conv2),
            c(n(2, 3, 4), n(3, 2, 3), x_shape=(2, 2, 6), **_conv1), torch=None),
    row("conv_weight_grad", lambda g, x, w_shape, **p: _transposed(lambda w: _conv(x, w, **p), g, w_shape),
        c(n(1, 6, 3, 5), n(1, 4, 5, 7), w_shape=(6, 2, 3, 2), **_conv2),
            c(n(2, 3, 4), n(2, 2, 6), w_shape=(3, 2, 3), **_conv1), torch=None),
    row("F.conv1d", _conv, c(n(2, 2, 6), n(3, 2, 3), n(3), stride=2, padding=1),
        c(n(2, 2, 7), n(4, 1, 3), n(4), groups=2, dilation=2)),
    row("F.conv2d", _conv, c(n(2, 2, 5, 6), n(3, 2, 3, 3), n(3), padding=(1, 2)),
        c(n(1, 2, 6, 5), n(2, 1, 2, 3), None, stride=(2, 1), dilation=(2, 1), groups=2)),
    row("F.conv3d", _conv, c(n(1, 2, 3, 4, 3), n(2, 2, 2, 2, 2), n(2), padding=1, stride=2)),
    row("max_pool", _max_pool, c(d(2, 2, 7), **_g1, **_d1), c(d(1, 2, 5, 6), **_g2, **_d2),
        c(d(1, 1, 6, 7), **_g2, **_d2, ceil_mode=True), torch=None),
    row("max_pool_index", _max_pool_index, c(d(2, 2, 7), **_g1, **_d1), c(d(1, 2, 5, 6), **_g2, **_d2), torch=None),
    row("max_pool_grad", _of_won(_pick), c(n(2, 2, 4), i(2, 2, 2, 4), x_shape=(2, 2, 9), k=(2,), stride=(2,),
        padding=(0,), dilation=(1,)), torch=None),
    row("max_pool_pick", _pick, c(n(2, 2, 9), i(2, 2, 2, 4), k=(2,), stride=(2,), padding=(0,), dilation=(1,)),
        torch=None),
    row("sum_pool", _sum_pool, c(n(2, 2, 7), **_g1), c(n(1, 2, 5, 6), **_g2),
        c(n(1, 1, 6, 7), **_g2, ceil_mode=True), torch=None),
    row("sum_pool_grad", lambda g, x_shape, **p: _transposed(lambda x: _sum_pool(x, **p), g, x_shape),
        c(n(2, 2, 4), x_shape=(2, 2, 7), **_g1),
        c(n(1, 2, 3, 4), x_shape=(1, 2, 5, 6), **_g2), torch=None),
    *(row(f"F.max_pool{m}d", _public_pool(m, False), c(d(2, 2, *(5, 6, 4)[:m]), 2),
        c(d(1, 2, *(5, 6, 4)[:m]), 3, stride=2, padding=1),
          c(d(2, *(6, 7, 8)[:m]), 2, stride=1, dilation=2), c(d(1, 1, *(5, 6, 7)[:m]), 2, ceil_mode=True),
          c(d(1, 1, *(5, 6, 7)[:m]), 3, stride=2, padding=1, ceil_mode=True)) for m in (1, 2, 3)),
    *(row(f"F.avg_pool{m}d", _public_pool(m, True), c(n(2, 2, *(5, 6, 4)[:m]), 2),
        c(n(1, 2, *(5, 6, 4)[:m]), 3, stride=2, padding=1),
          c(n(1, 2, *(5, 6, 4)[:m]), 3, stride=2, padding=1, count_include_pad=False),
              c(n(2, *(5, 6, 7)[:m]), 2, ceil_mode=True),
          c(n(1, 1, *(5, 6, 7)[:m]), 3, stride=2, padding=1, ceil_mode=True),
              c(n(1, 1, *(5, 6, 7)[:m]), 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
          *([c(n(1, 1, *(5, 6, 7)[:m]), 2, divisor_override=3)] * (m > 1))) for m in (1, 2, 3)),
    row("F.adaptive_avg_pool1d", lambda x, size: _adaptive(x[..., None, :], (1, size))[..., 0, :],
        c(n(2, 2, 6), 3), c(n(2, 5), 2)),
    row("F.adaptive_avg_pool2d", _adaptive, c(n(2, 2, 6, 4), 2), c(n(1, 2, 5, 7), (3, 2)),
        c(n(2, 5, 7), (None, 3)), c(n(1, 1, 2, 2), 3)),
    *(row(k, f, c(n(3, 4), dim=1), c(n(2, 3, 4), dim=-2), c(n(3), dim=0), c(n(4, 3).T, dim=0),
        c(n(0, 3), dim=1)) for k, f in {
        "softmax": _softmax, "log_softmax": lambda x, dim: np.log(_softmax(x, dim)),
        "F.softmax": _softmax, "F.log_softmax": lambda x, dim: np.log(_softmax(x, dim))}.items()),
    row("relu_grad", lambda g, out: g * (out > 0), c(n(3, 4), d(3, 4)), c(n(), d()), torch=None),
    row("linear_weight_grad", lambda g, x: g.reshape(-1, 3).T @ x.reshape(-1, 4),
        c(n(5, 3), n(5, 4)), c(n(2, 5, 3), n(2, 5, 4)), torch=None),
    row("gelu_grad", lambda g, x, approximate: g * _gelu_slope(x, approximate),
        *(c(n(3, 4), n(3, 4), approximate=how) for how in ("none", "tanh")), torch=None),
    row("softmax_grad", _softmax_grad, c(n(3, 4), n(3, 4), dim=1), c(n(2, 3), n(2, 3), dim=0), torch=None),
    row("log_softmax_grad", lambda g, y, dim: g - np.exp(y) * g.sum(dim, keepdims=True),
        c(n(3, 4), n(3, 4), dim=1), c(n(2, 3), n(2, 3), dim=0), torch=None),
    row("nll_loss", _nll, *(c(n(4, 3), a([0, 2, 1, 1]), reduction=r) for r in _reductions),
        *(c(n(4, 3), a([0, 2, -1, 1]), u(1, 2, 3), ignore_index=-1, reduction=r)
        for r in _reductions), c(n(3), a(1)), c(n(2, 3, 2, 2), i(3, 2, 2, 2)),
            c(n(2, 3, 4), i(3, 2, 4), u(1, 2, 3), reduction="none"),
        torch=lambda torch, x, t, w=None, **p: torch.nn.functional.nll_loss(x, t, w, **p)),
    row("nll_grad", lambda g, target, w, total, x_shape, ignore_index, reduction: _transposed(
            lambda x: _nll(x, target, w, ignore_index, reduction), g, x_shape),
        c(n(), a([0, 2, -1]), None, np.array(2.0), x_shape=(3, 4), ignore_index=-1, reduction="mean"),
        c(n(3), a([0, 2, 1]), a([1.0, 2.0, 3.0]), np.array(6.0), x_shape=(3, 3), ignore_index=-1, reduction="none"),
            torch=None),
    row("cross_entropy_rows", lambda x, target, w=None, wide=False, **p: _cross_entropy(x, target, w, **p),
        *(c(n(4, 3), a([0, 2, 1, 1]), reduction=r) for r in _reductions),
        *(c(n(4, 3), a([0, 2, -1, 1]), k(u(1, 2, 3)), ignore_index=-1, reduction=r, wide=True) for r in _reductions),
        c(n(5, 4).T, a([4, 0, 4, -100])), torch=None),
    row("F.nll_loss", _nll, *(c(n(4, 3), a([0, 2, 1, 1]), reduction=r) for r in _reductions)),
    row("F.cross_entropy", _cross_entropy, *(c(n(4, 3), a([0, 2, 1, 1]), reduction=r) for r in _reductions),
        *(c(n(4, 3), a([0, 2, -1, 1]), k(u(1, 2, 3)), ignore_index=-1, reduction=r,
            label_smoothing=s) for r in _reductions for s in (0.0, 0.1)),
        *(c(n(4, 3), u(0, 1, 4, 3), None, reduction=r, label_smoothing=s) for r in _reductions for s in (0.0, 0.2)),
            c(n(3), a(1)), c(n(3), u(0, 1, 3)),
        c(n(2, 3, 4), i(3, 2, 4), label_smoothing=0.1), c(n(2, 3, 4), u(0, 1, 2, 3, 4), k(u(1, 2, 3))),
            c(n(2, 3, 2, 2), i(3, 2, 2, 2), k(u(1, 2, 3)))),
    row("F.mse_loss", _reduced(lambda x, y: (x - y) ** 2), *(c(n(3, 4), n(3, 4), reduction=r) for r in _reductions)),
    row("F.l1_loss", _reduced(lambda x, y: abs(x - y)), *(c(n(3, 4), n(3, 4), reduction=r) for r in _reductions)),
    row("F.embedding", lambda index, w, padding_idx=None: w[index], c(i(5, 2, 3), n(5, 4))),
    row("F.one_hot", lambda t, num_classes: np.eye(num_classes, dtype=np.int64)[t], c(i(4, 3), num_classes=4),
        c(i(4, 2, 3), num_classes=5)),
    row("F.pad", _pad, c(n(2, 3), (1, 2)), c(n(2, 3), (0, -1, 2, 0), value=1.5)),
    unary("F.relu", lambda x: np.maximum(x, 0), dtypes=False),
    row("dropout_mask", np.multiply, c(n(3, 4), a(np.eye(3, 4) * 2)), torch=None),
]  # fmt: skip

FUNCTIONS = [
    row("view", lambda x, *s: x.reshape(s), c(n(3, 4), 2, 6), c(n(3, 4), -1), torch=lambda torch, x, *s: x.view(*s)),
    row("view_as", lambda x, y: x.reshape(y.shape), c(n(3, 4), i(2, 12)), torch=lambda torch, x, y: x.view_as(y)),
    row("reshape_as", lambda x, y: x.reshape(y.shape), c(n(4, 3).T, i(2, 12)), torch=lambda torch, x,
        y: x.reshape_as(y)),
    row("t", lambda x: x.T, c(n(3, 4)), c(n(3)), c(n())),
    row("expand_as", lambda x, y: np.broadcast_to(x, y.shape),
        c(n(3, 1), i(2, 3, 4)), torch=lambda torch, x, y: x.expand_as(y)),
    row("flatten", lambda x, start_dim=0, end_dim=-1: x.reshape((*x.shape[:start_dim], -1,
        *x.shape[end_dim % max(x.ndim, 1) + 1:])), c(n(2, 3, 4)),
        c(n(2, 3, 4), start_dim=1), c(n(2, 3, 4), start_dim=0, end_dim=1), c(n()),
            c(n(2, 3, 4), start_dim=1, end_dim=1)),
    row("split", _pieces, c(n(5, 2), 2), c(n(2, 5), [1, 4], dim=1), c(n(4), 4)),
    row("chunk", lambda x, m, dim=0: _pieces(x, -(-x.shape[dim] // m), dim), c(n(5, 2), 2), c(n(2, 6), 3, dim=-1),
        c(n(2), 5)),
    row("select", lambda x, dim, j: np.take(x, j, dim), c(n(3, 4), 0, 1), c(n(2, 3, 4), -1, -2), c(n(3), 0, 2)),
    row("contiguous", lambda x: x, c(n(3, 4)), c(n(4, 3).T), torch=lambda torch, x: x.contiguous()),
    row("max", _extreme(np.max, np.argmax, np.maximum), c(d(3, 4)), c(d(3, 4), dim=1),
        c(d(3, 4), dim=0, keepdim=True), c(n(3, 4), n(4))),
    row("min", _extreme(np.min, np.argmin, np.minimum), c(d(3, 4)), c(d(3, 4), dim=1),
        c(d(3, 4), dim=0, keepdim=True), c(n(3, 4), n(4))),
    row("std", _moments(np.std), c(n(3, 4)), c(n(3, 4), dim=0),
        c(n(3, 4), dim=(0, 1), unbiased=False, keepdim=True), c(n(3, 4), dim=1, correction=0)),
    row("norm", _norm, *(c(n(3, 4), p=p) for p in (1, 2, 3, np.inf, "fro")), c(positive(3, 4), p=-np.inf),
        c(n(3, 4), p=0), c(n(3, 4), dim=1, keepdim=True),
        c(n(2, 3, 4), p=1, dim=(0, 2)), c(n())),
]  # fmt: skip

from tests.math_cases import MATH_ROWS  # noqa: E402  (they use what is above)
from tests.nn_cases import NN_ROWS  # noqa: E402
from tests.science_cases import SCIENCE_ROWS  # noqa: E402

ROWS = {r.name: r for r in [*POINTWISE, *REDUCE, *SHAPE, *INDEX, *LINALG, *NN, *FUNCTIONS, *MATH_ROWS, *NN_ROWS, *SCIENCE_ROWS]}
IDS = [(name, k) for name, r in ROWS.items() for k in range(len(r.cases))]
