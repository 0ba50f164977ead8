// relu(BN(y W1^T)) W2^T: the hidden channels of 16 pixels come out of one product as they enter the next.
#pragma once
#include "narrow.cuh"

namespace laconv {
namespace mlp {
namespace narrow {

struct ForwardParameters {
  const void *y, *w1, *w2;
  void* result;
  Norm norm;
  int64_t pixels;
};

// W2 as the right operand of hidden W2^T: by 16 hidden channels and block of the result.
template <class T>
__device__ __forceinline__ void load_w2_rows(uint32_t (&words)[HIDDEN / 16][BLOCKS][2], const void* w2, Lane lane) {
#pragma unroll
  for (int step = 0; step < HIDDEN / 16; ++step)
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = channel_of(block, lane.q) * HIDDEN + 16 * step + 8 * half + 2 * lane.t;
        words[step][block][half] = load_constant<uint32_t>(static_cast<const T*>(w2) + place);
      }
}

// Of 16 pixels, `sums[block]` being a product whose rows are the pixels; on top of `beside`, if there is that.
template <class T>
__device__ __forceinline__ void store_pixels(void* map, int64_t first, int64_t pixels, Lane lane,
                                             const float (&sums)[BLOCKS][4], const void* beside = nullptr) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t pixel = first + lane.q + 8 * half, place = pixel * CHANNELS + 4 * lane.t;
    if (pixel >= pixels) continue;
    Words2 words;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
      words.number[block] = packed(sums[block][2 * half], sums[block][2 * half + 1], T{});
    if (beside) {
      const Words2 added = load_constant<Words2>(static_cast<const T*>(beside) + place);
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block)
        words.number[block] = pair_sum(words.number[block], added.number[block], T{});
    }
    store(static_cast<T*>(map) + place, words);
  }
}

template <class T> __global__ void __launch_bounds__(THREADS, 4) forward(const ForwardParameters parameters) {
  const Lane lane = lane_here();
  const int64_t stride = int64_t(gridDim.x) * WARPS * PIXELS;
  uint32_t w1[HIDDEN / 8][2], w2[HIDDEN / 16][BLOCKS][2];
  load_w1<T>(w1, parameters.w1, lane);
  load_w2_rows<T>(w2, parameters.w2, lane);
  Affine norm[HIDDEN / 8][2];
#pragma unroll
  for (int i = 0; i < HIDDEN / 4; ++i) norm[i / 2][i % 2].read(parameters.norm, i / 2 * 8 + 2 * lane.t + i % 2);

  int64_t first = (int64_t(blockIdx.x) * WARPS + threadIdx.x / LANES) * PIXELS;
  Pixels16 next;
  next.load<T>(parameters.y, first, parameters.pixels, lane);
  for (; first < parameters.pixels; first += stride) {
    uint32_t y[4];
    next.rows(y);
    next.load<T>(parameters.y, first + stride, parameters.pixels, lane);
    float result[BLOCKS][4] = {};
#pragma unroll
    for (int step = 0; step < HIDDEN / 16; ++step) {
      uint32_t hidden[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int j = 2 * step + half;
        float numbers[4] = {};
        multiply(numbers, y, w1[j], numbers, T{});
        hidden[2 * half] = packed_relu(norm[j][0].of(numbers[0]), norm[j][1].of(numbers[1]), T{});
        hidden[2 * half + 1] = packed_relu(norm[j][0].of(numbers[2]), norm[j][1].of(numbers[3]), T{});
      }
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block)
        multiply(result[block], hidden, w2[step][block], result[block], T{});
    }
    store_pixels<T>(parameters.result, first, parameters.pixels, lane, result);
  }
}

constexpr int64_t MOST_BLOCKS = 1056;  // eight for each of 132 processors: matrices are loaded once a block

inline int64_t walking_blocks(int64_t pixels) {
  const int64_t all = divided_up(pixels, PIXELS * WARPS);
  return all < MOST_BLOCKS ? all : MOST_BLOCKS;
}

template <class T> int forward_any(const laconv_mlp_args& args, void* stream) {
  if (const int wrong = check(args, 8)) return wrong;
  const ForwardParameters parameters{args.y, args.w1, args.w2, args.result, norm_of(args), args.pixels};
  return launch(forward<T>, walking_blocks(args.pixels), 0, stream, parameters);
}

}  // namespace narrow
}  // namespace mlp
}  // namespace laconv
