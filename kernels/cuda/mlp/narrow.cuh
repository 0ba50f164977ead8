// The MLP of 16 channels, whose matrices stay in a warp's registers. A warp takes 16 pixels at a time, whole: a lane
// (q, t), q = lane / 4, t = lane % 4, loads channels 4t to 4t+3 of pixels q and q + 8. Its words are then operands of
// products as they lie, if products count channels in another order: column 2t + i of block b is channel 4t + 2b + i.
// Matrices are loaded in that order too.
#pragma once
#include "hidden.cuh"

namespace laconv {
namespace mlp {
namespace narrow {

constexpr int CHANNELS = 16, HIDDEN = TIMES * CHANNELS, BLOCKS = CHANNELS / 8;  // a block: 8 columns of a product
constexpr int PIXELS = 16, WARPS = THREADS / LANES;

// The channel that column q of a block of 8 stands for.
__host__ __device__ __forceinline__ int channel_of(int block, int q) { return q / 2 * 4 + 2 * block + q % 2; }

struct Lane {
  int q, t;
};
__device__ __forceinline__ Lane lane_here() { return {int(threadIdx.x) % LANES / 4, int(threadIdx.x) % 4}; }

// 16 pixels of a map: word[half][block] is that of pixel q + 8 half.
struct Pixels16 {
  uint32_t word[2][BLOCKS];

  // Zeros behind the last pixel.
  template <class T> __device__ __forceinline__ void load(const void* map, int64_t first, int64_t pixels, Lane lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t pixel = first + lane.q + 8 * half;
      const T* const place = static_cast<const T*>(map) + pixel * CHANNELS + 4 * lane.t;
      const Words2 words = pixel < pixels ? load_constant<Words2>(place) : zeros<uint32_t, 2>();
      word[half][0] = words.number[0];
      word[half][1] = words.number[1];
    }
  }
  // A left operand whose rows are the pixels.
  __device__ __forceinline__ void rows(uint32_t (&a)[4]) const {
    a[0] = word[0][0];
    a[1] = word[1][0];
    a[2] = word[0][1];
    a[3] = word[1][1];
  }
};

// The same turned: word[half][block] of lane (q, t) is channel q of the block, pixels 2t and 2t + 1 of the half. The words
// of a block are a right operand whose rows are the pixels.
struct Turned16 {
  uint32_t word[BLOCKS][2];

  __device__ __forceinline__ explicit Turned16(const Pixels16& from) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half) word[block][half] = transposed(from.word[half][block]);
  }
};

// Two numbers of a matrix, `apart` numbers from each other, as a word.
template <class T> __device__ __forceinline__ uint32_t pair_of(const void* matrix, int first, int apart) {
  const T* const place = static_cast<const T*>(matrix) + first;
  return uint32_t(load_constant<T>(place).bits) | uint32_t(load_constant<T>(place + apart).bits) << 16;
}

// W1 as the right operand of y W1^T, by blocks of 8 hidden channels; word b: the channels of block b.
template <class T> __device__ __forceinline__ void load_w1(uint32_t (&words)[HIDDEN / 8][2], const void* w1, Lane lane) {
#pragma unroll
  for (int j = 0; j < HIDDEN / 8; ++j) {
    const T* const row = static_cast<const T*>(w1) + (8 * j + lane.q) * CHANNELS + 4 * lane.t;
    const Words2 two = load_constant<Words2>(row);
    words[j][0] = two.number[0];
    words[j][1] = two.number[1];
  }
}
// W2 in the place of W1^T: of grad W2.
template <class T> __device__ __forceinline__ void load_w2(uint32_t (&words)[HIDDEN / 8][2], const void* w2, Lane lane) {
#pragma unroll
  for (int j = 0; j < HIDDEN / 8; ++j)
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
      words[j][block] = pair_of<T>(w2, (4 * lane.t + 2 * block) * HIDDEN + 8 * j + lane.q, HIDDEN);
}

// The numbers that the warps of a block have summed up, each for its pixels, in shared memory: warp after warp, so that
// the order is one. `each(put)` calls put(place, number) for all that are the lane's; no place is two lanes'.
template <class Each> __device__ __forceinline__ void sum_of_warps(float* part, int floats, const Each& each) {
  float* const shared = reinterpret_cast<float*>(shared_memory());
  for (int warp = 0; warp < WARPS; ++warp) {
    if (int(threadIdx.x) / LANES == warp)
      each([&](int place, float number) { shared[place] = warp ? shared[place] + number : number; });
    __syncthreads();
  }
  for (int place = int(threadIdx.x); place < floats; place += THREADS) store(part + place, shared[place]);
}

// Blocks that make sums: a fixed number, but no more than have pixels.
inline int64_t summing_blocks(int64_t pixels) {
  const int64_t all = divided_up(pixels, PIXELS * WARPS);
  return all < MOST_PARTS ? all : MOST_PARTS;
}

}  // namespace narrow
}  // namespace mlp
}  // namespace laconv
