"""The rows of `tests.cases` for arithmetic beyond the basics: special functions, order, products by name, decompositions, transforms.

`tests.cases` takes them in; import that, not this.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.cases import Recipe, Row, a, b, binary, c, d, i, k, n, positive, row, u, unary, z


def each(f: Callable[[float], float]) -> Callable[..., Any]:
    """An oracle of one number for all elements."""
    return lambda x: np.vectorize(f, otypes=[np.float64])(x)


def square(*shape: int) -> Recipe:
    """Matrices far from singular."""
    return Recipe(lambda rng: rng.standard_normal(shape) + 3 * np.eye(shape[-1]))


def hermitian(*shape: int, positive: bool = True) -> Recipe:
    """Hermitian matrices, not differentiated: one triangle of them is read, differences move both."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        x = rng.standard_normal(shape)
        return x @ x.swapaxes(-1, -2) + np.eye(shape[-1]) if positive else x + x.swapaxes(-1, -2)

    return Recipe(draw, constant=True)


# -- oracles -----------------------------------------------------------------------------------------------------------


def _digamma(x: float) -> float:
    w = x + 200
    return math.log(w) - 1 / (2 * w) - 1 / (12 * w**2) + 1 / (120 * w**4) - sum(1 / (x + j) for j in range(200))


def _zeta(s: Any, q: Any) -> Any:
    w = q + 2000
    return sum((q + j) ** -s for j in range(2000)) + w ** (1 - s) / (s - 1) + w**-s / 2 + s * w ** (-s - 1) / 12


def _zeta_everywhere(s: int, q: Any) -> Any:
    """Also for q > −1: one term more."""
    return q ** -s + _zeta(s, q + 1)


def _bessel(order: int, scaled: bool) -> Callable[..., Any]:
    def oracle(x: float) -> float:
        t = np.arange(400) * (np.pi / 200)
        return float((np.exp(x * np.cos(t) - (abs(x) if scaled else 0)) * np.cos(order * t)).mean())

    return each(oracle)


def _normal_quantile(p: float) -> float:
    lo, hi = -40.0, 40.0
    for _ in range(200):
        mid = (lo + hi) / 2
        lo, hi = (mid, hi) if math.erf(mid) < p else (lo, mid)
    return lo


def _log_ndtr(x: float) -> float:
    return math.log(math.erfc(-x / math.sqrt(2)) / 2)


def _cum(better: Callable[..., Any]) -> Callable[..., Any]:
    def oracle(x: Any, dim: int) -> Any:
        if not x.ndim:
            return x, np.int64(0)
        rows = np.moveaxis(x, dim, -1)
        index = np.zeros(rows.shape, np.int64)
        for at in np.ndindex(*rows.shape[:-1]):
            best = 0
            for j, v in enumerate(rows[at]):
                best = j if better(v, rows[at][best]) or j == 0 else best
                index[(*at, j)] = best
        return np.moveaxis(np.take_along_axis(rows, index, -1), -1, dim), np.moveaxis(index, -1, dim)

    return oracle


def _at(f: Callable[..., Any]) -> Callable[..., Any]:
    """(values, indices) along a dimension, f giving the index of a row."""

    def oracle(x: Any, *args: Any, dim: int = -1, keepdim: bool = False, **params: Any) -> Any:
        if not x.ndim:
            return x, np.int64(0)
        index = np.apply_along_axis(lambda v: f(v, *args, **params), dim, x)
        y = np.take_along_axis(x, np.expand_dims(index, dim), dim)
        return (y, np.expand_dims(index, dim)) if keepdim else (y.squeeze(dim), index)

    return oracle


def _median_index(v: Any, ignore_nan: bool = False) -> int:
    order = np.argsort(v, kind="stable")
    missing = int(np.isnan(v).sum())
    if missing and not ignore_nan:
        return int(order[len(v) - missing])
    return int(order[max(0, (len(v) - missing - 1) // 2)])


def _mode_index(v: Any) -> int:
    values, counts = np.unique(v, return_counts=True)
    return int(np.nonzero(v == values[counts.argmax()])[0][-1])


def _median(x: Any, **params: Any) -> Any:
    return _at(_median_index)(x, **params) if params else x.reshape(-1)[_median_index(x.reshape(-1))]


def _nanmedian(x: Any, **params: Any) -> Any:
    f = lambda v: _median_index(v, True)
    return _at(f)(x, **params) if params else x.reshape(-1)[f(x.reshape(-1))]


def _scatter_reduce(x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> Any:
    found: dict[Any, list[float]] = {at: [x[at]] if include_self else [] for at in np.ndindex(*x.shape)}
    for at in np.ndindex(*index.shape):
        place = list(at)
        place[dim] = index[at]
        found[tuple(place)].append(src[at])
    f = {"sum": np.sum, "prod": np.prod, "mean": np.mean, "amax": np.max, "amin": np.min}[reduce]
    y = x.copy()
    for at, values in found.items():
        y[at] = f(values) if values else x[at]
    return y


def _einsum(equation: str, *xs: Any) -> Any:
    return np.einsum(equation, *xs)


def _index_along(how: str) -> Callable[..., Any]:
    def oracle(x: Any, dim: int, index: Any, source: Any, alpha: float = 1) -> Any:
        y = np.moveaxis(x.copy(), dim, 0)
        s = np.moveaxis(source, dim, 0) if isinstance(source, np.ndarray) and source.ndim else [source] * len(index)
        for j, v in zip(index, s):
            y[j] = y[j] + alpha * v if how == "add" else v
        return np.moveaxis(y, 0, dim)

    return oracle


def _tensor_split(x: Any, parts: Any, dim: int = 0) -> Any:
    return tuple(np.array_split(x, parts, dim))


def _windows(x: Any, dim: int, size: int, step: int) -> Any:
    if not x.ndim:
        return x.reshape(1)
    v = np.lib.stride_tricks.sliding_window_view(x, size, dim)
    return v[(slice(None),) * (dim % x.ndim) + (slice(None, None, step),)]


def _matrix_exp(x: Any) -> Any:
    y = term = np.broadcast_to(np.eye(x.shape[-1]), x.shape).copy()
    for j in range(1, 200):
        term = term @ x / j
        y = y + term
    return y


def _triangular(A: Any, B: Any, upper: bool, unitriangular: bool = False) -> Any:
    t = np.triu(A) if upper else np.tril(A)
    if unitriangular:
        t = t - t * np.eye(len(t)) + np.eye(len(t))
    return np.linalg.solve(t, B)


def _fft(f: Callable[..., Any], many: bool = False) -> Callable[..., Any]:
    if many:
        return lambda x, s=None, dim=None, norm=None: f(x, s, range(x.ndim) if dim is None and s is None else dim, norm or "backward")
    return lambda x, n=None, dim=-1, norm=None: f(x, n, dim, norm or "backward")


def _diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    m = x.shape[-1] + abs(offset)
    y = np.zeros((*x.shape[:-1], m, m))
    j = np.arange(x.shape[-1])
    y[..., j + max(0, -offset), j + max(0, offset)] = x
    return np.moveaxis(y, (-2, -1), (dim1, dim2))


def _cov(x: Any, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    return np.cov(x, ddof=correction, fweights=fweights, aweights=aweights)


def _unfold_put(g: Any, x_shape: Any, dim: int, size: int, step: int) -> Any:
    y = np.zeros(x_shape)
    view = np.lib.stride_tricks.sliding_window_view(y, size, dim, writeable=True)[(slice(None),) * dim + (slice(None, None, step),)]
    for at in np.ndindex(*g.shape):
        view[at] += g[at]
    return y


def _strided(x: Any, size: Any, stride: Any, storage_offset: int = 0) -> Any:
    return np.lib.stride_tricks.as_strided(x.reshape(-1)[storage_offset:], size, [s * 8 for s in stride])


def _strided_put(g: Any, x_shape: Any, size: Any, stride: Any, storage_offset: int = 0) -> Any:
    y = np.zeros(math.prod(x_shape))
    for at in np.ndindex(*size):
        y[storage_offset + sum(p * s for p, s in zip(at, stride))] += g[at]
    return y.reshape(x_shape)


def _runs(x: Any, dim: Any = None) -> Any:
    rows = x.reshape(-1).tolist() if dim is None else [tuple(r.reshape(-1)) for r in np.moveaxis(x, dim, 0)]
    values, inverse, counts = [], [], []
    for v, group in itertools.groupby(rows):
        size = len(list(group))
        inverse += [len(values)] * size
        values.append(v)
        counts.append(size)
    y = np.array(values, dtype=x.dtype)
    if dim is None:
        return y, np.array(inverse).reshape(x.shape), np.array(counts)
    return np.moveaxis(y.reshape(-1, *np.moveaxis(x, dim, 0).shape[1:]), 0, dim), np.array(inverse), np.array(counts)


def _unique(x: Any, dim: Any = None) -> Any:
    return tuple(np.unique(x, return_inverse=True, return_counts=True, axis=dim))


_mixed = [c(n(2, 3), n(2, 3), n(3)), c(n(3), n(2, 1), n(), value=0.5), c(n(), n(), n())]

ELEMENTWISE = [
    unary("asinh", np.arcsinh), unary("acosh", np.arccosh, 1.1, 3.0), unary("atanh", np.arctanh, -0.9, 0.9), unary("exp2", np.exp2),
    unary("frac", lambda x: x - np.trunc(x)), unary("deg2rad", np.deg2rad), unary("rad2deg", np.rad2deg),
    unary("erf", each(math.erf)), unary("erfc", each(math.erfc), -3, 9, dtypes=False), unary("erfinv", each(_normal_quantile),
        -0.95, 0.95, dtypes=False),
    row("lgamma", each(math.lgamma), c(u(0.2, 30, 3, 4)), c(u(-0.9, -0.1, 3)), c(u(-2.9, -2.1, 3)), c(n()), c(n(0, 2))),
    row("digamma", each(_digamma), c(u(0.2, 30, 3, 4)), c(u(-0.9, -0.1, 3)), c(u(0.5, 2)), c(u(1, 2, 0, 2))),
    row("polygamma", lambda m, x: (-1) ** (m + 1) * math.factorial(m) * _zeta(m + 1, x) if m else each(_digamma)(x),
        c(2, u(0.2, 5, 3, 4)), c(3, u(0.5, 5, 3)), c(0, u(1, 2, 3))),
    row("polygamma_of_order", lambda x, n: (-1) ** (n + 1) * math.factorial(n) * _zeta_everywhere(n + 1, x), c(u(0.2, 9, 3), n=1),
        c(u(-0.9, -0.1, 2), n=1), c(u(0.5, 9, 2), n=2), torch=None),
    row("zeta", _zeta, c(u(1.5, 5, 3, 4), k(u(0.3, 9, 3, 4))), c(k(u(2, 3, 3)), u(1, 2, 2, 3)), torch="special.zeta"),
    unary("log_ndtr", each(_log_ndtr), -9, 5, dtypes=False, torch="special.log_ndtr"),
    unary("i0", _bessel(0, False), dtypes=False), unary("i0e", _bessel(0, True), -40, 40, dtypes=False, torch="special.i0e"),
    unary("i1", _bessel(1, False), dtypes=False, torch="special.i1"), unary("i1e", _bessel(1, True),
        -40, 40, dtypes=False, torch="special.i1e"),
    unary("sinc", np.sinc, 0.1, 2.0), unary("entr", lambda x: -x * np.log(x), 0.1, 2, torch="special.entr"),
    row("logit", lambda x, eps=None: np.log(np.clip(x, eps or 0, 1 - (eps or 0)) / (1 - np.clip(x, eps or 0, 1 - (eps or 0)))),
        c(u(0.1, 0.9, 3, 4)), c(u(0.2, 0.8)), c(u(0, 1, 5), eps=0.1)),
    row("mvlgamma", lambda x, p: p * (p - 1) / 4 * np.log(np.pi) + sum(each(math.lgamma)(x - j / 2) for j in range(p)), c(u(2, 5, 3), 3),
        c(u(1, 2, 2), 1)),
    binary("logaddexp", np.logaddexp, torch=lambda torch, x, y: torch.logaddexp(x, torch.as_tensor(y)), dtypes=False),
    binary("logaddexp2", np.logaddexp2, torch=lambda torch, x, y: torch.logaddexp2(x, torch.as_tensor(y)), dtypes=False),
    binary("hypot", np.hypot, torch=lambda torch, x, y: torch.hypot(x, torch.as_tensor(y)), dtypes=False),
    binary("copysign", np.copysign),
    binary("fmax", np.fmax, torch=lambda torch, x, y: torch.fmax(x, torch.as_tensor(y))),
    binary("fmin", np.fmin, torch=lambda torch, x, y: torch.fmin(x, torch.as_tensor(y))),
    binary("xlogy", lambda x, y: np.where((x == 0) & ~np.isnan(y),
        0, x * np.log(np.where(x == 0, 1, y))) + 0 * y, c(k(a([0.0, 0.0, 1.0])), k(a([0.0, 2.0, np.nan]))), draw=positive),
    binary("xlog1py", lambda x, y: x * np.log1p(y), draw=positive, torch="special.xlog1py"),
    row("nextafter", np.nextafter, c(n(3), n(3)), c(n(2, 3), n(3))),
    row("heaviside", np.heaviside, c(a([-1.0, 0.0, 2.0]), n(3)), c(n(2, 3), n())),
    row("lerp", lambda x, y, w: x + w * (y - x), c(n(3, 4), n(4), 0.25), c(n(3), n(3), 0.75), c(n(3), n(2, 1), n(3)), c(n(), n(), n())),
    row("addcmul", lambda x, y, w, value=1: x + value * y * w, *_mixed), row("addcdiv",
        lambda x, y, w, value=1: x + value * y / w, *_mixed),
    row("nan_to_num", np.nan_to_num, c(k(a([1.0, np.nan, np.inf, -np.inf]))), c(k(a([np.nan, np.inf])), nan=2.0, posinf=1.0), c(n(2, 3)),
        c(i(3, 2))),
    row("gcd", np.gcd, c(i(20, 3, 4), i(20, 4))), row("lcm", np.lcm, c(i(20, 3, 4), i(20, 4))),
    row("bitwise_left_shift", np.left_shift, c(i(9, 2, 3), i(4, 3)), c(i(9, 3), 2)),
    row("bitwise_right_shift", np.right_shift, c(i(99, 2, 3), i(4, 3)), c(i(99, 3), 2)),
    row("signbit", np.signbit, c(n(2, 3)), c(a([0.0, -0.0]))),
    row("isposinf", np.isposinf, c(a([np.inf, -np.inf, 1.0]))), row("isneginf", np.isneginf, c(a([np.inf, -np.inf, 1.0]))),
    row("isreal", np.isreal, c(a([1 + 0j, 1j])), c(n(2))),
    row("clamp_min", lambda x, lo: np.maximum(x, lo), c(n(3, 4), 0.2)), row("clamp_max", lambda x, hi: np.minimum(x, hi), c(n(3, 4), 0.2)),
    row("positive", lambda x: x, c(n(3))), row("float_power", np.power, c(positive(3), 2), c(positive(3), n(3))),
    row("ldexp", lambda x, y: x * 2.0**y, c(n(3), i(4, 3))), row("floor_divide", np.floor_divide, c(k(n(3, 4)), k(positive(4))),
        c(i(9, 3), 2)),
    row("gradient", lambda x: tuple(np.gradient(x)) if x.ndim > 1 else (np.gradient(x),), c(n(5)), c(n(3, 4))),
]  # fmt: skip

COMPLEX = [
    row("real_part", np.real, c(z(2, 3)), torch="real"), row("real", np.real, c(z(2, 3)), c(n(3))), row("imag", np.imag, c(z(2, 3))),
    row("complex", lambda x, y: x + 1j * y, c(n(2, 3), n(2, 3)), c(n(2, 3), n(3))),
    row("view_as_real", lambda x: np.stack([x.real, x.imag], -1), c(z(2, 3)), c(z())),
    row("view_as_complex", lambda x: x[..., 0] + 1j * x[..., 1], c(n(3, 2)), c(n(2))),
    row("angle", np.angle, c(z(2, 3)), c(n(3))), row("polar", lambda r, t: r * np.exp(1j * t), c(positive(3), n(3))),
    row("adjoint", lambda x: x.swapaxes(-1, -2).conj(), c(z(2, 3)), c(n(2, 3, 4)), torch=lambda torch, x: torch.adjoint(x).resolve_conj()),
    row("resolve_conj", lambda x: x, c(z(2))), row("vdot", np.vdot, c(n(3), n(3)), c(z(3), z(3))),
]  # fmt: skip

ORDER = [
    *(row(name, _cum(f), c(d(3, 4), dim=0), c(d(2, 3), dim=-1), c(d(), dim=0), c(i(3, 9), dim=0)) for name, f in {
        "cummax": lambda v, w: v >= w, "cummin": lambda v, w: v <= w}.items()),
    row("logcumsumexp", lambda x, dim: np.log(np.cumsum(np.exp(x), dim)) if x.ndim else x, c(n(3, 4), dim=0), c(n(2, 5), dim=-1), c(n(),
        dim=0)),
    row("kthvalue", _at(lambda v, k: np.argsort(v, kind="stable")[k - 1]), c(d(3, 4), k=2), c(d(3, 4), k=1, dim=0, keepdim=True), c(d(5),
        k=5), c(d(), k=1)),
    row("median_dim", _at(_median_index), c(d(3, 4)), c(d(3, 5), dim=0, keepdim=True), c(k(a([1.0, np.nan, 0.0]))),
        c(k(a([1.0, np.nan, 0.0])), ignore_nan=True), torch=None),
    row("median", _median, c(d(3, 4)), c(d(3, 4), dim=1), c(d(5), dim=0, keepdim=True), c(k(a([1.0, np.nan])))),
    row("nanmedian", _nanmedian, c(d(3, 4)), c(d(3, 4), dim=1), c(k(a([1.0, np.nan, 3.0, 2.0])))),
    row("mode", _at(_mode_index), c(i(3, 9)), c(i(2, 4, 5), dim=0), c(i(3, 2, 7), keepdim=True), c(d(4)), c(d())),
    row("msort", lambda x: np.sort(x, 0), c(d(3, 4))),
    *(row(name, lambda x, q, dim=None, keepdim=False, interpolation="linear", f=f: f(x, q, dim, method=interpolation, keepdims=keepdim),
          c(d(3, 4), 0.3), c(d(3, 4), 0.5, dim=1), c(d(3, 4), a([0.1, 0.9]), dim=0, keepdim=True), c(d(5), k(a([0.0, 0.25, 1.0]))),
        c(d(2, 3, 4), a([0.2, 0.6]), dim=1),
          *(c(d(5), 0.3, interpolation=m) for m in ("lower", "higher", "nearest", "midpoint"))) for name, f in {
        "quantile": np.quantile, "nanquantile": np.nanquantile}.items()),
    row("unique_sorted", _unique, c(i(4, 9)), c(i(3, 2, 4)), c(i(2, 5, 2), dim=0), c(i(2, 2, 5), dim=1), torch=None),
    row("unique_runs", _runs, c(i(2, 9)), c(i(2, 2, 4)), c(i(2, 6, 2), dim=0), torch=None),
    row("unique", lambda x, dim=None: np.unique(x, axis=dim), c(i(4, 9)), c(i(2, 5, 2), dim=0), c(k(d(4)))),
    row("unique_consecutive", lambda x: _runs(x)[0], c(i(2, 9))),
    row("isin", np.isin, c(i(5, 3, 4), i(5, 2)), c(i(5, 3), i(5, 2), invert=True)),
    row("searchsorted", lambda s, v, right=False: np.searchsorted(s, v, "right" if right else "left"), c(a([1, 3, 5]), i(7, 3, 4)),
        c(a([1.0, 2.0, 2.0, 3.0]), a([2.0, 0.0]), right=True)),
    row("bucketize", lambda v, s, right=False: np.searchsorted(s, v, "right" if right else "left"), c(i(7, 3, 4), a([1, 3, 5])),
        c(i(7, 3), a([1, 3, 5]), right=True)),
    row("bincount", lambda x, w=None, minlength=0: np.bincount(x, w, minlength), c(i(5, 9)), c(i(5, 9), k(n(9))), c(i(3, 4), minlength=6)),
    row("histc", lambda x, bins=100, min=0, max=0: np.histogram(x, bins, None if min == max else (min, max))[0].astype(x.dtype), c(n(30),
        bins=5),
        c(n(30), bins=4, min=-1, max=1)),
]  # fmt: skip

REDUCE = [
    *(row(name, lambda x, dim=None, f=f: (f(x, axis=dim, ddof=1), np.mean(x, axis=dim)), c(n(3, 4)), c(n(3, 4), dim=0)) for name, f in {
        "std_mean": np.std, "var_mean": np.var}.items()),
    row("nansum", lambda x, dim=None: np.nansum(x, axis=dim), c(n(3, 4)), c(k(a([1.0, np.nan]))), c(n(3, 4), dim=1)),
    row("nanmean", lambda x, dim=None: np.nanmean(x, axis=dim), c(n(3, 4)), c(k(a([1.0, np.nan]))), c(n(3, 4), dim=1)),
    row("count_nonzero", lambda x, dim=None: np.count_nonzero(x, axis=dim), c(i(2, 3, 4)), c(i(2, 3, 4), dim=0)),
    row("aminmax", lambda x, dim=None: (np.min(x, axis=dim), np.max(x, axis=dim)), c(d(3, 4)), c(d(3, 4), dim=1)),
    row("dist", lambda x, y, p=2: (np.abs(x - y) ** p).sum() ** (1 / p), c(n(3, 4), n(3, 4)), c(n(3), n(3), 3)),
    row("trace", np.trace, c(n(3, 4)), c(n(2, 2))),
    row("renorm", lambda x, p, dim, m: x * np.minimum(1, m / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-7)), c(n(3, 4), 2, 0, 1.0)),
    row("diff", lambda x, n=1, dim=-1: np.diff(x, n, dim), c(n(3, 4)), c(n(3, 4), dim=0), c(n(5), n=2)),
    row("trapezoid", lambda y, x=None, dx=1, dim=-1: np.trapezoid(y, x, dx, dim), c(n(3, 4)), c(n(3, 4), k(d(4))), c(n(3, 4),
        dx=0.5, dim=0)),
    row("cumulative_trapezoid", lambda y, dx=1, dim=-1: np.cumsum((np.take(y, range(1, y.shape[dim]),
        dim) + np.take(y, range(y.shape[dim] - 1), dim)) / 2 * dx, dim),
        c(n(3, 4)), c(n(3, 4), dx=0.5, dim=0)),
    row("cov", _cov, c(n(3, 5)), c(n(5)), c(n(3, 5), correction=0)), row("corrcoef", np.corrcoef, c(n(3, 5))),
]  # fmt: skip

SHAPE = [
    row("tensor_split", _tensor_split, c(n(5, 2), 2), c(n(2, 7), 3, dim=1), c(n(6), (1, 4))),
    row("hsplit", lambda x, p: tuple(np.hsplit(x, p)), c(n(2, 4), 2), c(n(4), 2)), row("vsplit", lambda x, p: tuple(np.vsplit(x, p)),
        c(n(4, 2), 2)),
    row("dsplit", lambda x, p: tuple(np.dsplit(x, p)), c(n(2, 2, 4), 2)),
    row("narrow_copy", lambda x, dim, start, length: np.take(x, range(start, start + length), dim), c(n(3, 4), 1, 1, 2)),
    row("movedim", np.moveaxis, c(n(2, 3, 4), 0, -1), c(n(2, 3, 4), (0, 1), (2, 0))),
    row("unflatten", lambda x, dim, s: x.reshape(x.shape[0], *s), c(n(2, 6), 1, (2, 3)), c(n(2, 6), 1, (-1, 3))),
    row("ravel", np.ravel, c(n(2, 3)), c(n())), row("broadcast_to", np.broadcast_to, c(n(3, 1), (2, 3, 4))),
    row("unfold", _windows, c(n(7), 0, 3, 2), c(n(3, 6), 1, 2, 2), c(n(3, 6), 0, 2, 1), torch=lambda torch, x, *p: x.unfold(*p)),
    row("windows", _windows, c(n(7), dim=0, size=3, step=2), c(n(3, 6), dim=-1, size=2, step=1), c(n(), dim=0, size=1, step=1), torch=None),
    row("windows_put", _unfold_put, c(n(3, 3), x_shape=(7,), dim=0, size=3, step=2), torch=None),
    row("as_strided", _strided, c(n(3, 4), size=(2, 2), stride=(4, 2)), c(n(6), size=(3, 2), stride=(1, 1), storage_offset=1)),
    row("as_strided_put", _strided_put, c(n(3, 2), x_shape=(6,), size=(3, 2), stride=(1, 1), storage_offset=1), torch=None),
    row("fliplr", np.fliplr, c(n(2, 3))), row("flipud", np.flipud, c(n(2, 3))),
    row("rot90", np.rot90, *(c(n(2, 3), q) for q in (0, 1, 2, 3, -1)), c(n(2, 3, 4), 1, (1, 2)),
        torch=lambda torch, x, q=1, dims=(0, 1): torch.rot90(x, q, dims)),
    *(row(name, lambda x, m=m: np.atleast_3d(x) if m == 3 else (np.atleast_2d(x) if m == 2 else np.atleast_1d(x)), c(n()), c(n(3)),
        c(n(2, 3)))
      for m, name in ((1, "atleast_1d"), (2, "atleast_2d"), (3, "atleast_3d"))),
    *(row(name, lambda *xs, f=f: f(xs), c([n(3), n(3)]), c([n(2, 3), n(2, 3)])) for name, f in {
        "hstack": np.hstack, "vstack": np.vstack, "dstack": np.dstack, "column_stack": np.column_stack}.items()),
    row("block_diag", lambda x, y: np.block([[x, np.zeros((x.shape[0], y.shape[1]))], [np.zeros((y.shape[0], x.shape[1])), y]]),
        c(n(2, 3), n(1, 2))),
    row("tile", np.tile, c(n(2, 3), (2,)), c(n(2), (3, 1, 2))),
    row("repeat_interleave", lambda x, r, dim=None: np.repeat(x, r, dim), c(n(2, 3), 2), c(n(2, 3), 2, dim=1), c(n(2, 3), a([2, 1]),
        dim=0)),
    row("diag_embed", _diag_embed, c(n(2, 3)), c(n(3), offset=1), c(n(2, 3), offset=-1, dim1=0, dim2=2)),
    row("diag", np.diag, c(n(3)), c(n(3), 1), c(n(3, 4)), c(n(3, 4), -1)), row("diagflat", np.diagflat, c(n(2, 2)), c(n(3), 1)),
    row("select_scatter", lambda x, s, dim, j: np.stack([s if m == j else r for m, r in enumerate(x)]), c(n(3, 4), n(4), 0, 1)),
    row("slice_scatter", lambda x, s, dim, lo, hi: np.concatenate([x[:lo], s, x[hi:]]), c(n(5, 2), n(2, 2), 0, 1, 3)),
    row("diagonal_scatter", lambda x, s: x - np.diag(np.diag(x)) + np.diag(s), c(n(3, 3), n(3))),
    row("meshgrid", lambda *xs, indexing="ij": tuple(np.meshgrid(*xs, indexing=indexing)), c(n(2), n(3), indexing="ij"), c(n(2), n(3),
        indexing="xy"), c(n(2), n(3), n(1), indexing="ij")),
    row("cartesian_prod", lambda *xs: np.array(list(itertools.product(*xs))), c(n(2), n(3))),
    row("combinations", lambda x, r=2: np.array(list(itertools.combinations(x, r))), c(n(4)), c(n(4), 3)),
    row("vander", lambda x, m=None, increasing=False: np.vander(x, m, increasing), c(n(3)), c(n(3), 2), c(n(3), None, True), torch=None),
]  # fmt: skip

INDEX = [
    row("argwhere", np.argwhere, c(b(3, 4))),
    row("index_add", _index_along("add"), c(n(4, 3), 0, a([0, 2, 0]), n(3, 3)), c(n(2, 4), 1, a([3, 1]), n(2, 2), alpha=2)),
    row("index_copy", _index_along("put"), c(n(4, 3), 0, a([0, 2]), n(2, 3)), c(n(2, 4), -1, a([3, 1]), n(2, 2))),
    row("index_fill", _index_along("put"), c(n(4, 3), 0, a([0, 2]), 1.5), c(n(2, 4), 1, a([3, 1]), n())),
    row("take", np.take, c(n(3, 4), i(12, 2, 3))), row("put", lambda x, j, s: _put(x, j, s), c(n(3, 4), a([0, 5]), n(2))),
    row("take_along_dim", lambda x, j, dim: np.take_along_axis(x, j, dim), c(n(3, 4), i(3, 2, 4), 0), c(n(3, 4), i(4, 1, 2), 1)),
    row("masked_select",
    lambda x, m: np.broadcast_to(x, np.broadcast_shapes(x.shape, m.shape))[
            np.broadcast_to(m, np.broadcast_shapes(x.shape, m.shape))], c(n(3, 4), b(3, 4)), c(n(4), b(3, 1))),
    row("masked_scatter", lambda x, m, s: _masked(x, m, s), c(n(3, 4), b(3, 4), n(12))),
    row("scatter_reduce", _scatter_reduce, *(c(n(3, 4), 0, i(3, 2, 4), n(2, 4), reduce=r, include_self=s)
        for r in ("sum", "prod", "mean", "amax", "amin") for s in (True, False))),
    row("scatter_combine", lambda x, j, s, dim, how: _scatter_reduce(x, dim, j, s, how), c(n(3, 4), i(3, 2, 4), n(2, 4), dim=0, how="prod"),
        c(d(3, 4), i(3, 2, 4), n(2, 4), dim=0, how="amax"), torch=None),
]  # fmt: skip

PRODUCTS = [
    row("addmv", lambda x, m, v, beta=1, alpha=1: beta * x + alpha * (m @ v), c(n(2), n(2, 3), n(3)), c(n(2), n(2, 3), n(3),
        beta=0.5, alpha=2)),
    row("addr", lambda x, v, w: x + np.outer(v, w), c(n(2, 3), n(2), n(3))),
    row("baddbmm", lambda x, y, w, beta=1, alpha=1: beta * x + alpha * (y @ w), c(n(2, 3, 4), n(2, 3, 2), n(2, 2, 4), beta=0.5, alpha=2)),
    row("addbmm", lambda x, y, w: x + (y @ w).sum(0), c(n(3, 4), n(2, 3, 2), n(2, 2, 4))),
    row("inner", np.inner, c(n(3), n(3)), c(n(2, 3), n(4, 3)), c(n(), n(2))),
    row("chain_matmul", lambda *xs: np.linalg.multi_dot(xs), c(n(2, 3), n(3, 5), n(5, 2)), c(n(5, 1), n(1, 5), n(5, 2), n(2, 3))),
    row("tensordot", lambda x, y, dims=2: np.tensordot(x, y, dims), c(n(2, 3, 4), n(3, 4, 2)), c(n(2, 3), n(4, 3), dims=([1], [1])),
        c(n(2), n(3), dims=0)),
    row("kron", np.kron, c(n(2, 3), n(2, 2)), c(n(2), n(2, 2))),
    row("cross", lambda x, y, dim=-1: np.cross(x, y, axis=dim), c(n(2, 3), n(2, 3), 1), c(n(3, 2), n(3, 2), 0)),
    row("cdist", lambda x, y, p=2.0: (np.abs(x[..., :, None, :] - y[..., None, :, :]) ** p).sum(-1) ** (1 / p), c(n(3, 2), n(4, 2)),
        c(n(2, 3, 2), n(2, 4, 2), 1.0), c(n(3, 2), n(4, 2), 3.0),
        torch=lambda torch, x, y, p=2.0: torch.linalg.vector_norm(x[..., :, None, :] - y[..., None, :, :], p, -1)),
    row("einsum", _einsum, *(c(e, *(n(*s) for s in shapes)) for e, shapes in {
        "ij,jk->ik": [(2, 3), (3, 4)], "bij,bjk->bik": [(2, 3, 4),
        (2, 4, 2)], "ij->ji": [(2, 3)], "ii": [(3, 3)], "ii->i": [(3, 3)], "ij->": [(2, 3)],
        "i,j->ij": [(2,), (3,)], "...ij,...jk": [(2, 3, 4), (4, 2)], "bhqd,bhkd->bhqk": [(2, 2, 3, 4),
        (2, 2, 5, 4)], "ij,ij->i": [(2, 3), (2, 3)],
        "bn,anm,bm->ba": [(2, 3), (4, 3, 2), (2, 2)], "i,i": [(3,), (3,)], "b i j , b j -> b i": [(2, 3, 4),
        (2, 4)], "abc,cd,def->abef": [(2, 1, 3), (3, 2), (2, 2, 2)]}.items())),
]  # fmt: skip

_m2, _m3 = n(4, 3), n(2, 3, 4)

LINALG = [
    row("inv", np.linalg.inv, c(square(3, 3)), c(square(2, 3, 3)), torch="linalg.inv"),
    row("solve", np.linalg.solve, c(square(3, 3), n(3, 2)), c(square(2, 3, 3), n(2, 3, 1)), c(square(3, 3), n(2, 3, 2)),
        torch="linalg.solve"),
    row("linalg.solve", np.linalg.solve, c(square(3, 3), n(3)), c(square(3, 3), n(3, 2))),
    row("triangular_solve_left", _triangular, *(c(square(3, 3), n(3, 2), upper=up) for up in (True, False)),
        c(square(3, 3), n(3, 2), upper=True, unitriangular=True), torch="linalg.solve_triangular"),
    row("pinv", np.linalg.pinv, c(n(4, 3)), c(n(2, 4)), c(n(2, 3, 3)), torch="linalg.pinv"),
    row("det", np.linalg.det, c(square(3, 3)), c(n(2, 2, 2)), torch="det"),
    row("slogdet", lambda x: tuple(np.linalg.slogdet(x)), c(square(3, 3)), c(n(2, 2, 2)), torch="linalg.slogdet"),
    row("cholesky", lambda x, upper=False: np.linalg.cholesky(x).swapaxes(-1, -2) if upper else np.linalg.cholesky(x),
        c(hermitian(3, 3)), c(hermitian(2, 3, 3), upper=True), torch="linalg.cholesky"),
    row("qr", lambda x: tuple(np.linalg.qr(x)), c(_m2), c(_m3), c(n(3, 3)), torch="linalg.qr"),
    row("linalg.qr", lambda x, mode="reduced": tuple(np.linalg.qr(x, mode)), c(k(_m2), mode="complete")),
    row("svd", lambda x: tuple(np.linalg.svd(x, full_matrices=False)), c(_m2), c(_m3), c(n(3, 3)), torch=None),
    row("svd_full", lambda x: tuple(np.linalg.svd(x)), c(k(_m2)), torch=None),
    row("linalg.svdvals", lambda x: np.linalg.svd(x, compute_uv=False), c(_m2), c(_m3)),
    row("eigh", lambda x: tuple(np.linalg.eigh(x)), c(hermitian(3, 3, positive=False)), c(hermitian(2, 3, 3)), torch=None),
    row("linalg.eigvalsh", np.linalg.eigvalsh, c(hermitian(3, 3))),
    row("eig", lambda x: tuple(np.linalg.eig(x.astype(complex))), c(k(z(3, 3))), torch=None),
    row("linalg.eigvals", lambda x: np.linalg.eigvals(x).astype(complex), c(square(3, 3)), torch=None),
    row("matrix_exp", _matrix_exp, c(n(3, 3)), c(n(2, 2, 2)), c(np.zeros((2, 2)))),
    row("linalg.matrix_power", np.linalg.matrix_power, c(square(3, 3), 3), c(square(3, 3), -2), c(k(n(3, 3)), 0), c(n(2, 2), 1)),
    row("linalg.norm", np.linalg.norm, c(n(3, 4)), *(c(n(3, 4), o) for o in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)), c(n(5), 3),
        c(n(5))),
    row("linalg.vector_norm", lambda x, o=2: (np.abs(x) ** o).sum() ** (1 / o), c(n(3, 4)), c(n(3, 4), 3)),
    row("linalg.matrix_norm", lambda x: np.linalg.norm(x, axis=(-2, -1)), c(n(2, 3, 4))),
    row("linalg.cond", np.linalg.cond, c(square(3, 3)), c(k(n(3, 3)), 1)), row("linalg.matrix_rank",
        lambda x: np.asarray(np.linalg.matrix_rank(x)), c(n(4, 3)), c(np.ones((3, 3)))),
    row("linalg.cross", np.cross, c(n(2, 3), n(2, 3))), row("linalg.vecdot", lambda x, y: (x * y).sum(-1), c(n(2, 3), n(2, 3))),
    row("linalg.multi_dot", lambda *xs: np.linalg.multi_dot(xs), c([n(3), n(3, 4), n(4)]), c([n(2, 3), n(3, 4), n(4, 2)])),
    row("linalg.tensorinv", np.linalg.tensorinv, c(n(2, 3, 6), 2), c(n(4, 2, 2), 1), torch=None), row("linalg.tensorsolve",
        np.linalg.tensorsolve, c(n(2, 3, 6), n(2, 3))),
    row("linalg.vander", lambda x: np.vander(x, increasing=True), c(n(3))),
]  # fmt: skip

_lines = [c(n(6)), c(n(3, 5), dim=0), c(n(5), n=7), c(n(6), n=4, norm="ortho"), c(n(5), norm="forward")]
_halves = [c(z(4)), c(z(3, 5), dim=0), c(z(4), n=7), c(z(4), n=5, norm="ortho"), c(z(5), n=1)]

FFT = [
    row("dft", lambda x, dims, inverse=False, norm="backward": (np.fft.ifftn if inverse else np.fft.fftn)(x, axes=dims, norm=norm),
        c(z(3, 4), dims=(1,)),
        c(z(3, 4), dims=(0, 1), inverse=True, norm="ortho"), c(z(3), dims=()), torch=None),
    row("hermitian_dft", lambda x, n, dim: np.fft.irfft(x, n, dim), c(z(4), n=6, dim=0), c(z(2, 4), n=7, dim=1), torch=None),
    row("fft.fft", _fft(np.fft.fft), *_lines, c(z(5))), row("fft.ifft", _fft(np.fft.ifft), *_lines, c(z(5))), row("fft.rfft",
        _fft(np.fft.rfft), *_lines),
    row("fft.irfft", _fft(np.fft.irfft), *_halves), row("fft.hfft", _fft(np.fft.hfft), *_halves[:3]), row("fft.ihfft",
        _fft(np.fft.ihfft), c(n(6)), c(n(5))),
    row("fft.fftn", _fft(np.fft.fftn, True), c(n(2, 3)), c(z(2, 3, 4), dim=(0, 2)), c(z(3, 4), s=(2, 5), dim=(0, 1))), row("fft.ifftn",
        _fft(np.fft.ifftn, True), c(z(2, 3))),
    row("fft.rfftn", _fft(np.fft.rfftn, True), c(n(2, 3)), c(n(2, 3, 4), dim=(1, 2))), row("fft.irfftn", _fft(np.fft.irfftn, True),
        c(z(2, 3)), c(z(3, 3), s=(3, 5), dim=(0, 1))),
    row("fft.fft2", np.fft.fft2, c(n(2, 3, 4))), row("fft.ifft2", np.fft.ifft2, c(z(3, 4))), row("fft.rfft2", np.fft.rfft2, c(n(3, 4))),
        row("fft.irfft2", np.fft.irfft2, c(z(3, 4))),
    row("fft.fftshift", np.fft.fftshift, c(n(5)), c(n(4, 3))), row("fft.ifftshift", np.fft.ifftshift, c(n(5)), c(n(4, 3))),
]  # fmt: skip


def _put(x: Any, j: Any, s: Any) -> Any:
    y = x.copy()
    np.put(y, j, s)
    return y


def _masked(x: Any, m: Any, s: Any) -> Any:
    y = x.copy()
    y[m] = s.reshape(-1)[: m.sum()]
    return y


MATH_ROWS: list[Row] = [*ELEMENTWISE, *COMPLEX, *ORDER, *REDUCE, *SHAPE, *INDEX, *PRODUCTS, *LINALG, *FFT]
