"""L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core import backend
from core._tensor import Tensor, _grad_mode, wrap
from core.errors import ArgumentError
from core.optim.optimizer import Optimizer, check

Evaluate = Callable[[Any], tuple[float, Any]]  # step length -> loss and gradient there


class LBFGS(Optimizer):
    """Quasi-Newton: x ← x + t·d, d = −H·g, H from the last `history_size` changes of x and g by the two-loop recursion.

    A step does up to `max_iter` iterations and calls the closure up to `max_eval` times. t is lr, or found by a line
    search (`line_search_fn="strong_wolfe"`). One parameter group only. Sources: Nocedal & Wright 2006, algorithm 7.4;
    Schmidt, minFunc.
    """

    def __init__(
        self, params: Any, lr: float = 1, max_iter: int = 20, max_eval: int | None = None, tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9, history_size: int = 100, line_search_fn: str | None = None,
    ):  # fmt: skip
        check("LBFGS", lr=lr)
        if line_search_fn not in (None, "strong_wolfe"):
            raise ArgumentError(f"LBFGS: only 'strong_wolfe' is supported, got line_search_fn={line_search_fn!r}")
        super().__init__(
            params,
            {
                "lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change, "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )  # fmt: skip
        if len(self.param_groups) != 1:
            raise ArgumentError("LBFGS doesn't support per-parameter options (parameter groups)")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Minimise. `closure` clears the gradients, computes the loss, calls backward and returns the loss."""
        if closure is None:
            raise ArgumentError("LBFGS: expected step(closure), got no closure; it evaluates the loss several times")
        for hook in list((self._pre_hooks or {}).values()):
            hook(self, (closure,), {})
        self._opt_called = True
        first = self._minimise(closure)
        for hook in list((self._post_hooks or {}).values()):
            hook(self, (closure,), {})
        return first

    def _minimise(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        params, lr, max_iter, max_eval = group["params"], float(group["lr"]), group["max_iter"], group["max_eval"]
        tolerance_grad, tolerance_change = group["tolerance_grad"], group["tolerance_change"]
        state = self.state[params[0]]  # there is one state: the first parameter's, so that loading fits its dtype
        xp = backend.of(params[0]._a).xp

        def evaluate() -> tuple[Any, Any]:
            with _grad_mode(True):
                loss = closure()
            zero = [p._a if p._grad is None else p._grad._a for p in params]
            flat = [(g * 0 if p._grad is None else g).reshape(-1) for p, g in zip(params, zero)]
            return loss, xp.concatenate(flat)

        def evaluations(n: int) -> None:
            state["func_evals"] = state.get("func_evals", 0) + n

        first, g = evaluate()
        loss, used = float(first), 1
        evaluations(1)
        state.setdefault("n_iter", 0)
        if float(xp.abs(g).max()) <= tolerance_grad:
            return first
        past = _Past(state, xp, group["history_size"])
        for i in range(1, max_iter + 1):
            state["n_iter"] += 1
            d = past.direction(g)
            g_before, loss_before = g.copy(), loss
            past.t = min(1.0, 1.0 / xp.abs(g).sum()) * lr if state["n_iter"] == 1 else lr
            slope = g.dot(d)
            past.g = g_before
            past.loss = loss_before
            if slope > -tolerance_change:
                break
            if group["line_search_fn"]:
                origin = [p._a.copy() for p in params]

                def at(t: Any, d: Any = d, origin: Any = origin) -> tuple[float, Any]:
                    _move(params, t, d)
                    loss, g = evaluate()
                    for p, a in zip(params, origin):
                        p._a[...] = a
                        p._bump()
                    return float(loss), g

                loss, g, past.t, n = strong_wolfe(at, xp, past.t, d, loss, g, slope, max_eval - used)
                _move(params, past.t, d)
            else:
                _move(params, past.t, d)
                n = 0
                if i != max_iter:  # the next step evaluates here anyway
                    value, g = evaluate()
                    loss, n = float(value), 1
            used += n
            evaluations(n)
            if i == max_iter or used >= max_eval or float(xp.abs(g).max()) <= tolerance_grad:
                break
            if float(xp.abs(d * past.t).max()) <= tolerance_change or abs(loss - loss_before) < tolerance_change:
                break
        past.keep(state)
        return first


class _Past:
    """What the iterations so far have told: pairs of changes y of g and s of x, and the scale of H between them."""

    def __init__(self, state: dict[str, Any], xp: Any, size: int):
        def raw(value: Any) -> Any:
            return (
                [raw(v) for v in value] if isinstance(value, list) else value._a if isinstance(value, Tensor) else value
            )

        self.xp, self.size = xp, size
        self.y, self.s, self.ro = (raw(state.get(k, [])) for k in ("old_dirs", "old_stps", "ro"))
        self.d, self.t, self.g, self.scale = (raw(state.get(k)) for k in ("d", "t", "prev_flat_grad", "H_diag"))
        self.loss = state.get("prev_loss")

    def direction(self, g: Any) -> Any:
        """−H·g."""
        if self.g is None:
            self.d, self.scale = -g, 1
            return self.d
        y, s = g - self.g, self.d * self.t
        ys = y.dot(s)
        if ys > 1e-10:  # else H would not stay positive definite
            if len(self.y) == self.size:
                for old in (self.y, self.s, self.ro):
                    old.pop(0)
            self.y.append(y)
            self.s.append(s)
            self.ro.append(1.0 / ys)
            self.scale = ys / y.dot(y)
        q = -g
        weights = []
        for y, s, ro in zip(reversed(self.y), reversed(self.s), reversed(self.ro)):
            weights.append(s.dot(q) * ro)
            q -= y * weights[-1]
        q *= self.scale
        for y, s, ro, weight in zip(self.y, self.s, self.ro, reversed(weights)):
            q += s * (weight - y.dot(q) * ro)
        self.d = q
        return q

    def keep(self, state: dict[str, Any]) -> None:
        """Into the state, as Tensors under PyTorch's names."""

        def kept(value: Any) -> Any:
            return (
                [kept(v) for v in value]
                if isinstance(value, list)
                else wrap(value)
                if hasattr(value, "dtype")
                else value
            )

        if state["n_iter"] > 1:
            state["al"] = [None] * self.size  # PyTorch's room to work in
        names = {"d": self.d, "t": self.t, "old_dirs": self.y, "old_stps": self.s, "ro": self.ro, "H_diag": self.scale}
        state.update({k: kept(v) for k, v in names.items()}, prev_flat_grad=wrap(self.g), prev_loss=self.loss)


def _move(params: list[Tensor], t: Any, d: Any) -> None:
    """x += t·d"""
    at = 0
    for p in params:
        x_ = p._a
        x_ += (d[at : at + x_.size] * t).reshape(x_.shape)
        at += x_.size
        p._bump()


def strong_wolfe(
    at: Evaluate,
    xp: Any,
    t: Any,
    d: Any,
    loss: float,
    g: Any,
    slope: Any,
    max_ls: int,
    c1: float = 1e-4,
    c2: float = 0.9,
) -> tuple[float, Any, Any, int]:
    """A step length t where loss(t) <= loss + c1·t·slope and |slope(t)| <= c2·|slope|: (loss, gradient, t,
    evaluations).

    First an interval that holds one is bracketed, then it is narrowed. Source: Nocedal & Wright 2006, algorithms 3.5
    and 3.6.
    """
    start = (0, loss, g, slope)  # a point: step length, loss, gradient, slope
    longest = xp.abs(d).max()

    def point(t: Any) -> tuple[Any, float, Any, Any]:
        f, g = at(t)
        return t, f, g, g.dot(d)

    def too_high(p: Any) -> bool:
        return p[1] > loss + c1 * p[0] * slope

    def flat(p: Any) -> bool:
        return abs(p[3]) <= -c2 * slope

    before, here, n, done = start, point(t), 0, False
    bracket = [start, here]
    while n < max_ls:
        if too_high(here) or (n > 1 and here[1] >= before[1]):
            bracket = [before, here]
            break
        if flat(here):
            bracket, done = [here, here], True
            break
        if here[3] >= 0:
            bracket = [before, here]
            break
        low = here[0] + 0.01 * (here[0] - before[0])
        t = interpolate(before, here, low, here[0] * 10)
        before, here = here, point(t)
        n += 1
    else:
        bracket = [start, here]
    best, other = (0, 1) if bracket[0][1] <= bracket[1][1] else (1, 0)
    stuck = False
    while not done and n < max_ls:
        ends = sorted((bracket[0][0], bracket[1][0]))
        if (ends[1] - ends[0]) * longest < 1e-9:
            break
        t = interpolate(*bracket, *ends)
        # close to an end twice, or on it: go a tenth of the interval inside instead
        margin = 0.1 * (ends[1] - ends[0])
        if min(ends[1] - t, t - ends[0]) < margin:
            if stuck or t >= ends[1] or t <= ends[0]:
                t = ends[1] - margin if abs(t - ends[1]) < abs(t - ends[0]) else ends[0] + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        here = point(t)
        n += 1
        if too_high(here) or here[1] >= bracket[best][1]:
            bracket[other] = here
            best, other = (0, 1) if bracket[0][1] <= bracket[1][1] else (1, 0)
            continue
        if flat(here):
            done = True
        elif here[3] * (bracket[other][0] - bracket[best][0]) >= 0:
            bracket[other] = bracket[best]
        bracket[best] = here
    t, loss, g, _ = bracket[best]
    return loss, g, t, n + 1


def interpolate(p: Any, q: Any, low: Any, high: Any) -> Any:
    """Where the cubic through two points, with their slopes, has its minimum, kept in [low, high]; the middle if it
    has none."""
    (a, fa, _, ga), (b, fb, _, gb) = (p, q) if p[0] <= q[0] else (q, p)
    d1 = ga + gb - 3 * (fa - fb) / (a - b)
    square = d1 * d1 - ga * gb
    if not square >= 0:
        return (low + high) / 2
    d2 = square**0.5
    return min(max(b - (b - a) * ((gb + d2 - d1) / (gb - ga + 2 * d2)), low), high)
