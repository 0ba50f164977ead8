// Philox4x32-7, the counter-based generator of Salmon et al. 2011 ("Parallel random numbers: as easy as 1, 2, 3") with
// the fewest rounds that pass their tests. A counter and a key give 128 random bits without any state, so a mask is a
// function of the place alone and the backward pass makes it again.
#pragma once
#include "device.cuh"

namespace laconv {

struct Bits128 {
  uint32_t word[4];

  __host__ __device__ __forceinline__ uint32_t byte(int i) const { return (word[i / 4] >> (8 * (i % 4))) & 255u; }
};

__host__ __device__ __forceinline__ Bits128 philox(Bits128 counter, uint32_t key0, uint32_t key1) {
#pragma unroll
  for (int round = 0; round < 7; ++round) {
    const uint64_t product0 = uint64_t(0xD2511F53u) * counter.word[0];
    const uint64_t product1 = uint64_t(0xCD9E8D57u) * counter.word[2];
    counter = {{uint32_t(product1 >> 32) ^ counter.word[1] ^ key0, uint32_t(product1),
                uint32_t(product0 >> 32) ^ counter.word[3] ^ key1, uint32_t(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

}  // namespace laconv
