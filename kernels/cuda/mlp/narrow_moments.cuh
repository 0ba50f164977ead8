// The sums of y and of y y^T, 16 channels.
#pragma once
#include "narrow.cuh"

namespace laconv {
namespace mlp {
namespace narrow {

constexpr int MOMENTS = Sums<CHANNELS>::MOMENTS;

struct MomentsParameters {
  const void* y;
  float* parts;  // (blocks, MOMENTS)
  int64_t pixels;
};

template <class T> __global__ void __launch_bounds__(THREADS, 4) moments(const MomentsParameters parameters) {
  const Lane lane = lane_here();
  const int64_t stride = int64_t(gridDim.x) * WARPS * PIXELS;
  const uint32_t one = packed(1.f, 1.f, T{}), ones[4] = {one, one, one, one};
  float products[BLOCKS][4] = {}, sums[BLOCKS][4] = {};
  int64_t first = (int64_t(blockIdx.x) * WARPS + threadIdx.x / LANES) * PIXELS;
  Pixels16 next;
  next.load<T>(parameters.y, first, parameters.pixels, lane);
  for (; first < parameters.pixels; first += stride) {
    const Turned16 y(next);
    next.load<T>(parameters.y, first + stride, parameters.pixels, lane);
    const uint32_t rows[4] = {y.word[0][0], y.word[1][0], y.word[0][1], y.word[1][1]};
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      multiply(products[block], rows, y.word[block], products[block], T{});
      multiply(sums[block], ones, y.word[block], sums[block], T{});  // in every row
    }
  }
  sum_of_warps(parameters.parts + int64_t(blockIdx.x) * MOMENTS, MOMENTS, [&](const auto& put) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = channel_of(block, 2 * lane.t + i % 2);
        put(channel_of(i / 2, lane.q) * CHANNELS + column, products[block][i]);
        if (lane.q == 0 && i < 2) put(CHANNELS * CHANNELS + column, sums[block][i]);
      }
  });
}

// `parts` (blocks, MOMENTS); the sums into args.totals.
template <class T> int moments_any(const laconv_mlp_args& args, void* stream) {
  if (const int wrong = check(args, 8)) return wrong;
  const int64_t blocks = summing_blocks(args.pixels);
  const MomentsParameters parameters{args.y, args.workspace, args.pixels};
  const int code = launch_warps(moments<T>, blocks, THREADS, MOMENTS * int(sizeof(float)), stream, parameters);
  if (code) return code;
  return launch_partial_sums({args.workspace, blocks, MOMENTS, args.totals, nullptr, MOMENTS, 0}, stream);
}

}  // namespace narrow
}  // namespace mlp
}  // namespace laconv
