// Sums over all pixels that blocks made each for its share: added up in a fixed order, without atomics. The number of
// blocks follows from the sizes alone and never from the chip, so that bits agree on all of them.
#pragma once
#include "../device.cuh"

namespace laconv {

// As many as two a processor of the chip this was planned for (132). More would only make `parts` larger.
constexpr int64_t MOST_PARTS = 264;

struct PartialSums {
  const float* parts;      // (blocks, stride)
  int64_t blocks, stride;  // no blocks: the sums are zero
  float* first;            // numbers 0 to firsts - 1 of the sums
  float* second;           // the next `seconds`, or null: not wanted
  int64_t firsts, seconds;
};

// A thread adds every SLICES-th part of one number, then one adds the slices.
template <int SLICES>
__global__ void __launch_bounds__(THREADS) add_parts(const PartialSums parameters) {
  constexpr int SUMS_A_BLOCK = THREADS / SLICES;
  float* const slices = reinterpret_cast<float*>(shared_memory());
  const int slice = threadIdx.x / SUMS_A_BLOCK, within = threadIdx.x % SUMS_A_BLOCK;
  const int64_t all = parameters.firsts + parameters.seconds;
  for (int64_t begin = int64_t(blockIdx.x) * SUMS_A_BLOCK; begin < all; begin += int64_t(gridDim.x) * SUMS_A_BLOCK) {
    const int64_t number = begin + within;
    float sum = 0;
    if (number < all)
      for (int64_t block = slice; block < parameters.blocks; block += SLICES)
        sum += load_constant<float>(parameters.parts + block * parameters.stride + number);
    store(slices + threadIdx.x, sum);
    __syncthreads();
    if (slice == 0 && number < all) {
      for (int i = 1; i < SLICES; ++i) sum += load<float>(slices + i * SUMS_A_BLOCK + within);
      if (number < parameters.firsts) store(parameters.first + number, sum);
      else if (parameters.second) store(parameters.second + (number - parameters.firsts), sum);
    }
    __syncthreads();
  }
}

inline int launch_partial_sums(const PartialSums& parameters, void* stream) {
  constexpr int SLICES = 16;  // 8 numbers a block: 32 bytes of each part at a time
  const int64_t blocks = divided_up(parameters.firsts + parameters.seconds, THREADS / SLICES);
  return launch(add_parts<SLICES>, blocks, THREADS * int(sizeof(float)), stream, parameters);
}

}  // namespace laconv
