// The gradient of y. Hidden channels h and the gradient g behind the ReLU are made again, 16 pixels at a time; what the
// norm hands on, scale (g - mean of g - (h - mean) / deviation * mean of g (h - mean) / deviation), meets W1 as it lies.
#pragma once
#include "narrow_forward.cuh"

namespace laconv {
namespace mlp {
namespace narrow {

struct ApplyParameters {
  const void *grad, *y, *w1, *w2, *beside;
  void* result;
  Norm norm;
  const float *sums, *count;
  int64_t pixels;
};

// W1 as the right operand of hidden W1: by 16 hidden channels and block of y.
template <class T>
__device__ __forceinline__ void load_w1_rows(uint32_t (&words)[HIDDEN / 16][BLOCKS][2], const void* w1, Lane lane) {
#pragma unroll
  for (int step = 0; step < HIDDEN / 16; ++step)
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = 16 * step + 8 * half + 2 * lane.t;
        words[step][block][half] = pair_of<T>(w1, row * CHANNELS + channel_of(block, lane.q), CHANNELS);
      }
}

template <class T> __global__ void __launch_bounds__(THREADS, 2) backward_apply(const ApplyParameters parameters) {
  const Lane lane = lane_here();
  const int64_t stride = int64_t(gridDim.x) * WARPS * PIXELS;
  uint32_t w1[HIDDEN / 8][2], w2[HIDDEN / 8][2], w1_rows[HIDDEN / 16][BLOCKS][2];
  load_w1<T>(w1, parameters.w1, lane);
  load_w2<T>(w2, parameters.w2, lane);
  load_w1_rows<T>(w1_rows, parameters.w1, lane);
  Gradient gradient[HIDDEN / 8][2];
#pragma unroll
  for (int i = 0; i < HIDDEN / 4; ++i) {
    const int channel = i / 2 * 8 + 2 * lane.t + i % 2;
    gradient[i / 2][i % 2].read(parameters.norm, parameters.sums, *parameters.count, HIDDEN, channel);
  }

  int64_t first = (int64_t(blockIdx.x) * WARPS + threadIdx.x / LANES) * PIXELS;
  Pixels16 next_y, next_grad;
  next_y.load<T>(parameters.y, first, parameters.pixels, lane);
  next_grad.load<T>(parameters.grad, first, parameters.pixels, lane);
  for (; first < parameters.pixels; first += stride) {
    uint32_t y[4], grad[4];
    next_y.rows(y);
    next_grad.rows(grad);
    next_y.load<T>(parameters.y, first + stride, parameters.pixels, lane);
    next_grad.load<T>(parameters.grad, first + stride, parameters.pixels, lane);
    float result[BLOCKS][4] = {};
#pragma unroll
    for (int step = 0; step < HIDDEN / 16; ++step) {
      uint32_t below[4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int j = 2 * step + half;
        float h[4] = {}, g[4] = {};
        multiply(h, y, w1[j], h, T{});
        multiply(g, grad, w2[j], g, T{});
#pragma unroll
        for (int row = 0; row < 2; ++row)
          below[2 * half + row] = packed(gradient[j][0].of(h[2 * row], g[2 * row]),
                                         gradient[j][1].of(h[2 * row + 1], g[2 * row + 1]), T{});
      }
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block)
        multiply(result[block], below, w1_rows[step][block], result[block], T{});
    }
    store_pixels<T>(parameters.result, first, parameters.pixels, lane, result, parameters.beside);
  }
}

template <class T> int backward_apply_any(const laconv_mlp_args& args, void* stream) {
  if (const int wrong = check(args, 8)) return wrong;
  const ApplyParameters parameters{args.grad,   args.y,        args.w1,   args.w2,    args.beside,
                                   args.result, norm_of(args), args.sums, args.count, args.pixels};
  return launch(backward_apply<T>, walking_blocks(args.pixels), 0, stream, parameters);
}

}  // namespace narrow
}  // namespace mlp
}  // namespace laconv
