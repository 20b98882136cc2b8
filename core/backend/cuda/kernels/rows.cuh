// Softmax, its logarithm and cross-entropy: one block a row of n elements.

// The greatest of some numbers and Σ e^(v − top) over them, so that one reading of the row yields both.
struct Online {
  A top, sum;
};

__device__ inline Online with(Online a, A v) {
  if (v == -INF) return a;
  A top = fmax(a.top, v);
  return {top, a.sum * exp(a.top - top) + exp(v - top)};
}

__device__ inline Online joined(Online a, Online b) {
  if (b.top == -INF && b.sum == A(0)) return a;
  if (a.top == -INF && a.sum == A(0)) return b;
  A top = fmax(a.top, b.top);
  return {top, a.sum * exp(a.top - top) + b.sum * exp(b.top - top)};
}

__device__ inline Online warp_joined(Online a) {
  for (int o = 16; o; o >>= 1) {
    Online b = {__shfl_xor_sync(0xffffffffu, a.top, o), __shfl_xor_sync(0xffffffffu, a.sum, o)};
    a = threadIdx.x & o ? joined(b, a) : joined(a, b);  // both partners in one order: the same bits
  }
  return a;
}

__device__ inline Online row_online(const T *x, int n) {
  __shared__ A tops[32], sums[32];
  Online a = {-INF, A(0)};
  for (int i = threadIdx.x; i < n; i += blockDim.x) a = with(a, A(x[i]));
  a = warp_joined(a);
  int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  if (lane == 0) tops[threadIdx.x / 32] = a.top, sums[threadIdx.x / 32] = a.sum;
  __syncthreads();
  a.top = lane < warps ? tops[lane] : -INF;
  a.sum = lane < warps ? sums[lane] : A(0);
  return warp_joined(a);
}

KERNEL softmax(T *y, const T *x, int n, int logarithm) {
  x += (long long)blockIdx.x * n, y += (long long)blockIdx.x * n;
  Online a = row_online(x, n);
  if (logarithm) {
    A lse = log(a.sum);  // x − top first: log Σ is small beside a great top
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = T(A(x[i]) - a.top - lse);
  } else {
    A scale = A(1) / a.sum;
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = T(exp(A(x[i]) - a.top) * scale);
  }
}

KERNEL softmax_grad(T *dx, const T *g, const T *y, int n, int logarithm) {
  long long row = (long long)blockIdx.x * n;
  dx += row, g += row, y += row;
  A sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += logarithm ? A(g[i]) : A(g[i]) * A(y[i]);
  sum = block_sum(sum);
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    A v = A(y[i]);
    dx[i] = T(logarithm ? A(g[i]) - exp(v) * sum : v * (A(g[i]) - sum));
  }
}

// loss = w[t]·(ln Σ eˣ − x[t]), 0 where t is ignored, NaN where t is no class; lse = ln Σ eˣ is kept for the gradient.
KERNEL cross_entropy(A *loss, A *lse, const T *x, const long long *target, const A *w, int n, long long ignored) {
  x += (long long)blockIdx.x * n;
  Online a = row_online(x, n);
  if (threadIdx.x == 0) {
    long long t = target[blockIdx.x];
    A all = a.top + log(a.sum), nan = INF - INF;
    lse[blockIdx.x] = all;
    loss[blockIdx.x] = t == ignored ? A(0) : t < 0 || t >= n ? nan : (w ? w[t] : A(1)) * (all - A(x[t]));
  }
}

// out = Σ loss, over the weights of what is not ignored if `mean`; total = those weights. One block, loss of type A.
KERNEL cross_entropy_total(A *out, A *total, const A *loss, const long long *target, const A *w, int rows, int n, long long ignored,
                           int mean) {
  A sum = 0, weights = 0;
  for (int i = threadIdx.x; i < rows; i += blockDim.x) {
    long long t = target[i];
    sum += loss[i];
    if (t != ignored) weights += w && t >= 0 && t < n ? w[t] : A(1);
  }
  sum = block_sum(sum);
  weights = block_sum(weights);
  if (threadIdx.x == 0) *out = mean ? sum / weights : sum, *total = weights;
}

// dx = (softmax − onehot(t))·w[t]·g, with one g for each row or (step 0) one for all, divided by *total if there is one.
KERNEL cross_entropy_grad(T *dx, const T *x, const A *lse, const long long *target, const A *w, const A *g, int step, const A *total,
                          int n, long long ignored) {
  long long row = blockIdx.x, t = target[row];
  x += row * n, dx += row * n;
  A scale = t == ignored || t < 0 || t >= n ? A(0) : g[row * step] * (w ? w[t] : A(1));
  if (total) scale /= *total;
  A all = lse[row];
  for (int i = threadIdx.x; i < n; i += blockDim.x) dx[i] = T(scale == A(0) ? A(0) : (exp(A(x[i]) - all) - A(i == t)) * scale);
}
