// Cells of recurrent layers: everything of a step but its product. A thread is one element (row, j) of the state (rows, size); gates lie as in
// torch, (rows, gates·size). The order of the reads and writes lets the state be updated in place.

__device__ inline A squash(A x) { return A(1) / (A(1) + exp(-x)); }

// gates: in x wᵀ + b, out i f g o; hu = h uᵀ. State before the step goes to was and was_cell, tanh c' to bent, h' to h and y.
KERNEL lstm_cell(T *gates, T *h, T *cell, T *y, T *was, T *was_cell, T *bent, const T *hu, long long total, int size) {
  long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (at >= total) return;
  long long first = at / size * 4 * size + at % size;
  T *a = gates + first;
  hu += first;
  A i = squash(A(a[0]) + A(hu[0])), f = squash(A(a[size]) + A(hu[size]));
  A g = tanh(A(a[2 * size]) + A(hu[2 * size])), o = squash(A(a[3 * size]) + A(hu[3 * size]));
  A c = A(cell[at]), next = f * c + i * g, t = tanh(next);
  a[0] = T(i), a[size] = T(f), a[2 * size] = T(g), a[3 * size] = T(o);
  was[at] = h[at], was_cell[at] = T(c), bent[at] = T(t);
  cell[at] = T(next), h[at] = y[at] = T(o * t);
}

// da from the gradients of y and of the states after the step; dc becomes that of the cell before it. dh is read alone.
KERNEL lstm_cell_grad(T *da, T *dc, const T *dh, const T *gy, const T *gates, const T *was_cell, const T *bent, long long total, int size) {
  long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (at >= total) return;
  long long first = at / size * 4 * size + at % size;
  const T *a = gates + first;
  T *d = da + first;
  A i = A(a[0]), f = A(a[size]), g = A(a[2 * size]), o = A(a[3 * size]), t = A(bent[at]);
  A z = A(gy[at]) + A(dh[at]), s = A(dc[at]) + z * o * (A(1) - t * t);
  d[0] = T(s * g * i * (A(1) - i)), d[size] = T(s * A(was_cell[at]) * f * (A(1) - f));
  d[2 * size] = T(s * i * (A(1) - g * g)), d[3 * size] = T(z * t * o * (A(1) - o));
  dc[at] = T(s * f);
}

// gates: in x wᵀ + b, out r z n; hu = h uᵀ, c its bias or null. hidden = hu + c of n.
KERNEL gru_cell(T *gates, T *h, T *y, T *was, T *hidden, const T *hu, const T *c, long long total, int size) {
  long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (at >= total) return;
  long long j = at % size, first = at / size * 3 * size + j;
  T *a = gates + first;
  hu += first;
  A bias[3] = {A(0), A(0), A(0)};
  if (c)
    for (int k = 0; k < 3; k++) bias[k] = A(c[k * size + j]);
  A r = squash(A(a[0]) + A(hu[0]) + bias[0]), z = squash(A(a[size]) + A(hu[size]) + bias[1]), m = A(hu[2 * size]) + bias[2];
  A n = tanh(A(a[2 * size]) + r * m), before = A(h[at]);
  a[0] = T(r), a[size] = T(z), a[2 * size] = T(n);
  was[at] = h[at], hidden[at] = T(m);
  h[at] = y[at] = T((before - n) * z + n);
}

// da and dhu, the gradients of the two products, from those of y and of h'; dh becomes what goes past the products.
KERNEL gru_cell_grad(T *da, T *dhu, T *dh, const T *gy, const T *gates, const T *was, const T *hidden, long long total, int size) {
  long long at = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (at >= total) return;
  long long first = at / size * 3 * size + at % size;
  const T *a = gates + first;
  A r = A(a[0]), z = A(a[size]), n = A(a[2 * size]), s = A(dh[at]) + A(gy[at]);
  A dn = s * (A(1) - z) * (A(1) - n * n), dr = dn * A(hidden[at]) * r * (A(1) - r), dz = s * (A(was[at]) - n) * z * (A(1) - z);
  da[first] = T(dr), da[first + size] = T(dz), da[first + 2 * size] = T(dn);
  dhu[first] = T(dr), dhu[first + size] = T(dz), dhu[first + 2 * size] = T(dn * r);
  dh[at] = T(s * z);
}
