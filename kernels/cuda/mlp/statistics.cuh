// Mean and variance of the hidden map h = W1 y without h: they follow from the sums of y and of y y^T, which one pass over
// y gives, a quarter of what a pass over h would read.
//
// What sums in float lose of a variance, some 2^-24 of the mean's square, is less than rounding y to its type has added.
#pragma once
#include "hidden.cuh"

namespace laconv {
namespace mlp {

struct HiddenParameters {
  const float* moments;  // (channels, channels), then (channels)
  const void* w1;
  float* own;  // (2 hidden + 1)
  int64_t pixels;
  int channels;
};

// A block makes a hidden channel, a thread the shares of some of y. Around the mean of y, so that little cancels.
template <class T> __global__ void __launch_bounds__(THREADS) hidden_statistics(const HiddenParameters parameters) {
  const int channels = parameters.channels, hidden = TIMES * channels, thread = int(threadIdx.x);
  const double count = double(parameters.pixels > 0 ? parameters.pixels : 1);
  const float* const sums = parameters.moments + channels * channels;
  double* const shares = reinterpret_cast<double*>(shared_memory());  // (2, channels): of the mean, of the variance
  for (int channel = int(blockIdx.x); channel < hidden; channel += int(gridDim.x)) {
    const T* const row = static_cast<const T*>(parameters.w1) + channel * channels;
    for (int i = thread; i < channels; i += THREADS) {
      const double mean = double(sums[i]) / count, weight = double(widen(load_constant<T>(row + i)));
      double with_all = 0;
      for (int j = 0; j < channels; ++j) {
        const double apart = double(parameters.moments[i * channels + j]) / count - mean * double(sums[j]) / count;
        with_all += apart * double(widen(load_constant<T>(row + j)));
      }
      shares[i] = weight * mean;
      shares[channels + i] = weight * with_all;
    }
    __syncthreads();
    if (thread < 2) {
      double sum = 0;
      for (int j = 0; j < channels; ++j) sum += shares[thread * channels + j];
      parameters.own[thread * hidden + channel] = float(thread == 1 && sum < 0 ? 0 : sum);
    }
    __syncthreads();
  }
  if (blockIdx.x == 0 && thread == 0) parameters.own[2 * hidden] = float(parameters.pixels);
}

// `moments` stand in args.totals.
template <class T> int hidden_statistics_any(const laconv_mlp_args& args, void* stream) {
  const int channels = int(args.channels);
  const HiddenParameters parameters{args.totals, args.w1, args.own, args.pixels, channels};
  return launch(hidden_statistics<T>, TIMES * channels, 2 * channels * int(sizeof(double)), stream, parameters);
}

}  // namespace mlp
}  // namespace laconv
