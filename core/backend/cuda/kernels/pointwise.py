"""Chains of elementwise arithmetic as one kernel each, generated from expressions.

A row is an expression in C over its arrays and numbers, all of them read as A (float, or double for float64); functions are in
`pointwise.cuh`. From it come two kernels: `flat` moves 16 bytes at a time over arrays that lie alike, `strided` broadcasts and
transposes. A row whose name is that of an op computes that op, `OP.INPUT` its gradient for an input: `g` times the derivative, as its
rule in `core.ops` says.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_DIMS = 6
MAX_ARRAYS = 4


class Row(NamedTuple):
    arrays: str  # names of the arrays, in order
    expression: str
    numbers: str = ""  # names of the numbers


ROWS: dict[str, Row] = {
    # activations and their gradients
    "erf": Row("x", "erf(x)"),
    "normal_cdf": Row("x", "cdf(x)"),
    "gelu": Row("x", "x * cdf(x)"),
    "gelu.x": Row("g x", "g * (cdf(x) + x * pdf(x))"),
    "gelu_tanh": Row("x", "A(0.5) * x * (A(1) + gelu_inner(x))"),
    "gelu_tanh.x": Row(
        "g x",
        "t = gelu_inner(x); d = (A(1) + A(0.134145) * x * x) * A(0.79788456080286535588); "
        "g * A(0.5) * (A(1) + t + x * (A(1) - t * t) * d)",
    ),
    "sigmoid": Row("x", "sigmoid(x)"),
    "sigmoid.x": Row("g y", "g * y * (A(1) - y)"),
    "tanh.x": Row("g y", "g * (A(1) - y * y)"),
    "relu.x": Row("g y", "y > A(0) ? g : A(0)"),
    "silu": Row("x", "x * sigmoid(x)"),
    "silu.x": Row("g x", "s = sigmoid(x); g * s * (A(1) + x * (A(1) - s))"),
    "mish": Row("x", "x * tanh(softplus(x))"),
    "mish.x": Row("g x", "t = tanh(softplus(x)); g * (t + x * (A(1) - t * t) * sigmoid(x))"),
    "softplus": Row("x", "z = x * beta; z > threshold ? x : softplus(z) / beta", "beta threshold"),
    "softplus.x": Row("g x", "z = x * beta; z > threshold ? g : g * sigmoid(z)", "beta threshold"),
    "logsigmoid": Row("x", "-softplus(-x)"),
    "logsigmoid.x": Row("g x", "g * sigmoid(-x)"),
    "elu": Row("x", "x > A(0) ? x * scale : expm1(x * input_scale) * alpha * scale", "alpha scale input_scale"),
    "elu.x": Row("g y", "y > A(0) ? g * scale : g * (y + alpha * scale) * input_scale", "alpha scale input_scale"),
    "leaky_relu": Row("x", "x > A(0) ? x : x * negative_slope", "negative_slope"),
    "leaky_relu.x": Row("g y", "y > A(0) ? g : g * negative_slope", "negative_slope"),
    "hardswish": Row("x", "x * fmin(fmax(x + A(3), A(0)), A(6)) / A(6)"),
    "hardswish.x": Row("g x", "x < A(-3) ? A(0) : x > A(3) ? g : g * (x / A(3) + A(0.5))"),
    "hardsigmoid": Row("x", "x < A(-3) ? A(0) : x > A(3) ? A(1) : x / A(6) + A(0.5)"),
    "hardsigmoid.x": Row("g x", "x > A(-3) && x < A(3) ? g / A(6) : A(0)"),
    "hardtanh": Row("x", "x < lo ? lo : x > hi ? hi : x", "lo hi"),
    "hardtanh.x": Row("g y", "y > lo && y < hi ? g : A(0)", "lo hi"),
    # losses
    "bce_with_logits": Row("x y", "(x > A(0) ? x : A(0)) - x * y + log1p(exp(x > A(0) ? -x : x))"),
    "bce_with_logits.x": Row("g x y", "g * (sigmoid(x) - y)"),
    "huber": Row("x", "a = x < A(0) ? -x : x; a <= delta ? x * x * A(0.5) : (a - A(0.5) * delta) * delta", "delta"),
    "huber.x": Row("g x", "g * (x > delta ? delta : x < -delta ? -delta : x)", "delta"),
    # chains
    "rstd": Row("x", "A(1) / sqrt(x + eps)", "eps"),
    "axpby": Row("x y", "a * x + b * y", "a b"),
    "bias_gelu": Row("x b", "z = x + b; z * cdf(z)"),
    "bias_gelu_tanh": Row("x b", "z = x + b; A(0.5) * z * (A(1) + gelu_inner(z))"),
    "swiglu": Row("x y", "x * sigmoid(x) * y"),
    "dropout_add": Row("x mask y", "x * mask + y"),
    "affine": Row("x w b", "x * w + b"),
}


def generated(name: str) -> str:
    """The functor of a row and its two kernels."""
    row = ROWS[name]
    arrays, numbers = row.arrays.split(), row.numbers.split()
    *steps, result = (step.strip() for step in row.expression.split(";"))
    steps = [f"A {step}; " for step in steps]
    values = ", ".join(f"A {v}" for v in arrays + numbers)
    parameters = "".join([f", const T *{a}" for a in arrays] + [f", A {v}" for v in numbers])
    packs = "".join(f"Pack p_{a} = load({a} + i * VECTOR); " for a in arrays)

    def call(each: list[str]) -> str:
        return f"T(f({', '.join(each + numbers)}))"

    packed = call([f"A(p_{a}.items()[k])" for a in arrays])
    single = call([f"A({a}[i])" for a in arrays])
    places = "".join(f"at_{a} += j * s.stride[{n}][d], " for n, a in enumerate(arrays)).rstrip(", ")
    starts = ", ".join(f"at_{a} = 0" for a in arrays)
    gathered = call([f"A({a}[at_{a}])" for a in arrays])
    return f"""
__device__ inline A f({values}) {{ {"".join(steps)}return {result}; }}

KERNEL flat(T *out{parameters}, long long n, int packed) {{
  long long step = (long long)gridDim.x * blockDim.x, first = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  long long whole = packed ? n / VECTOR : 0;
  for (long long i = first; i < whole; i += step) {{
    {packs}Pack p_out;
#pragma unroll
    for (int k = 0; k < VECTOR; k++) p_out.items()[k] = {packed};
    store(out + i * VECTOR, p_out);
  }}
  for (long long i = whole * VECTOR + first; i < n; i += step) out[i] = {single};
}}

KERNEL strided(T *out{parameters}, long long n, Strided s) {{
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (i >= n) return;
  long long rest = i, {starts};
  for (int d = s.dims - 1; d >= 0; d--) {{
    long long j = rest % s.size[d];
    rest /= s.size[d], {places};
  }}
  out[i] = {gathered};
}}
"""
