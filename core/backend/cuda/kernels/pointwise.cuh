// Functions for the expressions of `pointwise.ROWS`, and how a generated functor f is run over arrays. INPUTS is how many arrays it takes.

__device__ inline A sigmoid(A x) { return A(1) / (A(1) + exp(-x)); }
__device__ inline A cdf(A x) { return A(0.5) * erfc(x * A(-0.70710678118654752440)); }  // Φ(x), exact in both tails
__device__ inline A pdf(A x) { return exp(x * x * A(-0.5)) * A(0.39894228040143267794); }
__device__ inline A softplus(A x) { return x > A(0) ? x + log1p(exp(-x)) : log1p(exp(x)); }  // ln(1 + eˣ)
__device__ inline A gelu_inner(A x) { return tanh((x + A(0.044715) * x * x * x) * A(0.79788456080286535588)); }

struct Strided {
  int dims, size[6];
  long long stride[4][6];  // in elements, of each input
};
