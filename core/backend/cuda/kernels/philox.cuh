// Philox 4x32-10 (Salmon et al. 2011), the bits of `core.philox`: a draw is named by (seed, step, shard, call), block i holds words 4i … 4i+3.
// A captured graph freezes the name; `advance`, if not null, is a word on the device that is added to the step, so that replays differ.

struct Draw {
  unsigned key[2], call, shard, step;
};

struct Words {
  unsigned w[4];
};

__device__ inline Words philox(const Draw &d, unsigned block, unsigned step) {
  unsigned c0 = block, c1 = d.call, c2 = d.shard, c3 = step, k0 = d.key[0], k1 = d.key[1];
#pragma unroll
  for (int round = 0; round < 10; round++) {
    unsigned h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
    c0 = h1 ^ c1 ^ k0, c1 = l1, c2 = h0 ^ c3 ^ k1, c3 = l0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// y[i] = kept if the float64 uniform i of the draw is below 1 − p, else 0. That uniform is the low 53 bits of words 2i (high) and
// 2i+1 over 2⁵³, so the comparison is one of integers: threshold = ⌈(1 − p)·2⁵³⌉. A thread draws one block: two elements.
KERNEL dropout_mask(T *y, long long n, Draw d, const unsigned *advance, unsigned long long threshold, A kept) {
  long long block = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (2 * block >= n) return;
  Words r = philox(d, (unsigned)block, d.step + (advance ? *advance : 0u));
  for (int k = 0; k < 2 && 2 * block + k < n; k++) {
    unsigned long long bits = ((unsigned long long)r.w[2 * k] << 32 | r.w[2 * k + 1]) & ((1ULL << 53) - 1);
    y[2 * block + k] = T(bits < threshold ? kept : A(0));
  }
}

// y = residual + x·kept where the draw keeps x, as `dropout_mask` does, and what it kept, a byte each. x·kept is rounded as the mask's
// product would be.
KERNEL dropout_add(T *y, unsigned char *keep, const T *x, const T *residual, long long n, Draw d, const unsigned *advance,
                   unsigned long long threshold, A kept) {
  long long block = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  if (2 * block >= n) return;
  Words r = philox(d, (unsigned)block, d.step + (advance ? *advance : 0u));
  A scale = A(T(kept));
  for (int k = 0; k < 2 && 2 * block + k < n; k++) {
    long long i = 2 * block + k;
    unsigned long long bits = ((unsigned long long)r.w[2 * k] << 32 | r.w[2 * k + 1]) & ((1ULL << 53) - 1);
    bool stays = bits < threshold;
    keep[i] = stays;
    y[i] = T(A(residual[i]) + (stays ? A(T(A(x[i]) * scale)) : A(0)));
  }
}

// y = x·scale where it was kept, else 0
KERNEL kept(T *y, const T *x, const unsigned char *keep, long long n, A scale) {
  long long step = (long long)gridDim.x * blockDim.x;
  A s = A(T(scale));
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += step) y[i] = T(keep[i] ? A(x[i]) * s : A(0));
}
