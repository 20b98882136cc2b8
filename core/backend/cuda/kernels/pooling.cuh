// Pooling over up to three dimensions, in C order or channels-last. `W` numbers the kernel offset that won. Gradients gather: every input asks
// the windows that it lies in, in their order, so no two threads write to one place.

struct Pool {
  int n, c, last, in[3], out[3], k[3], stride[3], padding[3], dilation[3];
};

struct Spot {
  int n, c, at[3];
};

__device__ inline Spot spot(const Pool &p, const int *size, long long i) {
  Spot s;
  if (p.last) s.c = i % p.c, i /= p.c;
  for (int d = 2; d >= 0; d--) s.at[d] = i % size[d], i /= size[d];
  if (!p.last) s.c = i % p.c, i /= p.c;
  s.n = i;
  return s;
}

__device__ inline long long place(const Pool &p, const int *size, const Spot &s, int a, int b, int c) {
  if (p.last) return ((((long long)s.n * size[0] + a) * size[1] + b) * size[2] + c) * p.c + s.c;
  return ((((long long)s.n * p.c + s.c) * size[0] + a) * size[1] + b) * size[2] + c;
}

// f(number of the kernel offset, where its input lies) for each offset of an output whose input is no padding
template <class F> __device__ inline void over_inputs(const Pool &p, const Spot &o, F f) {
  int number = 0;
  for (int a = 0; a < p.k[0]; a++)
    for (int b = 0; b < p.k[1]; b++)
      for (int c = 0; c < p.k[2]; c++, number++) {
        int x = o.at[0] * p.stride[0] - p.padding[0] + a * p.dilation[0], y = o.at[1] * p.stride[1] - p.padding[1] + b * p.dilation[1],
            z = o.at[2] * p.stride[2] - p.padding[2] + c * p.dilation[2];
        if (x >= 0 && x < p.in[0] && y >= 0 && y < p.in[1] && z >= 0 && z < p.in[2]) f(number, place(p, p.in, o, x, y, z));
      }
}

__device__ inline int window(const Pool &p, int d, int at, int k) {  // the output whose offset k meets input `at`, or −1
  int t = at + p.padding[d] - k * p.dilation[d];
  return t < 0 || t % p.stride[d] || t / p.stride[d] >= p.out[d] ? -1 : t / p.stride[d];
}

// f(number of the kernel offset, where the output lies) for each output whose window holds an input
template <class F> __device__ inline void over_outputs(const Pool &p, const Spot &i, F f) {
  int number = 0;
  for (int a = 0; a < p.k[0]; a++)
    for (int b = 0; b < p.k[1]; b++)
      for (int c = 0; c < p.k[2]; c++, number++) {
        int x = window(p, 0, i.at[0], a), y = window(p, 1, i.at[1], b), z = window(p, 2, i.at[2], c);
        if (x >= 0 && y >= 0 && z >= 0) f(number, place(p, p.out, i, x, y, z));
      }
}

__device__ inline long long first() { return blockIdx.x * (long long)blockDim.x + threadIdx.x; }

KERNEL max_pool(T *y, W *won, const T *x, long long total, Pool p) {
  long long i = first();
  if (i >= total) return;
  A best = -INF;
  int number = -1;
  over_inputs(p, spot(p, p.out, i), [&](int k, long long at) {
    A v = A(x[at]);
    if (number < 0 || v > best || v != v) best = v, number = k;  // the first of equals; NaN wins, the last of them
  });
  y[i] = T(best), won[i] = W(number < 0 ? 0 : number);
}

KERNEL max_pool_grad(T *dx, const T *g, const W *won, long long total, Pool p) {
  long long i = first();
  if (i >= total) return;
  A sum = 0;
  over_outputs(p, spot(p, p.in, i), [&](int k, long long at) {
    if (won[at] == W(k)) sum += A(g[at]);
  });
  dx[i] = T(sum);
}

KERNEL max_pool_pick(T *y, const T *x, const W *won, long long total, Pool p) {
  long long i = first();
  if (i >= total) return;
  A v = 0;
  int number = won[i];
  over_inputs(p, spot(p, p.out, i), [&](int k, long long at) {
    if (k == number) v = A(x[at]);
  });
  y[i] = T(v);
}

KERNEL sum_pool(T *y, const T *x, long long total, Pool p) {
  long long i = first();
  if (i >= total) return;
  A sum = 0;
  over_inputs(p, spot(p, p.out, i), [&](int, long long at) { sum += A(x[at]); });
  y[i] = T(sum);
}

KERNEL sum_pool_grad(T *dx, const T *g, long long total, Pool p) {
  long long i = first();
  if (i >= total) return;
  A sum = 0;
  over_outputs(p, spot(p, p.in, i), [&](int, long long at) { sum += A(g[at]); });
  dx[i] = T(sum);
}
