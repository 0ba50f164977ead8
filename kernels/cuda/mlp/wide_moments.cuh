// The sums of y and of y y^T: a warp owns 16 rows of the products, PARTS blocks all of them. Blocks' sums are added up in
// a fixed order.
#pragma once
#include "wide.cuh"

namespace laconv {
namespace mlp {
namespace wide {

constexpr int64_t MOST_BLOCKS = 132;  // one for each processor of the chip this was planned for

template <int CHANNELS> constexpr int ROWS = CHANNELS <= 128 ? 64 : 32;  // pixels on their way at a time

// Into how many shares the pixels go, PARTS blocks to each.
template <int CHANNELS, int PARTS> int64_t shares_of(int64_t pixels) {
  const int64_t all = divided_up(pixels, ROWS<CHANNELS>);
  return all < MOST_BLOCKS / PARTS ? all : MOST_BLOCKS / PARTS;
}
template <int CHANNELS> constexpr int MOMENT_PARTS = CHANNELS <= 16 * WARPS ? 1 : CHANNELS / (16 * WARPS);

struct MomentsParameters {
  const void* y;
  float* parts;  // (shares, MOMENTS)
  int64_t pixels;
};

template <int CHANNELS> struct MomentsShared {
  alignas(16) char y[2][ROWS<CHANNELS> * Shape<CHANNELS>::PITCH];
};

template <class T, int CHANNELS>
__global__ void __launch_bounds__(BLOCK) moments(const MomentsParameters parameters) {
  using S = Shape<CHANNELS>;
  constexpr int PARTS = MOMENT_PARTS<CHANNELS>, PIXELS = ROWS<CHANNELS>;
  auto& shared = *reinterpret_cast<MomentsShared<CHANNELS>*>(shared_memory());
  const int q = int(threadIdx.x) % LANES / 4, t = int(threadIdx.x) % 4, share = int(blockIdx.x) / PARTS;
  const int of_warp = 16 * (int(blockIdx.x) % PARTS * WARPS + int(threadIdx.x) / LANES);
  const int64_t begin = int64_t(share) * PIXELS, stride = int64_t(gridDim.x) / PARTS * PIXELS;
  const uint32_t one = packed(1.f, 1.f, T{}), ones[4] = {one, one, one, one};
  float products[CHANNELS / 8][4] = {}, sums[2][4] = {};
  const auto ask = [&](int buffer, int64_t first) {
    const T* const rows = static_cast<const T*>(parameters.y) + first * CHANNELS;
    copy_rows<PIXELS, CHANNELS, CHANNELS>(shared.y[buffer], rows, parameters.pixels - first);
    end_group_of_copies();
  };
  int buffer = 0;
  ask(buffer, begin);
  for (int64_t first = begin; first < parameters.pixels; first += stride, buffer ^= 1) {
    ask(buffer ^ 1, first + stride);
    wait_copies<1>();
    __syncthreads();
    if (of_warp < CHANNELS) {
#pragma unroll
      for (int step = 0; step < PIXELS / 16; ++step) {
        const char* const rows = shared.y[buffer] + 16 * step * S::PITCH;
        uint32_t left[4];
        load_matrices_4<true>(left, rows + 2 * of_warp + square<false>(S::PITCH));
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
  float* const part = parameters.parts + int64_t(share) * Sums<CHANNELS>::MOMENTS;
  if (of_warp >= CHANNELS) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int block = 0; block < CHANNELS / 8; ++block)
      store(part + (of_warp + q + 8 * (i / 2)) * CHANNELS + 8 * block + 2 * t + i % 2, products[block][i]);
    if (q == 0 && i < 2) {
      store(part + CHANNELS * CHANNELS + of_warp + 2 * t + i, sums[0][i]);
      store(part + CHANNELS * CHANNELS + of_warp + 8 + 2 * t + i, sums[1][i]);
    }
  }
}

template <class T, int CHANNELS> int moments_any(const laconv_mlp_args& args, void* stream) {
  constexpr int MOMENTS = Sums<CHANNELS>::MOMENTS, BYTES = int(sizeof(MomentsShared<CHANNELS>));
  constexpr int PARTS = MOMENT_PARTS<CHANNELS>;
  if (const int wrong = check(args, 16)) return wrong;
  if (const int wrong = check_shared(BYTES)) return wrong;
  const int64_t shares = shares_of<CHANNELS, PARTS>(args.pixels);
  const MomentsParameters parameters{args.y, args.workspace, args.pixels};
  const int code = launch_warps(moments<T, CHANNELS>, shares * PARTS, BLOCK, BYTES, stream, parameters);
  if (code) return code;
  return launch_partial_sums({args.workspace, shares, MOMENTS, args.totals, nullptr, MOMENTS, 0}, stream);
}

}  // namespace wide
}  // namespace mlp
}  // namespace laconv
