// Mean and variance of the hidden map h = W1 y without h: they follow from the sums of y and of y y^T, which one pass over
// y gives, a quarter of what a pass over h would read.
//
// What sums in float lose of a variance, some 2^-24 of the mean's square, is less than rounding y to its type has added.
#pragma once
#include "tile.cuh"

namespace laconv {
namespace mlp {

constexpr int MOMENTS = CHANNELS * CHANNELS + CHANNELS;

struct MomentsParameters {
  const void* y;
  float* parts;  // (blocks, MOMENTS)
  int64_t pixels;
};

template <class T> __global__ void __launch_bounds__(THREADS) moments(const MomentsParameters parameters) {
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

struct HiddenParameters {
  const float* moments;
  const void* w1;
  float* own;  // (2 HIDDEN + 1)
  int64_t pixels;
};

// Around the mean of y, so that little cancels.
template <class T> __global__ void __launch_bounds__(THREADS) hidden_statistics(const HiddenParameters parameters) {
  const double count = double(parameters.pixels > 0 ? parameters.pixels : 1);
  const float* const sums = parameters.moments + CHANNELS * CHANNELS;
  for (int channel = int(threadIdx.x); blockIdx.x == 0 && channel < HIDDEN; channel += THREADS) {
    double mean = 0, var = 0;
    const T* const row = static_cast<const T*>(parameters.w1) + channel * CHANNELS;
    for (int i = 0; i < CHANNELS; ++i) {
      const double mean_of_i = double(sums[i]) / count, weight = double(widen(load_constant<T>(row + i)));
      double with_all = 0;
      for (int j = 0; j < CHANNELS; ++j) {
        const double apart = double(parameters.moments[i * CHANNELS + j]) / count - mean_of_i * double(sums[j]) / count;
        with_all += apart * double(widen(load_constant<T>(row + j)));
      }
      mean += weight * mean_of_i;
      var += weight * with_all;
    }
    parameters.own[channel] = float(mean);
    parameters.own[HIDDEN + channel] = float(var > 0 ? var : 0 * var);  // NaN stays NaN
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) parameters.own[2 * HIDDEN] = float(parameters.pixels);
}

template <class T> int statistics_any(const laconv_mlp_args& args, void* stream) {
  if (const int wrong = check(args)) return wrong;
  const int64_t blocks = summing_blocks(args.pixels);
  const MomentsParameters parameters{args.y, args.workspace, args.pixels};
  int code = launch_warps(moments<T>, blocks, THREADS, MOMENTS * int(sizeof(float)), stream, parameters);
  if (code) return code;
  code = launch_partial_sums({args.workspace, blocks, MOMENTS, args.totals, nullptr, MOMENTS, 0}, stream);
  if (code) return code;
  return launch(hidden_statistics<T>, 1, 0, stream, HiddenParameters{args.totals, args.w1, args.own, args.pixels});
}

}  // namespace mlp
}  // namespace laconv
