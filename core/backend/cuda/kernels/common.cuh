// What every kernel stands on. The text is compiled once for each pair of types: T elements, W weights or indices, and
// A float, in which all is computed (double if T is double). CUDA's headers and these three names come before it.

constexpr int VECTOR = 16 / sizeof(T);  // elements that one 16-byte access moves
#define INF A(__uint_as_float(0x7f800000u))

union Pack {
  uint4 raw;
  unsigned char bytes[16];
  __device__ T *items() { return (T *)bytes; }
};

__device__ inline Pack load(const T *p) {
  Pack pack;
  pack.raw = *(const uint4 *)p;
  return pack;
}

__device__ inline void store(T *p, const Pack &pack) { *(uint4 *)p = pack.raw; }

// -- sums over a block. Every thread calls, blockDim.x * blockDim.y is a multiple of 32, and every thread gets the result: the same
// bits whatever else runs, since the order of the additions is that of the threads.

__device__ inline int lane_of_block() { return threadIdx.x + blockDim.x * threadIdx.y; }

__device__ inline A warp_sum(A v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

__device__ inline A block_sum(A v) {
  __shared__ A parts[32];
  int me = lane_of_block(), warps = blockDim.x * blockDim.y / 32;
  v = warp_sum(v);
  __syncthreads();  // parts may still be read by the call before
  if (me % 32 == 0) parts[me / 32] = v;
  __syncthreads();
  return warp_sum(me % 32 < warps ? parts[me % 32] : A(0));
}
