// Runs CUDA kernels on the CPU, one fiber for each CUDA thread, one block after another: enough of CUDA for the kernels of the table.
// All threads of a block must pass the same sequence of barriers and shuffles; a kernel that does not is found here: it stops with a message.
// Not here: races between blocks, memory spaces, tensor cores.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#define __device__
#define __shared__ static  // blocks run one at a time, so one copy will do
#define KERNEL static void

struct uint4 {
  unsigned x, y, z, w;
};
struct Index {
  unsigned x, y, z;
};

using std::cosh, std::erf, std::erfc, std::exp, std::expm1, std::fmax, std::fmin, std::log, std::log1p, std::min, std::pow, std::sqrt, std::tanh;

namespace emulated {
struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(32 << 10);
  Index thread;
  bool done;
  int barriers;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline Fiber *current;
inline Index block, block_size, grid_size;
inline void (*kernel)(void **);
inline void **arguments;
inline uint64_t lanes[1024];

inline void pause() {
  current->barriers++;
  swapcontext(&current->context, &scheduler);
}

inline void enter() {
  kernel(arguments);
  current->done = true;
  swapcontext(&current->context, &scheduler);
}

inline unsigned me() { return current->thread.x + block_size.x * (current->thread.y + block_size.y * current->thread.z); }

inline void run_block() {
  unsigned n = block_size.x * block_size.y * block_size.z;
  if (fibers.size() < n) fibers.resize(n);
  for (unsigned i = 0; i < n; i++) {
    Fiber &f = fibers[i];
    f.done = false, f.barriers = 0;
    f.thread = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data(), f.context.uc_stack.ss_size = f.stack.size(), f.context.uc_link = nullptr;
    makecontext(&f.context, enter, 0);
  }
  for (unsigned live = n; live;) {
    live = 0;
    for (unsigned i = 0; i < n; i++)
      if (!fibers[i].done) {
        current = &fibers[i];
        swapcontext(&scheduler, &current->context);
        live += !current->done;
      }
  }
  for (unsigned i = 0; i < n; i++)
    if (fibers[i].barriers != fibers[0].barriers) fprintf(stderr, "barriers differ: thread %u\n", i), abort();
}

template <class T> T exchange(T v, unsigned source) {
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof v);
  lanes[me()] = bits;
  pause();
  bits = lanes[source];
  memcpy(&v, &bits, sizeof v);
  pause();
  return v;
}

template <class... P, size_t... I> void call(void (*f)(P...), void **a, std::index_sequence<I...>) { f(*(P *)a[I]...); }
template <class... P> void call(void (*f)(P...), void **a) { call(f, a, std::index_sequence_for<P...>{}); }

inline void launch(void (*f)(void **), const unsigned *sizes, void **a) {
  kernel = f, arguments = a;
  grid_size = {sizes[0], sizes[1], sizes[2]}, block_size = {sizes[3], sizes[4], sizes[5]};
  for (block.z = 0; block.z < grid_size.z; block.z++)
    for (block.y = 0; block.y < grid_size.y; block.y++)
      for (block.x = 0; block.x < grid_size.x; block.x++) run_block();
}
}  // namespace emulated

#define threadIdx (emulated::current->thread)
#define blockIdx (emulated::block)
#define blockDim (emulated::block_size)
#define gridDim (emulated::grid_size)

inline void __syncthreads() { emulated::pause(); }
template <class T> T __shfl_xor_sync(unsigned, T v, int lanes) { return emulated::exchange(v, emulated::me() ^ lanes); }

inline unsigned __ballot_sync(unsigned, bool v) {
  unsigned bits = 0, first = emulated::me() & ~31u;
  emulated::lanes[emulated::me()] = v;
  emulated::pause();
  for (unsigned k = 0; k < 32; k++) bits |= (unsigned)emulated::lanes[first + k] << k;
  emulated::pause();
  return bits;
}

inline int __ffs(unsigned v) { return __builtin_ffs(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }
inline float __uint_as_float(unsigned u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

struct __half {
  _Float16 v;
  __half() = default;
  __half(float f) : v((_Float16)f) {}
  operator float() const { return (float)v; }
};

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    bits = (u & 0x7fffffff) > 0x7f800000 ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  operator float() const { return __uint_as_float((unsigned)bits << 16); }
};
