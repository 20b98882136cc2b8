"""Chains of ops that a backend may compute as one, in plain array code: `core.nn.modules.chains` asks for those that `chains` names."""

from __future__ import annotations

from typing import Any

Ints = tuple[int, ...]


class ChainKernels:
    """Mixed into `Backend`; uses nothing of it but these."""

    xp: Any
    add: Any
    linear: Any
    relu: Any
    gelu: Any
    gelu_grad: Any
    conv: Any
    normalize: Any
    relu_grad: Any
    standardize_grad: Any

    chains: frozenset[str] = frozenset()  # the ops of `core.ops.chains` that are faster here than their parts

    def add_relu(self, x: Any, y: Any) -> Any:
        """max(x + y, 0) of one dtype; shapes broadcast."""
        return self.relu(self.add(x, y))

    def add_gelu(self, x: Any, y: Any, approximate: str) -> Any:
        """gelu(x + y) of one dtype; shapes broadcast."""
        return self.gelu(self.add(x, y), approximate).astype(x.dtype, copy=False)

    def add_gelu_grad(self, g: Any, x: Any, y: Any, approximate: str) -> Any:
        """Its gradient for the sum."""
        return self.gelu_grad(g, self.add(x, y), approximate)

    def linear_relu(self, x: Any, w: Any, b: Any) -> Any:
        """max(x wᵀ + b, 0): (*, I), (O, I), (O) -> (*, O)"""
        return self.relu(self.linear(x, w, b))

    def linear_gelu(self, x: Any, w: Any, b: Any) -> tuple[Any, Any]:
        """gelu(z) in its tanh form, and z = x wᵀ + b"""
        z = self.linear(x, w, b)
        return self.gelu(z, "tanh").astype(z.dtype, copy=False), z

    def conv_relu(self, x: Any, w: Any, b: Any, stride: Ints, padding: Ints, dilation: Ints, groups: int) -> Any:
        """max(conv, 0): (N, C, *in), (K, C/G, *k), (K) or None -> (N, K, *out)"""
        return self.relu(self.conv(x, w, b, stride, padding, dilation, groups))

    def normalize_relu(self, x: Any, w: Any, b: Any, axes: Ints, eps: float) -> tuple[Any, Any, Any, Any]:
        """max(·, 0) of `normalize`, the moments, and bytes for the gradient, of which there are none here."""
        y, mean, var = self.normalize(x, w, b, axes, eps)
        return self.relu(y, y), mean, var, self.xp.empty(0, self.xp.uint8)

    def normalize_relu_grad(
        self, g: Any, x: Any, w: Any, b: Any, y: Any, mean: Any, rstd: Any, kept: Any, axes: Ints
    ) -> tuple[Any, Any, Any]:
        """Its gradients for x, w and b; y is what it returned."""
        return self.standardize_grad(self.relu_grad(g, y), x, w, b, mean, rstd, axes)

    def kept(self, x: Any, keep: Any, scale: float) -> Any:
        """x·scale where `keep`, a bool array, is true, else 0"""
        return x * (keep.astype(x.dtype) * x.dtype.type(scale))
