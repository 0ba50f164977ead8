// The dropout mask of filters: a function of the image's key and of the place (pixel, group, tap) alone, so that no mask
// is ever stored and every backend drops the same values. One call of Philox4x32-7 (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3") gives 16 bytes, one a tap; a tap is kept where its byte is at least the threshold.
//     key      of the image and layer, 64 bits
//     counter  (pixel, group, block, 0), pixel = y * width + x
//     k <= 3   block 0, byte = tap
//     k >= 5   block = dx / 2 + (k + 1) / 2 * (dy / 8), byte = 2 * (dy % 8) + dx % 2
#pragma once
#include "device.cuh"

namespace laconv {

struct Bytes16 {
  uint32_t word[4];

  __host__ __device__ __forceinline__ uint32_t byte(int i) const { return (word[i >> 2] >> (8 * (i & 3))) & 255u; }
};

struct alignas(8) Key {
  uint32_t low, high;
};

__host__ __device__ __forceinline__ Bytes16 philox7(uint32_t pixel, uint32_t group, uint32_t block, Key key) {
  uint32_t counter[4] = {pixel, group, block, 0};
#pragma unroll
  for (int round = 0; round < 7; ++round) {
    const uint64_t first = uint64_t(0xD2511F53u) * counter[0];
    const uint64_t second = uint64_t(0xCD9E8D57u) * counter[2];
    counter[0] = uint32_t(second >> 32) ^ counter[1] ^ key.low;
    counter[1] = uint32_t(second);
    counter[2] = uint32_t(first >> 32) ^ counter[3] ^ key.high;
    counter[3] = uint32_t(first);
    key.low += 0x9E3779B9u;
    key.high += 0xBB67AE85u;
  }
  return {{counter[0], counter[1], counter[2], counter[3]}};
}

}  // namespace laconv
