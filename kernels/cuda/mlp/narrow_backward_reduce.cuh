// What the gradients sum over all pixels, in one pass over y and the gradient of the result. Hidden channels are made
// again, turned: rows are hidden channels and columns pixels, so that what comes out of one product is the left operand
// of the sums over pixels as it lies. With g the gradient behind the ReLU,
//     sum g, sum g (h - mean) / deviation     what the norm's gradients want
//     sum grad relu(BN(h))^T                  the gradient of W2
//     sum g y^T                               what that of W1 is made from
#pragma once
#include "narrow.cuh"

namespace laconv {
namespace mlp {
namespace narrow {

constexpr int TILES = HIDDEN / 16;  // of 16 hidden channels
constexpr int OF_W2 = Sums<CHANNELS>::OF_W2, WITH_Y = Sums<CHANNELS>::WITH_Y, TOTALS = Sums<CHANNELS>::ALL;

struct ReduceParameters {
  const void *grad, *y, *w1, *w2;
  Norm norm;
  float* parts;  // (blocks, TOTALS)
  int64_t pixels;
};

// W1, or W2^T, as a left operand whose rows are 16 hidden channels.
__device__ __forceinline__ void rows_of(uint32_t (&a)[4], const uint32_t (&words)[HIDDEN / 8][2], int tile) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = words[2 * tile + i % 2][i / 2];
}

template <class T> __global__ void __launch_bounds__(THREADS, 2) backward_reduce(const ReduceParameters parameters) {
  const Lane lane = lane_here();
  const int64_t stride = int64_t(gridDim.x) * WARPS * PIXELS;
  uint32_t w1[HIDDEN / 8][2], w2[HIDDEN / 8][2];
  load_w1<T>(w1, parameters.w1, lane);
  load_w2<T>(w2, parameters.w2, lane);
  Affine norm[TILES][2];
  float mean[TILES][2], sum[TILES][2] = {}, with_h[TILES][2] = {};
  float of_w2[TILES][BLOCKS][4] = {}, with_y[TILES][BLOCKS][4] = {};
#pragma unroll
  for (int i = 0; i < 2 * TILES; ++i) {
    norm[i / 2][i % 2].read(parameters.norm, 8 * i + lane.q);
    mean[i / 2][i % 2] = parameters.norm.mean[8 * i + lane.q];
  }

  int64_t first = (int64_t(blockIdx.x) * WARPS + threadIdx.x / LANES) * PIXELS;
  Pixels16 next_y, next_grad;
  next_y.load<T>(parameters.y, first, parameters.pixels, lane);
  next_grad.load<T>(parameters.grad, first, parameters.pixels, lane);
  for (; first < parameters.pixels; first += stride) {
    const Pixels16 y = next_y, grad = next_grad;
    next_y.load<T>(parameters.y, first + stride, parameters.pixels, lane);
    next_grad.load<T>(parameters.grad, first + stride, parameters.pixels, lane);
    const Turned16 turned_y(y), turned_grad(grad);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
      uint32_t of_y[4], of_grad[4], hidden[4], above[4];
      rows_of(of_y, w1, tile);
      rows_of(of_grad, w2, tile);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float h[4] = {}, g[4] = {}, relu[4];
        multiply(h, of_y, y.word[half], h, T{});
        multiply(g, of_grad, grad.word[half], g, T{});
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          relu[i] = norm[tile][i / 2].of(h[i]);
          if (relu[i] <= 0.f) g[i] = 0.f;
          sum[tile][i / 2] += g[i];
          with_h[tile][i / 2] = fmaf(g[i], h[i] - mean[tile][i / 2], with_h[tile][i / 2]);
        }
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          hidden[2 * half + row] = packed_relu(relu[2 * row], relu[2 * row + 1], T{});
          above[2 * half + row] = packed(g[2 * row], g[2 * row + 1], T{});
        }
      }
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) {
        multiply(of_w2[tile][block], hidden, turned_grad.word[block], of_w2[tile][block], T{});
        multiply(with_y[tile][block], above, turned_y.word[block], with_y[tile][block], T{});
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 2 * TILES; ++i) {  // over the lanes that have other pixels of the same channel
    const int of_lane = int(threadIdx.x) % LANES;
    float &own = sum[i / 2][i % 2], &own_h = with_h[i / 2][i % 2];
#pragma unroll
    for (int apart = 1; apart < 4; apart *= 2) {
      own += shuffled(own, of_lane ^ apart);
      own_h += shuffled(own_h, of_lane ^ apart);
    }
    const float inverse = inverse_deviation(parameters.norm.var[8 * i + lane.q], parameters.norm.eps);
    own_h *= inverse;
  }
  sum_of_warps(parameters.parts + int64_t(blockIdx.x) * TOTALS, TOTALS, [&](const auto& put) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int hidden = 16 * tile + 8 * (i / 2) + lane.q;
        if (lane.t == 0 && i % 2 == 0) {
          put(hidden, sum[tile][i / 2]);
          put(HIDDEN + hidden, with_h[tile][i / 2]);
        }
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
          const int channel = channel_of(block, 2 * lane.t + i % 2);
          put(OF_W2 + channel * HIDDEN + hidden, of_w2[tile][block][i]);
          put(WITH_Y + hidden * CHANNELS + channel, with_y[tile][block][i]);
        }
      }
  });
}

template <class T> int backward_reduce_any(const laconv_mlp_args& args, void* stream) {
  if (const int wrong = check(args, 8)) return wrong;
  const int64_t blocks = summing_blocks(args.pixels);
  const ReduceParameters parameters{args.grad, args.y, args.w1, args.w2, norm_of(args), args.workspace, args.pixels};
  const int code = launch_warps(backward_reduce<T>, blocks, THREADS, TOTALS * int(sizeof(float)), stream, parameters);
  if (code) return code;
  return launch_partial_sums({args.workspace, blocks, TOTALS, args.totals, nullptr, TOTALS, 0}, stream);
}

}  // namespace narrow
}  // namespace mlp
}  // namespace laconv
