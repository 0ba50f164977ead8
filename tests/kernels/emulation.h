// CUDA on a CPU, as far as the kernels ask for it: `device.cuh` includes this in place of CUDA's headers. Every thread of
// a block is a fiber; blocks run one after another. Threads run as far apart as their barriers let them: a warp goes on
// until all of it waits for the block, and every other block takes warps and lanes from the last, so that a barrier that
// is missing shows. A grid of `launch` has three blocks at most, so that loops over a grid are walked; shared memory
// begins as NaN and must not be left. What is read and written is counted (`emulation_counts.h`).
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

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
  fprintf(stderr, "emulation: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
  abort();
}

constexpr unsigned LANES = 32;

// Why a fiber gave way. Lanes of a warp meet for one and the same operation.
enum Reason { STARTED, BLOCK_BARRIER, WARP_BARRIER, ENDED };

struct Fiber {
  ucontext_t context;
  jmp_buf resume;  // without the system calls of swapcontext
  std::unique_ptr<char[]> stack{new char[STACK]};
  Reason reason;
  bool entered;
  static constexpr size_t STACK = 1 << 16;
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline ucontext_t entrance;
inline jmp_buf scheduler;
inline std::function<void()> body;
inline std::vector<char> block_memory;

// Copies into shared memory that a thread has asked for (`warp_emulation.h`).
struct Copy {
  void* shared;
  const void* source;
  bool wanted;
};
struct Copies {
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};
inline std::vector<Copies> copies;  // by thread

inline Fiber& current() { return *fibers[threadIdx.x]; }

inline void give_way(Reason reason) {
  const unsigned thread = threadIdx.x;
  current().reason = reason;
  if (!_setjmp(current().resume)) _longjmp(scheduler, 1);
  threadIdx.x = thread;
}

inline void run_body() {
  body();
  current().reason = ENDED;
  _longjmp(scheduler, 1);
}

inline void run(unsigned thread) {
  threadIdx.x = thread;
  Fiber& fiber = current();
  if (_setjmp(scheduler)) return;
  if (fiber.entered) _longjmp(fiber.resume, 1);
  fiber.entered = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = Fiber::STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run_body, 0);
  swapcontext(&entrance, &fiber.context);
}

// One warp until all its lanes wait for the block or have ended.
inline Reason run_warp(unsigned first, unsigned lanes, bool backwards) {
  for (;;) {
    for (unsigned i = 0; i < lanes; ++i) run(first + (backwards ? lanes - 1 - i : i));
    const Reason reason = fibers[first]->reason;
    for (unsigned i = 1; i < lanes; ++i)
      if (fibers[first + i]->reason != reason) fail("lanes of one warp wait for different things");
    if (reason != WARP_BARRIER) return reason;
  }
}

inline void run_block(unsigned threads, bool backwards) {
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  const unsigned warps = (threads + LANES - 1) / LANES;
  std::vector<Reason> reasons(warps, STARTED);
  copies.assign(threads, {});
  for (unsigned thread = 0; thread < threads; ++thread) fibers[thread]->entered = false;
  for (unsigned ended = 0; ended < warps;) {
    for (unsigned i = 0; i < warps; ++i) {
      const unsigned warp = backwards ? warps - 1 - i : i;
      if (reasons[warp] == ENDED) continue;
      reasons[warp] = run_warp(warp * LANES, min(LANES, threads - warp * LANES), backwards);
      if (reasons[warp] == ENDED) ++ended;
      else if (ended) fail("a warp waits at a barrier that others have ended before");
    }
  }
  for (const Copies& own : copies)
    if (!own.open.empty() || !own.groups.empty()) fail("a copy into shared memory is under way at the end");
}

inline void check_address(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("an address is not a multiple of the size that is loaded");
}

inline bool in_block_memory(const void* address) {
  const char* const byte = static_cast<const char*>(address);
  return byte >= block_memory.data() && byte < block_memory.data() + block_memory.size();
}

}  // namespace emulation

inline void __syncthreads() { emulation::give_way(emulation::BLOCK_BARRIER); }

#include "emulation_counts.h"

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
template <class T> uint32_t packed(float first, float second, T) {
  T low, high;
  narrow(first, low);
  narrow(second, high);
  return low.bits | uint32_t(high.bits) << 16;
}

// `line`, of the caller, tells one access from another where the lanes' are put together.
template <class V> V load(const void* address, int line = __builtin_LINE()) {
  emulation::check_address(address, sizeof(V));
  emulation::count_read(address, sizeof(V), line);
  V loaded;
  memcpy(&loaded, address, sizeof loaded);
  return loaded;
}
template <class V> V load_constant(const void* address, int line = __builtin_LINE()) {
  return load<V>(address, line);
}
template <class V> void store(void* address, const V& value, int line = __builtin_LINE()) {
  emulation::check_address(address, sizeof(V));
  emulation::count_written(address, sizeof(V), line);
  memcpy(address, &value, sizeof value);
}

inline char* shared_memory() { return emulation::block_memory.data(); }

template <class P>
int run_grid(void (*kernel)(P), int64_t blocks, int threads, int shared_bytes, const P& parameters) {
  constexpr int GUARD = 64;
  gridDim.x = unsigned(blocks);
  emulation::body = [&] { kernel(parameters); };
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    emulation::block_memory.assign(shared_bytes + GUARD, char(0xff));
    emulation::begin_block(unsigned(threads));
    emulation::run_block(unsigned(threads), blockIdx.x % 2);
    emulation::end_block();
    for (int i = 0; i < GUARD; ++i)
      if (emulation::block_memory[shared_bytes + i] != char(0xff)) emulation::fail("shared memory was left");
  }
  return 0;
}

template <class P> int launch(void (*kernel)(P), int64_t blocks, int shared_bytes, void*, P parameters) {
  return run_grid(kernel, min(blocks, LARGEST_GRID), THREADS, shared_bytes, parameters);
}

}  // namespace laconv
