// CUDA on a CPU, as far as the kernels ask for it: `device.cuh` includes this in place of CUDA's headers. Every thread of
// a block is a fiber that runs to its next barrier; blocks run one after another. A grid has three blocks at most, so
// that loops over a grid are walked; shared memory begins as NaN and must not be left.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::max;
using std::min;

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, gridDim;

using cudaError_t = int;
inline const char* cudaGetErrorString(cudaError_t) { return "no error of CUDA on a CPU"; }

namespace emulation {

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "emulation: %s\n", what);
  abort();
}

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  bool done = false;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline std::function<void()> body;
inline std::vector<char> block_memory;

inline void run_body() {
  body();
  fibers[threadIdx.x].done = true;
}

// Every fiber in turn to its next barrier; either all of them reach it or all of them end.
inline void run_block(int threads) {
  fibers.resize(threads);
  for (Fiber& fiber : fibers) {
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_body, 0);
  }
  for (int done = 0; done < threads;) {
    done = 0;
    for (int thread = 0; thread < threads; ++thread) {
      if (fibers[thread].done) fail("a thread ended before a barrier that others wait at");
      threadIdx.x = thread;
      swapcontext(&scheduler, &fibers[thread].context);
      done += fibers[thread].done;
    }
    if (done && done < threads) fail("not every thread reached the barrier");
  }
}

inline void check_address(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("an address is not a multiple of the size that is loaded");
}

}  // namespace emulation

inline void __syncthreads() {
  const unsigned thread = threadIdx.x;
  swapcontext(&emulation::fibers[thread].context, &emulation::scheduler);
  threadIdx.x = thread;
}

namespace laconv {

constexpr int64_t LARGEST_GRID = 3;

inline float widen(half number) {
  const int exponent = (number.bits >> 10) & 31, fraction = number.bits & 1023;
  float wide = exponent == 31  ? (fraction ? NAN : INFINITY)
               : exponent == 0 ? ldexpf(float(fraction), -24)
                               : ldexpf(float(fraction | 1024), exponent - 25);
  return number.bits & 0x8000 ? -wide : wide;
}

inline float widen(bfloat16 number) {
  const uint32_t bits = uint32_t(number.bits) << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

// Both round to nearest, ties to even.
inline void narrow(float wide, half& number) {
  uint32_t bits;
  memcpy(&bits, &wide, sizeof bits);
  const uint16_t sign = uint16_t(bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  const float size = fabsf(wide);
  if (isnan(wide)) number.bits = 0x7fff;
  else if (size >= 65520.f) number.bits = sign | 0x7c00;
  else if (size < 0x1p-14f) number.bits = sign | uint16_t(nearbyintf(size * 0x1p24f));
  else number.bits = sign | uint16_t(((bits + 0xfff + ((bits >> 13) & 1)) >> 13) - (112 << 10));
}

inline void narrow(float wide, bfloat16& number) {
  uint32_t bits;
  memcpy(&bits, &wide, sizeof bits);
  number.bits = isnan(wide) ? 0x7fff : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// A word's low half comes first in memory.
template <class T> void widen_word(uint32_t word, T, float& first, float& second) {
  first = widen(T{uint16_t(word)});
  second = widen(T{uint16_t(word >> 16)});
}
template <class T> uint32_t narrow_word(float first, float second, T) {
  T low, high;
  narrow(first, low);
  narrow(second, high);
  return low.bits | uint32_t(high.bits) << 16;
}

template <class V> V load(const void* address) {
  emulation::check_address(address, sizeof(V));
  V loaded;
  memcpy(&loaded, address, sizeof loaded);
  return loaded;
}
template <class V> V load_constant(const void* address) { return load<V>(address); }
template <class V> void store(void* address, const V& value) {
  emulation::check_address(address, sizeof(V));
  memcpy(address, &value, sizeof value);
}

inline char* shared_memory() { return emulation::block_memory.data(); }

template <class P> int launch(void (*kernel)(P), int64_t blocks, int shared_bytes, void*, P parameters) {
  constexpr int GUARD = 64;
  gridDim.x = unsigned(min(blocks, LARGEST_GRID));
  emulation::body = [&] { kernel(parameters); };
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    emulation::block_memory.assign(shared_bytes + GUARD, char(0xff));
    emulation::run_block(THREADS);
    for (int i = 0; i < GUARD; ++i)
      if (emulation::block_memory[shared_bytes + i] != char(0xff)) emulation::fail("shared memory was left");
  }
  return 0;
}

}  // namespace laconv
