// The rule of dropout (kernels/dropout.py) for every kernel that applies it: which byte of which counter a value has. A
// value is kept where its byte is at least the threshold, and then scaled.
#pragma once
#include "philox.cuh"

namespace laconv {

constexpr int MASK_BYTES = 16;  // of one counter

struct MaskRule {
  const int64_t* keys;  // in device memory, one an image
  uint32_t threshold;   // 1 to 255
  double scale;         // 256 / (256 - threshold)
};

// Filters of kernel size k: taps are cut into blocks, one a counter, of a pair of columns and up to eight rows.
__host__ __device__ constexpr int mask_blocks(int k) { return k <= 3 ? 1 : (k + 1) / 2 * ((k + 7) / 8); }
__host__ __device__ constexpr int mask_block(int k, int dy, int dx) {
  return k <= 3 ? 0 : dx / 2 + (k + 1) / 2 * (dy / 8);
}
// The byte of that block.
__host__ __device__ constexpr int mask_place(int k, int dy, int dx) {
  return k <= 3 ? dy * k + dx : 2 * (dy % 8) + dx % 2;
}
// The other way: the tap dy * k + dx that a byte of a block is for, or -1.
__host__ __device__ constexpr int mask_tap(int k, int block, int place) {
  if (k <= 3) return place < k * k ? place : -1;
  const int across = (k + 1) / 2, dy = block / across * 8 + place / 2, dx = block % across * 2 + place % 2;
  return dy < k && dx < k ? dy * k + dx : -1;
}

// The words of a key.
struct alignas(8) Key {
  uint32_t low, high;
};

__device__ __forceinline__ Key mask_key(const MaskRule& rule, int64_t image) {
  return load_constant<Key>(rule.keys + image);
}

// The bytes of a block of taps; pixel = y * W + x.
__host__ __device__ __forceinline__ Bits128 filter_bits(Key key, uint32_t pixel, uint32_t group, uint32_t block) {
  return philox({{pixel, group, block, 0}}, key.low, key.high);
}

// The bytes of elements 16 * counter to 16 * counter + 15 of an image of any other tensor.
__host__ __device__ __forceinline__ Bits128 element_bits(Key key, uint64_t counter) {
  return philox({{uint32_t(counter), uint32_t(counter >> 32), 0, 1}}, key.low, key.high);
}

}  // namespace laconv
