// Layer and RMS normalisation: one block a row of n elements; the gradients of w and b are sums over columns. `W` is the weights' type.

KERNEL row_moments(A *mean, A *var, const T *x, int n) {
  x += (long long)blockIdx.x * n;
  A sum = 0, squares = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += A(x[i]);
  A mu = block_sum(sum) / n;
  for (int i = threadIdx.x; i < n; i += blockDim.x) squares += (A(x[i]) - mu) * (A(x[i]) - mu);
  squares = block_sum(squares) / n;
  if (threadIdx.x == 0) mean[blockIdx.x] = mu, var[blockIdx.x] = squares;
}

// All of layer norm: y = (x − mean)·rstd·w + b, mean and rstd = 1/√(var + eps); w and b may be null.
KERNEL row_norm(T *y, A *mean, A *rstd, const T *x, const W *w, const W *b, int n, A eps) {
  long long row = blockIdx.x;
  x += row * n, y += row * n;
  A sum = 0, squares = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += A(x[i]);
  A mu = block_sum(sum) / n;
  for (int i = threadIdx.x; i < n; i += blockDim.x) squares += (A(x[i]) - mu) * (A(x[i]) - mu);
  A r = A(1) / sqrt(block_sum(squares) / n + eps);
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = T((A(x[i]) - mu) * r * (w ? A(w[i]) : A(1)) + (b ? A(b[i]) : A(0)));
  if (threadIdx.x == 0) mean[row] = mu, rstd[row] = r;
}

// y = (x − mean)·rstd·w + b; w and b may be null.
KERNEL row_standardize(T *y, const T *x, const W *w, const W *b, const A *mean, const A *rstd, int n) {
  long long row = blockIdx.x;
  x += row * n, y += row * n;
  A mu = mean[row], r = rstd[row];
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = T((A(x[i]) - mu) * r * (w ? A(w[i]) : A(1)) + (b ? A(b[i]) : A(0)));
}

// dx = rstd·(gw − mean(gw) − x̂·mean(gw·x̂)); with mean null, RMS norm's rstd·(gw − x̂·mean(gw·x̂)).
KERNEL row_norm_grad(T *dx, const T *g, const T *x, const W *w, const A *mean, const A *rstd, int n) {
  long long row = blockIdx.x;
  dx += row * n, g += row * n, x += row * n;
  A mu = mean ? mean[row] : A(0), r = rstd[row], sum = 0, dot = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    A gw = A(g[i]) * (w ? A(w[i]) : A(1));
    sum += gw, dot += gw * (A(x[i]) - mu) * r;
  }
  sum = mean ? block_sum(sum) / n : A(0);
  dot = block_sum(dot) / n;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    A gw = A(g[i]) * (w ? A(w[i]) : A(1));
    dx[i] = T(r * (gw - sum - (A(x[i]) - mu) * r * dot));
  }
}

KERNEL row_rms_norm(T *y, A *rstd, const T *x, const W *w, int n, A eps) {
  long long row = blockIdx.x;
  x += row * n, y += row * n;
  A squares = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) squares += A(x[i]) * A(x[i]);
  A r = A(1) / sqrt(block_sum(squares) / n + eps);
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = T(A(x[i]) * r * (w ? A(w[i]) : A(1)));
  if (threadIdx.x == 0) rstd[row] = r;
}

// Σ g·x̂ and Σ g over the rows of one chunk: blocks of 32 columns by blockDim.y rows, blockIdx.y numbers the chunk.
// parts (chunks, 2, n); `column_join` adds the chunks up.
KERNEL column_sums(A *parts, const T *g, const T *x, const A *mean, const A *rstd, int rows, int n) {
  __shared__ A sums[32][33], dots[32][33];
  int column = blockIdx.x * 32 + threadIdx.x, chunk = (rows + gridDim.y - 1) / gridDim.y;
  int end = min(rows, (int)(blockIdx.y + 1) * chunk);
  A sum = 0, dot = 0;
  if (column < n)
    for (int row = blockIdx.y * chunk + threadIdx.y; row < end; row += blockDim.y) {
      long long at = (long long)row * n + column;
      A v = A(g[at]);
      sum += v, dot += v * (A(x[at]) - (mean ? mean[row] : A(0))) * rstd[row];
    }
  sums[threadIdx.y][threadIdx.x] = sum, dots[threadIdx.y][threadIdx.x] = dot;
  __syncthreads();
  if (threadIdx.y || column >= n) return;
  for (int y = 1; y < blockDim.y; y++) sum += sums[y][threadIdx.x], dot += dots[y][threadIdx.x];
  parts[(2LL * blockIdx.y) * n + column] = dot;
  parts[(2LL * blockIdx.y + 1) * n + column] = sum;
}

KERNEL column_join(W *dw, W *db, const A *parts, int chunks, int n) {
  int column = blockIdx.x * blockDim.x + threadIdx.x;
  if (column >= n) return;
  A dot = 0, sum = 0;
  for (int k = 0; k < chunks; k++) dot += parts[2LL * k * n + column], sum += parts[(2LL * k + 1) * n + column];
  if (dw) dw[column] = W(dot);
  if (db) db[column] = W(sum);
}
