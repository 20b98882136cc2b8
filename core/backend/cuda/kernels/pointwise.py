"""Chains of elementwise arithmetic as one kernel each, generated from expressions.

A row is an expression in C over its arrays and numbers, all of them read as A (float, or double for float64); functions are in
`pointwise.cuh`. From it come two kernels: `flat` moves 16 bytes at a time over arrays that lie alike, `strided` broadcasts and
transposes. A row whose name is that of an op computes that op, `OP.INPUT` its gradient for an input: `g` times the derivative, as its
rule in `core.ops` says. `chain` and `chain_grad` make rows of rows: one after the other, and the gradient of that.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_DIMS = 6
MAX_ARRAYS = 4


class Row(NamedTuple):
    arrays: str  # names of the arrays, in order
    expression: str
    numbers: str = ""  # names of the numbers
    links: tuple[str, ...] = ()  # rows that the expression calls, as functions


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
    "relu": Row("x", "x < A(0) ? A(0) : x"),
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
    # arithmetic
    "rstd": Row("x", "A(1) / sqrt(x + eps)", "eps"),
    "add": Row("x y", "x + y"),
    "mul": Row("x y", "x * y"),
    "axpby": Row("x y", "a * x + b * y", "a b"),
}


# -- chains: rows made of rows ---------------------------------------------------------------------------------------------
# The first array of each link is the result of the link before it. Links have no numbers.

_OTHERS = ("y", "z", "w")  # the arrays of a chain beside the first, x


def _function(name: str) -> str:
    """The C name of a row that is called by others."""
    return f"link_{name.replace('.', '_')}"


def _walked(links: tuple[str, ...]) -> tuple[list[str], list[str], list[list[str]]]:
    """The chain's arrays, a call for each link, and what each link takes; the result of link k is v{k}."""
    arrays, calls, takes, value = ["x"], [], [], "x"
    for k, link in enumerate(links):
        more = [_OTHERS[len(arrays) - 1 + i] for i in range(len(ROWS[link].arrays.split()) - 1)]
        arrays += more
        takes.append([value, *more])
        calls.append(f"{_function(link)}({', '.join(takes[-1])})")
        value = f"v{k}"
    return arrays, calls, takes


def chain(*links: str) -> Row:
    """One row that computes these, one after the other."""
    arrays, calls, _ = _walked(links)
    steps = [f"v{k} = {call}" for k, call in enumerate(calls[:-1])]
    return Row(" ".join(arrays), "; ".join([*steps, calls[-1]]), links=links)


def chain_grad(*links: str) -> Row:
    """Its gradient for x: the chain once more as far as its rules need it, then the rules, from the last to the first."""
    arrays, calls, takes = _walked(links)
    slope, back, rules = "g", [], []
    for k in reversed(range(len(links))):
        rule = ROWS.get(f"{links[k]}.x")
        if rule is None:  # of a sum: g itself
            assert links[k] == "add", f"chain: expected a rule for {links[k]}"
            continue
        known = dict(zip(ROWS[links[k]].arrays.split(), takes[k]))
        of_output = "x" not in rule.arrays.split() and "y" not in known
        given = [slope if a == "g" else f"v{k}" if a == "y" and of_output else known[a] for a in rule.arrays.split()]
        back.append(f"d{k} = {_function(f'{links[k]}.x')}({', '.join(given)})")
        rules.append(f"{links[k]}.x")
        slope = f"d{k}"
    steps = [f"v{k} = {call}" for k, call in enumerate(calls)] + back
    needed, kept = {slope}, []
    for step in reversed(steps):  # what nothing asks for is left out
        name, _, call = step.partition(" = ")
        if name in needed:
            needed |= set(re.findall(r"\w+", call))
            kept.append(step)
    used = ["g", *(a for a in arrays if a in needed)]
    called = tuple(link for link in (*links, *rules) if _function(link) in needed)
    return Row(" ".join(used), "; ".join([*reversed(kept), slope]), links=called)


for _links in (("add", "relu"), ("add", "gelu"), ("add", "gelu_tanh")):
    ROWS["_".join(_links)] = chain(*_links)
    if _links[-1] != "relu":  # its gradient is `relu.x`, of the output
        ROWS["_".join(_links) + ".x"] = chain_grad(*_links)


def _called(name: str) -> str:
    """A row as a function."""
    row = ROWS[name]
    values = ", ".join(f"A {v}" for v in row.arrays.split())
    *steps, result = (step.strip() for step in row.expression.split(";"))
    return (
        f"__device__ inline A {_function(name)}({values}) {{ {''.join(f'A {s}; ' for s in steps)}return {result}; }}\n"
    )


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
{"".join(map(_called, row.links))}__device__ inline A f({values}) {{ {"".join(steps)}return {result}; }}

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
