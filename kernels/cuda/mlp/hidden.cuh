// What all kernels of the MLP share: the norm of its hidden channels, and what is refused.
//
// Products of a hidden channel stay in float: neither the hidden map nor its norm is ever rounded to the maps' type.
#pragma once
#include "../fused/partial_sums.cuh"
#include "../fused/warp.cuh"
#include "../norm/tiles.cuh"
#include "mlp.h"

namespace laconv {
namespace mlp {

constexpr int TIMES = 4;  // hidden channels to a channel

// The norm of a hidden channel.
struct Norm {
  const float *mean, *var, *weight, *bias;
  float eps;
};
inline Norm norm_of(const laconv_mlp_args& args) {
  return {args.mean, args.var, args.weight, args.bias, float(args.eps)};
}
// BN(h) = scale * h + shift.
struct Affine {
  float scale, shift;

  __device__ __forceinline__ void read(const Norm& norm, int channel) {
    scale = norm.weight[channel] * inverse_deviation(norm.var[channel], norm.eps);
    shift = fmaf(-norm.mean[channel], scale, norm.bias[channel]);
  }
  __device__ __forceinline__ float of(float hidden) const { return fmaf(scale, hidden, shift); }
};

// The gradient of a hidden channel is scale * g + slope * h + offset, g being the gradient behind the ReLU.
struct Gradient {
  Affine norm;
  float slope, offset;

  // `sums` (2, hidden) over all processes, `count` the values of a channel.
  __device__ __forceinline__ void read(const Norm& of, const float* sums, float count, int hidden, int channel) {
    norm.read(of, channel);
    slope = -norm.scale * inverse_deviation(of.var[channel], of.eps) * (sums[hidden + channel] / count);
    offset = fmaf(-slope, of.mean[channel], -norm.scale * (sums[channel] / count));
  }
  __device__ __forceinline__ float of(float hidden, float above) const {
    const float g = norm.of(hidden) <= 0.f ? 0.f : above;
    return fmaf(norm.scale, g, fmaf(slope, hidden, offset));
  }
};

// Numbers of what backward_reduce sums, and where they stand: sums of the norm, gradient of W2, sums of g y^T.
template <int CHANNELS> struct Sums {
  static constexpr int HIDDEN = TIMES * CHANNELS, OF_W2 = 2 * HIDDEN, WITH_Y = OF_W2 + CHANNELS * HIDDEN;
  static constexpr int ALL = WITH_Y + HIDDEN * CHANNELS, MOMENTS = CHANNELS * CHANNELS + CHANNELS;
};

// Pairs of numbers, added in float.
template <class T> __device__ __forceinline__ uint32_t pair_sum(uint32_t a, uint32_t b, T type) {
  return packed(lower(a, type) + lower(b, type), upper(a, type) + upper(b, type), type);
}

inline int check(const laconv_mlp_args& args, int alignment) {
  if (args.pixels < 0 || args.pixels > INT64_MAX / 4 / args.channels) return LACONV_BAD_SIZE;
  for (const void* address : {args.y, args.w1, args.w2, args.grad, args.beside, static_cast<const void*>(args.result)})
    if (!aligned(address, alignment)) return LACONV_NO_FUSED_KERNEL;
  return 0;
}

}  // namespace mlp
}  // namespace laconv
