// The gradient of a table of which rows were picked, `W` the type of the indices: x[v] += Σ g[i] over all i with index[i] = v, i ascending.
// No atomics, no sorting, nothing that depends on the data but the work: a warp owns row v and 256 columns, looks through all
// indices, which its block stages in shared memory, and adds up in registers. So it is deterministic, and it can be captured.

constexpr int TILE = 1024, COLUMNS = 8;  // indices staged at a time; columns of a thread

KERNEL embedding_grad(T *x, const W *index, const T *g, int n, int rows, int d) {
  __shared__ int tile[TILE];
  int lane = threadIdx.x % 32, v = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, column = blockIdx.y * 32 * COLUMNS + lane;
  A sum[COLUMNS] = {};
  bool any = false;
  for (int base = 0; base < n; base += TILE) {
    __syncthreads();
    for (int i = threadIdx.x; i < TILE; i += blockDim.x) {
      long long at = base + i < n ? (long long)index[base + i] : -1LL - rows;  // beyond the end: no row's number
      tile[i] = (int)(at < 0 ? at + rows : at);
    }
    __syncthreads();
    for (int i = 0; i < TILE; i += 32) {
      unsigned hits = __ballot_sync(0xffffffffu, tile[i + lane] == v);
      any |= hits != 0;
      for (; hits; hits &= hits - 1) {
        const T *row = g + (long long)(base + i + __ffs(hits) - 1) * d;
#pragma unroll
        for (int k = 0; k < COLUMNS; k++)
          if (column + 32 * k < d) sum[k] += A(row[column + 32 * k]);
      }
    }
  }
  if (v >= rows || !any) return;
  T *row = x + (long long)v * d;
#pragma unroll
  for (int k = 0; k < COLUMNS; k++)
    if (column + 32 * k < d) row[column + 32 * k] = T(A(row[column + 32 * k]) + sum[k]);
}
