// relu(BN(y W1^T)) W2^T: a block takes 128 pixels, a warp 16 of them, and goes through the hidden channels slab by slab.
// What comes out of the first product is, 16 hidden channels at a time, the left operand of the second.
#pragma once
#include "wide.cuh"

namespace laconv {
namespace mlp {
namespace wide {

constexpr int PIXELS = 16 * WARPS;  // of a block

struct ForwardParameters {
  const void *y, *w1, *w2;
  void* result;
  Norm norm;
  int64_t pixels;
};

template <int CHANNELS> struct ForwardShared {
  using S = Shape<CHANNELS>;
  Affine norm[S::HIDDEN];
  alignas(16) char y[PIXELS * S::PITCH];
  alignas(16) char slabs[2][S::SLAB_BYTES];
};

template <class T, int CHANNELS>
__global__ void __launch_bounds__(BLOCK, CHANNELS == 64 ? 2 : 1) forward(const ForwardParameters parameters) {
  using S = Shape<CHANNELS>;
  auto& shared = *reinterpret_cast<ForwardShared<CHANNELS>*>(shared_memory());
  const int warp = int(threadIdx.x) / LANES, t = int(threadIdx.x) % 4;
  const int64_t first = int64_t(blockIdx.x) * PIXELS;
  const T* const y = static_cast<const T*>(parameters.y) + first * CHANNELS;
  copy_rows<PIXELS, CHANNELS, CHANNELS>(shared.y, y, parameters.pixels - first);
  copy_slab<CHANNELS, T>(shared.slabs[0], parameters.w1, parameters.w2, 0);
  for (int channel = int(threadIdx.x); channel < S::HIDDEN; channel += BLOCK)
    shared.norm[channel].read(parameters.norm, channel);
  wait_copies<0>();
  __syncthreads();

  char* const own = shared.y + 16 * warp * S::PITCH;
  const Rows16<CHANNELS> rows(own);
  float result[CHANNELS / 8][4] = {};
#pragma unroll 1
  for (int slab = 0; slab < S::HIDDEN / SLAB; ++slab) {
    copy_slab<CHANNELS, T>(shared.slabs[(slab + 1) % 2], parameters.w1, parameters.w2, slab + 1);
    const char* const w1 = shared.slabs[slab % 2];
    const char* const w2 = w1 + SLAB * S::PITCH;
#pragma unroll
    for (int step = 0; step < SLAB / 16; ++step) {
      uint32_t hidden[4];
      float numbers[2][4] = {};
      const char* const of_w1 = w1 + 16 * step * S::PITCH + square<false>(S::PITCH);
      rows.multiply_by(numbers, [&](uint32_t* words, int of) { load_matrices_4<false>(words, of_w1 + 32 * of); }, T{});
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Affine* const norm = shared.norm + SLAB * slab + 16 * step + 8 * half + 2 * t;
        const Floats4 both = load<Floats4>(norm);  // scale and shift of two channels
        const Affine one{both.number[0], both.number[1]}, two{both.number[2], both.number[3]};
        hidden[2 * half] = packed_relu(one.of(numbers[half][0]), two.of(numbers[half][1]), T{});
        hidden[2 * half + 1] = packed_relu(one.of(numbers[half][2]), two.of(numbers[half][3]), T{});
      }
#pragma unroll
      for (int block = 0; block < CHANNELS / 8; block += 2) {
        uint32_t words[4];
        load_matrices_4<false>(words, w2 + 8 * block * S::SLAB_PITCH + 32 * step + square<false>(S::SLAB_PITCH));
        multiply(result[block], hidden, words, result[block], T{});
        multiply(result[block + 1], hidden, words + 2, result[block + 1], T{});
      }
    }
    wait_copies<0>();
    __syncthreads();
  }
  store_pixels<CHANNELS, T>(parameters.result, own, first + 16 * warp, parameters.pixels, result);
}

template <class T, int CHANNELS> int forward_any(const laconv_mlp_args& args, void* stream) {
  constexpr int BYTES = int(sizeof(ForwardShared<CHANNELS>));
  if (const int wrong = check(args, 16)) return wrong;
  if (const int wrong = check_shared(BYTES)) return wrong;
  const ForwardParameters parameters{args.y, args.w1, args.w2, args.result, norm_of(args), args.pixels};
  return launch_warps(forward<T, CHANNELS>, divided_up(args.pixels, PIXELS), BLOCK, BYTES, stream, parameters);
}

}  // namespace wide
}  // namespace mlp
}  // namespace laconv
