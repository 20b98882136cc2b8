// Batch normalisation: the moments of each channel of (N, C, L), which lies in C order or channels-last, as (N, L, C).
// A block reads one part of a channel, or where channels lie together of 32 of them; parts are joined in their order. Blocks are 32 by 8.

struct Layout {
  int n, c, l, last, parts;  // last: whether it lies channels-last
};

__device__ inline long long place(const Layout &s, long long i, int c) {  // element i of the N·L of channel c
  return s.last ? i * s.c + c : (i / s.l * s.c + c) * s.l + i % s.l;
}

// Which elements of which channel this thread takes. In C order threads lie along L, else along C.
struct Share {
  int channel;
  long long first, step, end;
};

__device__ inline Share share(const Layout &s) {
  long long all = (long long)s.n * s.l, part = (all + s.parts - 1) / s.parts, begin = blockIdx.y * part;
  long long end = begin + part < all ? begin + part : all;
  if (s.last) {
    int c = blockIdx.x * 32 + threadIdx.x;
    return {c, begin + threadIdx.y, c < s.c ? (long long)blockDim.y : end + 1, end};
  }
  return {(int)blockIdx.x, begin + lane_of_block(), (long long)blockDim.x * blockDim.y, end};
}

struct Moments {
  A count, mean, squares;  // squares: Σ (v − mean)²
};

__device__ inline Moments joined(Moments a, Moments b) {  // Chan et al. 1979
  A count = a.count + b.count;
  if (count == A(0)) return a;
  A d = b.mean - a.mean, f = b.count / count;
  return {count, a.mean + d * f, a.squares + b.squares + d * d * a.count * f};
}

// parts (P, 3, C): count, mean, squares
KERNEL channel_moments(A *parts, const T *x, Layout s) {
  __shared__ Moments threads[8][33];
  Share mine = share(s);
  Moments a = {0, 0, 0};
  if (mine.channel < s.c)
    for (long long i = mine.first; i < mine.end; i += mine.step) {  // Welford 1962
      A v = A(x[place(s, i, mine.channel)]), d = v - a.mean;
      a.count += 1, a.mean += d / a.count, a.squares += d * (v - a.mean);
    }
  threads[threadIdx.y][threadIdx.x] = a;
  __syncthreads();
  if (threadIdx.y == 0)
    for (int y = 1; y < blockDim.y; y++) a = joined(a, threads[y][threadIdx.x]);
  if (!s.last) {
    if (threadIdx.y == 0) threads[0][threadIdx.x] = a;
    __syncthreads();
  }
  if (threadIdx.y) return;
  if (!s.last) {
    if (threadIdx.x) return;
    for (int i = 1; i < 32; i++) a = joined(a, threads[0][i]);
  }
  if (mine.channel >= s.c) return;
  A *out = parts + 3LL * blockIdx.y * s.c + mine.channel;
  out[0] = a.count, out[s.c] = a.mean, out[2LL * s.c] = a.squares;
}

KERNEL channel_moments_join(A *mean, A *var, const A *parts, Layout s) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= s.c) return;
  Moments a = {0, 0, 0};
  for (int k = 0; k < s.parts; k++) {
    const A *p = parts + 3LL * k * s.c + c;
    a = joined(a, {p[0], p[s.c], p[2LL * s.c]});
  }
  mean[c] = a.mean, var[c] = a.squares / a.count;
}

// y = (x − mean)·rstd·w + b; w and b may be null.
KERNEL channel_standardize(T *y, const T *x, const W *w, const W *b, const A *mean, const A *rstd, long long total, Layout s) {
  long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < total; i += step) {
    int c = s.last ? i % s.c : i / s.l % s.c;
    y[i] = T((A(x[i]) - mean[c]) * rstd[c] * (w ? A(w[c]) : A(1)) + (b ? A(b[c]) : A(0)));
  }
}

// parts (P, 2, C): Σ g and Σ g·x̂
KERNEL channel_sums(A *parts, const T *g, const T *x, const A *mean, const A *rstd, Layout s) {
  __shared__ A sums[8][33], dots[8][33];
  Share mine = share(s);
  A sum = 0, dot = 0;
  if (mine.channel < s.c) {
    A mu = mean[mine.channel], r = rstd[mine.channel];
    for (long long i = mine.first; i < mine.end; i += mine.step) {
      long long at = place(s, i, mine.channel);
      A v = A(g[at]);
      sum += v, dot += v * (A(x[at]) - mu) * r;
    }
  }
  if (s.last) {
    sums[threadIdx.y][threadIdx.x] = sum, dots[threadIdx.y][threadIdx.x] = dot;
    __syncthreads();
    if (threadIdx.y == 0)
      for (int y = 1; y < blockDim.y; y++) sum += sums[y][threadIdx.x], dot += dots[y][threadIdx.x];
  } else {
    sum = block_sum(sum), dot = block_sum(dot);
  }
  if (threadIdx.y || mine.channel >= s.c || (!s.last && threadIdx.x)) return;
  A *out = parts + 2LL * blockIdx.y * s.c + mine.channel;
  out[0] = sum, out[s.c] = dot;
}

// sums (2, C), and in the weights' dtype dw = Σ g·x̂ and db = Σ g
KERNEL channel_sums_join(A *sums, W *dw, W *db, const A *parts, Layout s) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= s.c) return;
  A sum = 0, dot = 0;
  for (int k = 0; k < s.parts; k++) sum += parts[2LL * k * s.c + c], dot += parts[(2LL * k + 1) * s.c + c];
  sums[c] = sum, sums[s.c + c] = dot;
  if (dw) dw[c] = W(dot);
  if (db) db[c] = W(sum);
}

// dx = rstd·w·(g − Σg/m − x̂·Σ(g·x̂)/m), m = N·L
KERNEL channel_norm_grad(T *dx, const T *g, const T *x, const W *w, const A *mean, const A *rstd, const A *sums, long long total,
                         Layout s) {
  A per = A(1) / ((A)s.n * s.l);
  long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < total; i += step) {
    int c = s.last ? i % s.c : i / s.l % s.c;
    A r = rstd[c], h = (A(x[i]) - mean[c]) * r;
    dx[i] = T(r * (w ? A(w[c]) : A(1)) * (A(g[i]) - (sums[c] + h * sums[s.c + c]) * per));
  }
}
