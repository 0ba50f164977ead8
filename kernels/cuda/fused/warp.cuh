// What the fused kernels ask of a warp: products of small matrices (mma.sync), exchanges between lanes, copies into shared
// memory that run behind the arithmetic. Pairs of half or bfloat16 numbers travel as one 32-bit word, the lower number in
// the lower half. Without CUDA's compiler the same names come from an emulation on the CPU (`warp_emulation.h` of the
// tests).
//
// The lanes of a product D = A B + C, with q = lane / 4 and t = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//     A (16 x 16)  word 0: row q, columns 2t, 2t+1; word 1: row q+8; words 2, 3: the same rows, columns 2t+8, 2t+9
//     B (16 x 8)   word 0: rows 2t, 2t+1 of column q; word 1: rows 2t+8, 2t+9
//     C, D (16 x 8, float)  numbers 0, 1: row q, columns 2t, 2t+1; numbers 2, 3: row q+8
#pragma once
#include "../device.cuh"
#include "../mask.cuh"

namespace laconv {

using Words2 = Vector<uint32_t, 2>;
using Words4 = Vector<uint32_t, 4>;
using Floats4 = Vector<float, 4>;

constexpr int LANES = 32;

}  // namespace laconv

#ifdef __CUDACC__
namespace laconv {

__device__ __forceinline__ float lower(uint32_t pair, bfloat16) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float upper(uint32_t pair, bfloat16) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ float lower(uint32_t pair, half) { return widen(half{uint16_t(pair)}); }
__device__ __forceinline__ float upper(uint32_t pair, half) { return widen(half{uint16_t(pair >> 16)}); }

// `packed`, negative numbers as zero (NaN stays).
__device__ __forceinline__ uint32_t packed_relu(float low, float high, bfloat16) {
  uint32_t pair;
  asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ uint32_t packed_relu(float low, float high, half) {
  uint32_t pair;
  asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ uint32_t relu_pair(uint32_t pair, bfloat16) {
  uint32_t result;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(pair), "r"(0u));
  return result;
}
__device__ __forceinline__ uint32_t relu_pair(uint32_t pair, half) {
  uint32_t result;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(result) : "r"(pair), "r"(0u));
  return result;
}

#define LACONV_PRODUCT(TYPE, PTX)                                                                                       \
  /* d = a b + c; d and c may be the same numbers. */                                                                   \
  __device__ __forceinline__ void multiply(float* d, const uint32_t* a, const uint32_t* b, const float* c, TYPE) {      \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." PTX "." PTX                                                            \
        ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"                                                   \
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                                \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),            \
          "f"(c[3]));                                                                                                   \
  }                                                                                                                     \
  /* d += a b over the first 8 columns of a and rows of b: words 0, 1 of A, word 0 of B. */                             \
  __device__ __forceinline__ void add_product_8(float* d, uint32_t a0, uint32_t a1, uint32_t b, TYPE) {                 \
    asm("mma.sync.aligned.m16n8k8.row.col.f32." PTX "." PTX ".f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"            \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                                \
        : "r"(a0), "r"(a1), "r"(b));                                                                                    \
  }
LACONV_PRODUCT(bfloat16, "bf16")
LACONV_PRODUCT(half, "f16")
#undef LACONV_PRODUCT

__device__ __forceinline__ void synchronize_warp() { __syncwarp(); }
__device__ __forceinline__ uint32_t shuffled(uint32_t word, int lane) { return __shfl_sync(0xffffffffu, word, lane); }
__device__ __forceinline__ float shuffled(float number, int lane) { return __shfl_sync(0xffffffffu, number, lane); }
// Byte i of the result is the one that hexadecimal digit i of `selector` names, 0-3 of `low` and 4-7 of `high`.
__device__ __forceinline__ uint32_t bytes(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector);
}
// 0xffff in each half where the half-precision number of `a` is at least that of `b`.
__device__ __forceinline__ uint32_t at_least(uint32_t a, uint32_t b) {
  uint32_t mask;
  asm("set.ge.u32.f16x2 %0, %1, %2;" : "=r"(mask) : "r"(a), "r"(b));
  return mask;
}
// An 8 x 8 matrix of pairs' numbers, word of lane (q, t) = row q, columns 2t, 2t+1: transposed.
__device__ __forceinline__ uint32_t transposed(uint32_t word) {
  uint32_t result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(word));
  return result;
}

// Four (two) 8 x 8 matrices from shared memory: lanes 8i to 8i+7 give the addresses of the rows of matrix i, 16 bytes each;
// word i of lane (q, t) is row q, columns 2t, 2t+1 of matrix i; TRANSPOSED: column q, rows 2t, 2t+1.
template <bool TRANSPOSED> __device__ __forceinline__ void load_matrices_4(uint32_t* words, const void* row) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  if (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}
template <bool TRANSPOSED> __device__ __forceinline__ void load_matrices_2(uint32_t* words, const void* row) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
  if (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1},[%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1},[%2];"
                 : "=r"(words[0]), "=r"(words[1])
                 : "r"(address)
                 : "memory");
}

// 16 bytes from device to shared memory behind the lane's back, zeros where not `wanted` (then nothing is read, whatever
// the address). They are there after `wait_copies` of their group and a barrier of those who read them.
__device__ __forceinline__ void copy_16(void* shared, const void* source, bool wanted) {
  const uint32_t address = uint32_t(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(wanted ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void end_group_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All groups but the last GROUPS are there.
template <int GROUPS> __device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// A word that nobody writes while the kernel runs, zero where not `wanted`; without a branch.
__device__ __forceinline__ uint32_t load_word_if(const void* address, bool wanted) {
  uint32_t word;
  asm("{.reg .pred p; setp.ne.b32 p, %2, 0; mov.b32 %0, 0; @p ld.global.nc.b32 %0, [%1];}"
      : "=r"(word)
      : "l"(address), "r"(int(wanted)));
  return word;
}

// An address that the compiler takes as it stands. Else it adds an offset to the parts of its sum, in four instructions,
// not in one.
template <class T> __device__ __forceinline__ T* as_it_is(T* address) {
  asm("mov.b64 %0, %0;" : "+l"(address));
  return address;
}
// A number of which the compiler knows nothing before this place, so that it computes what follows from it here, and not
// ahead of a loop where it would have to be kept in registers.
__device__ __forceinline__ int known_from_here(int number) {
  asm volatile("mov.b32 %0, %0;" : "+r"(number));
  return number;
}

// The current device: its processors, and the shared memory that a block may have, in bytes.
struct Device {
  int processors, shared_memory;
};
// 0, or the code of what went wrong.
inline int current_device(Device& device) {
  int number;
  const cudaError_t failed = cudaGetDevice(&number);
  if (failed) return failed;
  const cudaError_t unknown = cudaDeviceGetAttribute(&device.processors, cudaDevAttrMultiProcessorCount, number);
  if (unknown) return unknown;
  return cudaDeviceGetAttribute(&device.shared_memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, number);
}

// A launch with its own number of threads and more shared memory than the 48 KB that need no permission.
template <class P>
int launch_warps(void (*kernel)(P), int64_t blocks, int threads, int shared_bytes, void* stream, P parameters) {
  if (blocks == 0) return cudaSuccess;
  const void* const function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > 48 * 1024) {
    const cudaError_t refused = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (refused != cudaSuccess) return refused;
    // Only a hint, without which fewer blocks than there is room for may share a processor.
    const cudaError_t unheard =
        cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (unheard != cudaSuccess) return unheard;
  }
  void* arguments[] = {&parameters};
  if (blocks > LARGEST_GRID) return LACONV_BAD_SIZE;
  return cudaLaunchKernel(function, dim3(unsigned(blocks)), dim3(unsigned(threads)), arguments, size_t(shared_bytes),
                          static_cast<cudaStream_t>(stream));
}

}  // namespace laconv
#else
#include "warp_emulation.h"
#endif
