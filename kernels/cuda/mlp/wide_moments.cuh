// The sums of y and of y y^T: a warp owns 16 rows of the products, and all blocks' sums are added up in a fixed order.
#pragma once
#include "wide.cuh"

namespace laconv {
namespace mlp {
namespace wide {

constexpr int ROWS = 64;               // pixels on their way at a time
constexpr int64_t MOST_SHARES = 132;   // of the pixels: blocks, one for each processor of the chip this was planned for

// Blocks that share the pixels, `shares` at most.
inline int64_t shares_of(int64_t pixels, int64_t shares) {
  const int64_t all = divided_up(pixels, ROWS);
  return all < shares ? all : shares;
}

struct MomentsParameters {
  const void* y;
  float* parts;  // (blocks, MOMENTS)
  int64_t pixels;
};

template <int CHANNELS> struct MomentsShared {
  alignas(16) char y[2][ROWS * Shape<CHANNELS>::PITCH];
};

template <class T, int CHANNELS>
__global__ void __launch_bounds__(BLOCK) moments(const MomentsParameters parameters) {
  using S = Shape<CHANNELS>;
  auto& shared = *reinterpret_cast<MomentsShared<CHANNELS>*>(shared_memory());
  const int warp = int(threadIdx.x) / LANES, q = int(threadIdx.x) % LANES / 4, t = int(threadIdx.x) % 4;
  const int64_t stride = int64_t(gridDim.x) * ROWS;
  const uint32_t one = packed(1.f, 1.f, T{}), ones[4] = {one, one, one, one};
  float products[CHANNELS / 8][4] = {}, sums[2][4] = {};
  const auto ask = [&](int buffer, int64_t first) {
    const T* const rows = static_cast<const T*>(parameters.y) + first * CHANNELS;
    copy_rows<ROWS, CHANNELS, CHANNELS>(shared.y[buffer], rows, parameters.pixels - first);
    end_group_of_copies();
  };
  int buffer = 0;
  ask(buffer, int64_t(blockIdx.x) * ROWS);
  for (int64_t first = int64_t(blockIdx.x) * ROWS; first < parameters.pixels; first += stride, buffer ^= 1) {
    ask(buffer ^ 1, first + stride);
    wait_copies<1>();
    __syncthreads();
    if (16 * warp < CHANNELS) {
#pragma unroll
      for (int step = 0; step < ROWS / 16; ++step) {
        const char* const rows = shared.y[buffer] + 16 * step * S::PITCH;
        uint32_t left[4];
        load_matrices_4<true>(left, rows + 32 * warp + square<false>(S::PITCH));
#pragma unroll
        for (int block = 0; block < CHANNELS / 8; block += 2) {
          uint32_t words[4];
          load_matrices_4<true>(words, rows + 16 * block + square<true>(S::PITCH));
          multiply(products[block], left, words, products[block], T{});
          multiply(products[block + 1], left, words + 2, products[block + 1], T{});
        }
        const uint32_t own[4] = {left[0], left[2], left[1], left[3]};
        multiply(sums[0], ones, own, sums[0], T{});
        multiply(sums[1], ones, own + 2, sums[1], T{});
      }
    }
    __syncthreads();
  }
  wait_copies<0>();
  float* const part = parameters.parts + int64_t(blockIdx.x) * Sums<CHANNELS>::MOMENTS;
  if (16 * warp >= CHANNELS) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int block = 0; block < CHANNELS / 8; ++block)
      store(part + (16 * warp + q + 8 * (i / 2)) * CHANNELS + 8 * block + 2 * t + i % 2, products[block][i]);
    if (q == 0 && i < 2) {
      store(part + CHANNELS * CHANNELS + 16 * warp + 2 * t + i, sums[0][i]);
      store(part + CHANNELS * CHANNELS + 16 * warp + 8 + 2 * t + i, sums[1][i]);
    }
  }
}

template <class T, int CHANNELS> int moments_any(const laconv_mlp_args& args, void* stream) {
  constexpr int MOMENTS = Sums<CHANNELS>::MOMENTS, BYTES = int(sizeof(MomentsShared<CHANNELS>));
  const int64_t blocks = shares_of(args.pixels, MOST_SHARES);
  const MomentsParameters parameters{args.y, args.workspace, args.pixels};
  const int code = launch_warps(moments<T, CHANNELS>, blocks, BLOCK, BYTES, stream, parameters);
  if (code) return code;
  return launch_partial_sums({args.workspace, blocks, MOMENTS, args.totals, nullptr, MOMENTS, 0}, stream);
}

}  // namespace wide
}  // namespace mlp
}  // namespace laconv
