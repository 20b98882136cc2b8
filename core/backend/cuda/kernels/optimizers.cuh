// Optimizer steps over up to 64 parameters a launch: their pointers travel in the kernel's arguments, a block works on one piece of one of them.
// Parameters, gradients and state are of type T; the arithmetic is in A. On the device, and so not frozen into a captured graph: the learning
// rate, the step counts, what the gradients are to be multiplied by, and whether to step at all. Each of these may be null.

constexpr int MANY = 64, PIECE = 1 << 14;  // elements that a block works on

struct Many {
  T *x[MANY];
  const T *g[MANY];
  T *a[MANY], *b[MANY], *c[MANY];  // state: what it is depends on the rule
  float *step[MANY];
  long long size[MANY];
  int first[MANY + 1];  // the number of the first block of each; then of all blocks
  int count;
};

struct Control {
  const float *lr, *inverse_scale, *found_inf;
};

struct Piece {
  int of;
  long long begin, end;
};

__device__ inline Piece piece(const Many &m) {
  int low = 0, high = m.count;  // the last whose first block is not beyond this one
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (m.first[middle] <= (int)blockIdx.x) low = middle;
    else high = middle;
  }
  long long begin = (long long)(blockIdx.x - m.first[low]) * PIECE;
  return {low, begin, begin + PIECE < m.size[low] ? begin + PIECE : m.size[low]};
}

__device__ inline bool skipped(const Control &c) { return c.found_inf && *c.found_inf != 0.0f; }

// *step += 1 for each; one block.
KERNEL count_steps(Many m, Control c) {
  if ((int)threadIdx.x < m.count && !skipped(c)) *m.step[threadIdx.x] += 1.0f;
}

// g *= *inverse_scale; *found_inf = 1 if any is then not finite.
KERNEL unscale(Many m, const float *inverse_scale, float *found_inf) {
  Piece p = piece(m);
  T *g = m.x[p.of];
  A scale = A(*inverse_scale);
  bool bad = false;
  for (long long i = p.begin + threadIdx.x; i < p.end; i += blockDim.x) {
    g[i] = T(A(g[i]) * scale);
    A v = A(g[i]);
    bad |= !(v - v == A(0));
  }
  if (bad) *found_inf = 1.0f;  // whoever writes, writes the same
}

struct SGD {
  A lr, momentum, kept, decay;  // kept: 1 − dampening
  int nesterov, maximize, fresh;  // fresh: the momentum buffers (a) are to be begun
};

KERNEL sgd(Many m, SGD h, Control c) {
  if (skipped(c)) return;
  Piece p = piece(m);
  T *x = m.x[p.of], *v = m.a[p.of];
  const T *gs = m.g[p.of];
  A lr = c.lr ? A(*c.lr) : h.lr, scale = (c.inverse_scale ? A(*c.inverse_scale) : A(1)) * (h.maximize ? A(-1) : A(1));
  for (long long i = p.begin + threadIdx.x; i < p.end; i += blockDim.x) {
    A w = A(x[i]), g = A(gs[i]) * scale + h.decay * w;
    if (h.momentum != A(0)) {
      A u = h.fresh ? g : A(v[i]) * h.momentum + g * h.kept;
      v[i] = T(u);
      g = h.nesterov ? g + u * h.momentum : u;
    }
    x[i] = T(w - lr * g);
  }
}

struct Adam {
  A lr, beta1, beta2, eps, decay, correction1, correction2;  // corrections: 1 − βᵗ, if the step counts are on the host
  int decoupled, amsgrad, maximize;
};

KERNEL adam(Many m, Adam h, Control c) {
  __shared__ A corrections[2];
  if (skipped(c)) return;
  Piece p = piece(m);
  if (threadIdx.x == 0) {
    const float *step = m.step[p.of];
    corrections[0] = step ? A(1.0 - pow((double)h.beta1, (double)*step)) : h.correction1;
    corrections[1] = step ? A(1.0 - pow((double)h.beta2, (double)*step)) : h.correction2;
  }
  __syncthreads();
  T *x = m.x[p.of], *ms = m.a[p.of], *vs = m.b[p.of], *tops = m.c[p.of];
  const T *gs = m.g[p.of];
  A lr = c.lr ? A(*c.lr) : h.lr, scale = (c.inverse_scale ? A(*c.inverse_scale) : A(1)) * (h.maximize ? A(-1) : A(1));
  A size = lr / corrections[0], root = A(1) / sqrt(corrections[1]);
  for (long long i = p.begin + threadIdx.x; i < p.end; i += blockDim.x) {
    A w = A(x[i]), g = A(gs[i]) * scale;
    if (h.decoupled) w *= A(1) - lr * h.decay;
    else g += h.decay * w;
    A u = A(ms[i]), v = A(vs[i]);
    u += (g - u) * (A(1) - h.beta1);
    v = v * h.beta2 + g * g * (A(1) - h.beta2);
    ms[i] = T(u), vs[i] = T(v);
    if (h.amsgrad) {
      A top = A(tops[i]);
      v = v > top ? v : top;
      tops[i] = T(v);
    }
    x[i] = T(w - size * u / (sqrt(v) * root + h.eps));
  }
}
