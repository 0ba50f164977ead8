// What the kernels ask of the chip: number types, loads and stores of several numbers at once, a launch. Without CUDA's
// compiler the same names come from an emulation on the CPU (`emulation.h` of the tests), so that the kernels themselves
// have one source.
#pragma once
#include <stdint.h>
#include <string.h>

#include "laconv.h"

namespace laconv {

constexpr int THREADS = 128;  // of every block

// Storage only: arithmetic is in float.
struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

}  // namespace laconv

#ifdef __CUDACC__
#include <cuda_runtime_api.h>

namespace laconv {

constexpr int64_t LARGEST_GRID = 0x7fffffff;

__device__ __forceinline__ float widen(half number) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(number.bits));
  return wide;
}
__device__ __forceinline__ float widen(bfloat16 number) { return __uint_as_float(uint32_t(number.bits) << 16); }

__device__ __forceinline__ void narrow(float wide, half& number) {
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(number.bits) : "f"(wide));
}
__device__ __forceinline__ void narrow(float wide, bfloat16& number) {
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(number.bits) : "f"(wide));
}

// Two numbers of a word at once, the first in its low half: taken apart one by one, each costs an instruction more.
__device__ __forceinline__ void widen_word(uint32_t word, bfloat16, float& first, float& second) {
  first = __uint_as_float(word << 16);
  second = __uint_as_float(word & 0xffff0000u);
}
__device__ __forceinline__ void widen_word(uint32_t word, half, float& first, float& second) {
  asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
      : "=f"(first), "=f"(second)
      : "r"(word));
}
__device__ __forceinline__ uint32_t packed(float first, float second, bfloat16) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
__device__ __forceinline__ uint32_t packed(float first, float second, half) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}

template <int BYTES> struct Word;
template <> struct Word<2> { using type = unsigned short; };
template <> struct Word<4> { using type = unsigned int; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<16> { using type = uint4; };

// Memory that nobody writes while the kernel runs.
template <class V> __device__ __forceinline__ V load_constant(const void* address) {
  using W = typename Word<sizeof(V)>::type;
  const W word = __ldg(static_cast<const W*>(address));
  V loaded;
  memcpy(&loaded, &word, sizeof loaded);
  return loaded;
}
template <class V> __device__ __forceinline__ V load(const void* address) {
  using W = typename Word<sizeof(V)>::type;
  const W word = *static_cast<const W*>(address);
  V loaded;
  memcpy(&loaded, &word, sizeof loaded);
  return loaded;
}
template <class V> __device__ __forceinline__ void store(void* address, const V& value) {
  using W = typename Word<sizeof(V)>::type;
  W word;
  memcpy(&word, &value, sizeof value);
  *static_cast<W*>(address) = word;
}

__device__ __forceinline__ char* shared_memory() {
  extern __shared__ uint4 block_memory[];
  return reinterpret_cast<char*>(block_memory);
}

// cudaLaunchKernel answers for this launch alone: errors that others left behind are not taken for ours.
template <class P> int launch(void (*kernel)(P), int64_t blocks, int shared_bytes, void* stream, P parameters) {
  if (blocks == 0) return cudaSuccess;
  void* arguments[] = {&parameters};
  const dim3 grid(unsigned(blocks < LARGEST_GRID ? blocks : LARGEST_GRID));
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, dim3(THREADS), arguments, size_t(shared_bytes),
                          static_cast<cudaStream_t>(stream));
}

}  // namespace laconv
#else
#include "emulation.h"
#endif

namespace laconv {

__device__ __forceinline__ float widen(float number) { return number; }
__device__ __forceinline__ double widen(double number) { return number; }
__device__ __forceinline__ void narrow(float wide, float& number) { number = wide; }
__device__ __forceinline__ void narrow(double wide, double& number) { number = wide; }

// The type of sums: float, but double for double.
template <class T> struct Accumulate { using type = float; };
template <> struct Accumulate<double> { using type = double; };
template <class T> using Wide = typename Accumulate<T>::type;

template <class T> __device__ __forceinline__ T narrowed(Wide<T> wide) {
  T number;
  narrow(wide, number);
  return number;
}

template <bool CONDITION, class A, class B> struct Select { using type = A; };
template <class A, class B> struct Select<false, A, B> { using type = B; };

// V numbers that are loaded and stored at once; their address is a multiple of their size.
template <class T, int V> struct alignas(sizeof(T) * V) Vector {
  T number[V];
};

// V numbers as they lie in memory, in whole words where they fill some: numbers of two bytes are moved and widened two
// at once.
template <class T, int V> struct alignas(sizeof(T) * V) Packed {
  using Unit = typename Select<sizeof(T) == 2 && V % 2 == 0, uint32_t, T>::type;
  static constexpr int UNITS = V * int(sizeof(T)) / int(sizeof(Unit));
  Unit unit[UNITS];

  // To V numbers.
  __device__ __forceinline__ void widen_to(Wide<T>* wide) const {
#pragma unroll
    for (int i = 0; i < UNITS; ++i) {
      if constexpr (UNITS < V) widen_word(unit[i], T(), wide[2 * i], wide[2 * i + 1]);
      else wide[i] = widen(unit[i]);
    }
  }
  __device__ __forceinline__ void narrow_from(const Wide<T>* wide) {
#pragma unroll
    for (int i = 0; i < UNITS; ++i) {
      if constexpr (UNITS < V) unit[i] = packed(wide[2 * i], wide[2 * i + 1], T());
      else narrow(wide[i], unit[i]);
    }
  }
};

// All bits zero, the number zero in every type.
template <class T, int V> __device__ __forceinline__ Vector<T, V> zeros() {
  Vector<T, V> vector;
  memset(&vector, 0, sizeof vector);
  return vector;
}

template <class T> constexpr int NUMBERS_IN_16_BYTES = 16 / int(sizeof(T));

inline bool aligned(const void* address, int bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

__host__ __device__ __forceinline__ int64_t divided_up(int64_t whole, int64_t part) {
  return (whole + part - 1) / part;
}

}  // namespace laconv
