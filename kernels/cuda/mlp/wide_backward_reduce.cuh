// What the gradients sum over all pixels (narrow_backward_reduce.cuh tells what). A warp owns 16 TILES hidden channels, a
// block OWN, and of their sums with channels those with SUMMED channels. PARTS blocks share the same pixels, whose rows
// they find in the second-level cache.
#pragma once
#include "wide_moments.cuh"

namespace laconv {
namespace mlp {
namespace wide {

template <int CHANNELS> struct ReduceShape {
  static constexpr int TILES = CHANNELS < 128 ? 128 / CHANNELS : 1, SUMMED = CHANNELS < 128 ? CHANNELS : 128;
  static constexpr int OWN = 16 * TILES * WARPS, SPLIT = CHANNELS / SUMMED, PARTS = TIMES * CHANNELS / OWN * SPLIT;
};

struct ReduceParameters {
  const void *grad, *y, *w1, *w2;
  Norm norm;
  float* parts;  // (shares, Sums<CHANNELS>::ALL)
  int64_t pixels;
};

template <int CHANNELS> struct ReduceShared {
  using S = Shape<CHANNELS>;
  static constexpr int OWN = ReduceShape<CHANNELS>::OWN;
  alignas(16) char w1[OWN * S::PITCH];
  alignas(16) char w2[CHANNELS * PITCH_OF<OWN>];
  alignas(16) char y[2][ROWS<CHANNELS> * S::PITCH];
  alignas(16) char grad[2][ROWS<CHANNELS> * S::PITCH];
};

template <class T, int CHANNELS>
__global__ void __launch_bounds__(BLOCK, 1) backward_reduce(const ReduceParameters parameters) {
  using S = Shape<CHANNELS>;
  using R = ReduceShape<CHANNELS>;
  constexpr int W2_PITCH = PITCH_OF<R::OWN>, PIXELS = ROWS<CHANNELS>;
  auto& shared = *reinterpret_cast<ReduceShared<CHANNELS>*>(shared_memory());
  const int warp = int(threadIdx.x) / LANES, lane = int(threadIdx.x) % LANES, q = lane / 4, t = lane % 4;
  const int share = int(blockIdx.x) / R::PARTS, part_of_share = int(blockIdx.x) % R::PARTS;
  const int first_of_block = part_of_share / R::SPLIT * R::OWN, first_of_warp = 16 * R::TILES * warp;  // in the block
  const int first_summed = part_of_share % R::SPLIT * R::SUMMED;
  const int64_t begin = int64_t(share) * PIXELS, stride = int64_t(gridDim.x) / R::PARTS * PIXELS;
  const auto ask = [&](int buffer, int64_t first) {
    const int64_t there = parameters.pixels - first, place = first * CHANNELS;
    copy_rows<PIXELS, CHANNELS, CHANNELS>(shared.y[buffer], static_cast<const T*>(parameters.y) + place, there);
    copy_rows<PIXELS, CHANNELS, CHANNELS>(shared.grad[buffer], static_cast<const T*>(parameters.grad) + place, there);
    end_group_of_copies();
  };
  const T* const w1 = static_cast<const T*>(parameters.w1) + first_of_block * CHANNELS;
  copy_rows<R::OWN, CHANNELS, CHANNELS>(shared.w1, w1);
  copy_rows<CHANNELS, R::OWN, S::HIDDEN>(shared.w2, static_cast<const T*>(parameters.w2) + first_of_block);
  ask(0, begin);

  Affine norm[R::TILES][2];
  float mean[R::TILES][2], sum[R::TILES][2] = {}, with_h[R::TILES][2] = {};
  float of_w2[R::TILES][R::SUMMED / 8][4] = {}, with_y[R::TILES][R::SUMMED / 8][4] = {};
#pragma unroll
  for (int i = 0; i < 2 * R::TILES; ++i) {
    const int channel = first_of_block + first_of_warp + 8 * i + q;
    norm[i / 2][i % 2].read(parameters.norm, channel);
    mean[i / 2][i % 2] = parameters.norm.mean[channel];
  }
  int buffer = 0;
  for (int64_t first = begin; first < parameters.pixels; first += stride, buffer ^= 1) {
    ask(buffer ^ 1, first + stride);
    wait_copies<1>();
    __syncthreads();
#pragma unroll 1
    for (int step = 0; step < PIXELS / 16; ++step) {
      const char* const y = shared.y[buffer] + 16 * step * S::PITCH;
      const char* const grad = shared.grad[buffer] + 16 * step * S::PITCH;
#pragma unroll
      for (int tile = 0; tile < R::TILES; ++tile) {
        const char* const of_y = shared.w1 + (first_of_warp + 16 * tile) * S::PITCH + square<true>(S::PITCH);
        const char* const of_grad = shared.w2 + 2 * (first_of_warp + 16 * tile) + square<false>(W2_PITCH);
        float h[2][4] = {}, g[2][4] = {};
#pragma unroll
        for (int of = 0; of < S::STEPS; ++of) {
          uint32_t left[4], words[4];
          load_matrices_4<false>(left, of_y + 32 * of);
          load_matrices_4<false>(words, y + 32 * of + square<false>(S::PITCH));
          multiply(h[0], left, words, h[0], T{});
          multiply(h[1], left, words + 2, h[1], T{});
          load_matrices_4<true>(left, of_grad + 16 * of * W2_PITCH);
          load_matrices_4<false>(words, grad + 32 * of + square<false>(S::PITCH));
          multiply(g[0], left, words, g[0], T{});
          multiply(g[1], left, words + 2, g[1], T{});
        }
        uint32_t hidden[4], above[4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float relu[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            relu[i] = norm[tile][i / 2].of(h[half][i]);
            if (relu[i] <= 0.f) g[half][i] = 0.f;
            sum[tile][i / 2] += g[half][i];
            with_h[tile][i / 2] = fmaf(g[half][i], h[half][i] - mean[tile][i / 2], with_h[tile][i / 2]);
          }
#pragma unroll
          for (int row = 0; row < 2; ++row) {
            hidden[2 * half + row] = packed_relu(relu[2 * row], relu[2 * row + 1], T{});
            above[2 * half + row] = packed(g[half][2 * row], g[half][2 * row + 1], T{});
          }
        }
#pragma unroll
        for (int block = 0; block < R::SUMMED / 8; block += 2) {
          uint32_t words[4];
          load_matrices_4<true>(words, grad + 2 * first_summed + 16 * block + square<true>(S::PITCH));
          multiply(of_w2[tile][block], hidden, words, of_w2[tile][block], T{});
          multiply(of_w2[tile][block + 1], hidden, words + 2, of_w2[tile][block + 1], T{});
          load_matrices_4<true>(words, y + 2 * first_summed + 16 * block + square<true>(S::PITCH));
          multiply(with_y[tile][block], above, words, with_y[tile][block], T{});
          multiply(with_y[tile][block + 1], above, words + 2, with_y[tile][block + 1], T{});
        }
      }
    }
    __syncthreads();
  }
  wait_copies<0>();

  float* const part = parameters.parts + int64_t(share) * Sums<CHANNELS>::ALL;
#pragma unroll
  for (int i = 0; i < 2 * R::TILES; ++i) {
    const int hidden = first_of_block + first_of_warp + 8 * i + q;
    float own = sum[i / 2][i % 2], own_h = with_h[i / 2][i % 2];
#pragma unroll
    for (int apart = 1; apart < 4; apart *= 2) {  // lanes that have other pixels of the same channel
      own += shuffled(own, lane ^ apart);
      own_h += shuffled(own_h, lane ^ apart);
    }
    if (t == 0 && first_summed == 0) {
      store(part + hidden, own);
      store(part + S::HIDDEN + hidden, own_h * inverse_deviation(parameters.norm.var[hidden], parameters.norm.eps));
    }
#pragma unroll
    for (int block = 0; block < R::SUMMED / 8; ++block)
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int channel = first_summed + 8 * block + 2 * t + column, of = 2 * (i % 2) + column;
        store(part + Sums<CHANNELS>::OF_W2 + channel * S::HIDDEN + hidden, of_w2[i / 2][block][of]);
        store(part + Sums<CHANNELS>::WITH_Y + hidden * CHANNELS + channel, with_y[i / 2][block][of]);
      }
  }
}

template <class T, int CHANNELS> int backward_reduce_any(const laconv_mlp_args& args, void* stream) {
  constexpr int ALL = Sums<CHANNELS>::ALL, BYTES = int(sizeof(ReduceShared<CHANNELS>));
  if (const int wrong = check(args, 16)) return wrong;
  if (const int wrong = check_shared(BYTES)) return wrong;
  const int64_t shares = shares_of<CHANNELS, ReduceShape<CHANNELS>::PARTS>(args.pixels);
  const ReduceParameters parameters{args.grad, args.y, args.w1, args.w2, norm_of(args), args.workspace, args.pixels};
  const int64_t blocks = shares * ReduceShape<CHANNELS>::PARTS;
  const int code = launch_warps(backward_reduce<T, CHANNELS>, blocks, BLOCK, BYTES, stream, parameters);
  if (code) return code;
  return launch_partial_sums({args.workspace, shares, ALL, args.totals, nullptr, ALL, 0}, stream);
}

}  // namespace wide
}  // namespace mlp
}  // namespace laconv
