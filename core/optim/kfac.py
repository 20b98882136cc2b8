"""K-FAC: natural gradient with a Kronecker-factored Fisher matrix. PyTorch has none."""

from __future__ import annotations

import math
from typing import Any

from core import backend
from core._tensor import Tensor, _grad_mode, wrap
from core.engine import mode
from core.nn.modules.conv import Conv2d
from core.nn.modules.linear import Linear
from core.nn.modules.module import Module
from core.optim.optimizer import Optimizer, check, counter, zeros_like


class KFAC(Optimizer):
    """x ← x − lr·v, v ← momentum·v + c·F⁻¹g, where F is the Fisher matrix of the model, block by block.

    For Linear and Conv2d (groups=1) F is A ⊗ G, A the second moment of the layer's inputs (a 1 appended for the bias)
    and G that of the gradients at its outputs, so F⁻¹g = (G + √λ/π·I)⁻¹ ∇W (A + π√λ·I)⁻¹ with λ = damping and π² = (tr
    A / dim A) / (tr G / dim G). For other parameters F is the diagonal of squared gradients. A, G are running means
    (`decay`), inverted every `inverse_every` steps. c keeps lr²·vᵀFv <= kl_clip. The loss must be a mean over the
    batch (the first dimension). Gradients of the training loss give the empirical Fisher; backpropagate a loss on
    labels drawn from the model for the true one. `close()` removes the hooks from the model.
    Sources: Martens & Grosse 2015 (sections 3, 6.3); Grosse & Martens 2016 (convolutions); Ba et al. 2017 (clipping).
    """

    def __init__(
        self, model: Module, lr: float = 1e-2, momentum: float = 0.9, damping: float = 1e-3, decay: float = 0.95,
        weight_decay: float = 0, kl_clip: float = 1e-3, inverse_every: int = 10,
    ):  # fmt: skip
        check(
            "KFAC", lr=lr, momentum=momentum, damping=damping, decay=decay, weight_decay=weight_decay, kl_clip=kl_clip
        )
        super().__init__(
            model.parameters(),
            {
                "lr": lr, "momentum": momentum, "damping": damping, "decay": decay, "weight_decay": weight_decay, "kl_clip": kl_clip,
                "inverse_every": inverse_every, "maximize": False,
            },
        )  # fmt: skip
        kinds = (Linear, Conv2d)
        self._layers = [m for m in model.modules() if isinstance(m, kinds) and getattr(m, "groups", 1) == 1]
        self._handles = [m.register_forward_hook(self._watch) for m in self._layers]
        self._moments: dict[
            int, list[Any]
        ] = {}  # id of a layer -> sums of A and G over the passes of this step, and how many
        self._natural: dict[int, Any] = {}  # id of a parameter's array -> F⁻¹g, for the step under way

    def close(self) -> None:
        """Stop watching the model."""
        for handle in self._handles:
            handle.remove()

    # -- watching ------------------------------------------------------------------------------------------------------

    def _watch(self, layer: Any, args: Any, output: Tensor) -> None:
        if not mode.grad or not output.requires_grad:
            return
        x = args[0]._a

        def on_gradient(g: Tensor) -> None:
            a, b = _moments(layer, x, g._a)
            found = self._moments.get(id(layer))
            if found is None:
                self._moments[id(layer)] = [a, b, 1]
            else:
                found[0] += a
                found[1] += b
                found[2] += 1

        output.register_hook(on_gradient)

    # -- the step ------------------------------------------------------------------------------------------------------

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with _grad_mode(True):
                loss = closure()
        self._natural = {}
        group_of = {id(p): group for group in self.param_groups for p in group["params"]}
        layered = set()
        for layer in self._layers:
            if layer.weight._grad is not None and id(layer.weight) in group_of:
                layered |= {id(layer.weight), id(layer.bias)}
                self._precondition(layer, group_of[id(layer.weight)])
        inner = 0.0  # lr²·gᵀF⁻¹g, the change of the model's output distribution
        for group in self.param_groups:
            for p in group["params"]:
                if p._grad is not None:
                    if id(p) not in layered:
                        self._natural[id(p._a)] = self._diagonal(p, group)
                    inner += float((self._natural[id(p._a)] * p._grad._a).sum()) * float(group["lr"]) ** 2
        clip = min(group["kl_clip"] for group in self.param_groups)
        self._scale = min(1.0, math.sqrt(clip / inner)) if inner > 0 else 1.0
        super().step()
        self._moments, self._natural = {}, {}
        return loss

    def update(self, be, x_, g, state, group):
        v = self._natural[id(x_)] * self._scale
        if group["weight_decay"]:
            v += x_ * group["weight_decay"]
        v_ = state["momentum_buffer"]._a
        v_ *= group["momentum"]
        v_ += v
        x_ -= v_ * group["lr"]

    def init(self, p, group):
        return {"momentum_buffer": zeros_like(p)}

    def _precondition(self, layer: Any, group: dict[str, Any]) -> None:
        """F⁻¹g of a layer's weight (M, …) and bias (M), with A and G brought up to date."""
        w, bias = layer.weight, layer.bias
        xp, state = backend.of(w._a).xp, self._state(w, group)
        moments = self._moments.get(id(layer))
        if moments is not None:
            for name, total in zip(("A", "G"), moments):
                mean = total / moments[2]
                if name not in state:
                    state[name] = wrap(mean)
                else:
                    m_ = state[name]._a
                    m_ += (mean - m_) * (1 - group["decay"])
            if "inverse_A" not in state or int(state["step"]) % group["inverse_every"] == 0:
                self._invert(xp, state, group["damping"])
            state["step"]._a += 1
        g = w._grad._a.reshape(w._a.shape[0], -1)
        with_bias = bias is not None and bias._grad is not None
        if bias is not None:
            column = bias._grad._a if with_bias else xp.zeros_like(g[:, 0])
            g = xp.concatenate([g, column[:, None]], axis=1)
        if "inverse_A" in state:  # else the layer has not been seen in backward
            g = state["inverse_G"]._a @ g @ state["inverse_A"]._a
        n = w._a[0].size
        self._natural[id(w._a)] = g[:, :n].reshape(w._a.shape)
        if with_bias:
            self._natural[id(bias._a)] = g[:, n]

    @staticmethod
    def _invert(xp: Any, state: dict[str, Any], damping: float) -> None:
        a, g = state["A"]._a, state["G"]._a
        ratio = (float(xp.trace(a)) / len(a)) / max(float(xp.trace(g)) / len(g), 1e-30)
        pi, root = math.sqrt(max(ratio, 1e-30)), math.sqrt(damping)
        state["inverse_A"] = wrap(xp.linalg.inv(a + pi * root * xp.eye(len(a), dtype=a.dtype)))
        state["inverse_G"] = wrap(xp.linalg.inv(g + root / pi * xp.eye(len(g), dtype=g.dtype)))

    def _diagonal(self, p: Tensor, group: dict[str, Any]) -> Any:
        state, g = self._state(p, group), p.grad._a  # type: ignore[union-attr]
        square = g * g
        if "fisher" not in state:
            state["fisher"] = wrap(square)
        else:
            f_ = state["fisher"]._a
            f_ += (square - f_) * (1 - group["decay"])
        return g / (state["fisher"]._a + group["damping"])

    def _state(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state.update(self.init(p, group), step=counter())
        return state


def _moments(layer: Any, x: Any, g: Any) -> tuple[Any, Any]:
    """A and G of one pass: inputs (N, …, I) or (N, C, H, W) and gradients of a mean loss at the outputs."""
    xp, n = backend.of(x).xp, len(x)
    if isinstance(layer, Conv2d):
        k = g.shape[1]
        rows, grads = _patches(xp, layer, x, g.shape[2:]), g.transpose(0, 2, 3, 1).reshape(-1, k)
        places = len(rows) // n
    else:
        rows, grads, places = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1]), 1
    if layer.bias is not None:
        rows = xp.concatenate([rows, xp.ones_like(rows[:, :1])], axis=1)
    # the gradient of a mean over n is 1/n of an example's own
    return rows.T @ rows / n, grads.T @ grads * (n / places)


def _patches(xp: Any, layer: Any, x: Any, out: tuple[int, int]) -> Any:
    """(N, C, H, W) -> (N·H'·W', C·kh·kw): what each output place sees."""
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding == "same":
        total = [(k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation)]
        pads = [(t // 2, t - t // 2) for t in total]
    else:
        pads = [(0, 0), (0, 0)] if layer.padding == "valid" else [(p, p) for p in layer.padding]
    x = xp.pad(x, ((0, 0), (0, 0), *pads))
    oh, ow = out
    views = [
        x[:, :, i * dh : i * dh + (oh - 1) * sh + 1 : sh, j * dw : j * dw + (ow - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]  # each (N, C, H', W')
    return xp.stack(views, axis=2).transpose(0, 3, 4, 1, 2).reshape(len(x) * oh * ow, -1)
