// The gradient of y, walked as the forward pass: hidden channels and their gradients are made again, 16 at a time.
#pragma once
#include "wide_forward.cuh"

namespace laconv {
namespace mlp {
namespace wide {

struct ApplyParameters {
  const void *grad, *y, *w1, *w2, *beside;
  void* result;
  Norm norm;
  const float *sums, *count;
  int64_t pixels;
};

template <int CHANNELS> struct ApplyShared {
  using S = Shape<CHANNELS>;
  Gradient gradient[S::HIDDEN];
  alignas(16) char y[PIXELS * S::PITCH];
  alignas(16) char grad[PIXELS * S::PITCH];
  alignas(16) char slabs[2][S::SLAB_BYTES];
};

template <class T, int CHANNELS>
__global__ void __launch_bounds__(BLOCK, 1) backward_apply(const ApplyParameters parameters) {
  using S = Shape<CHANNELS>;
  auto& shared = *reinterpret_cast<ApplyShared<CHANNELS>*>(shared_memory());
  const int warp = int(threadIdx.x) / LANES, t = int(threadIdx.x) % 4;
  const int64_t first = int64_t(blockIdx.x) * PIXELS, there = parameters.pixels - first;
  const int64_t place = first * CHANNELS;
  copy_rows<PIXELS, CHANNELS, CHANNELS>(shared.y, static_cast<const T*>(parameters.y) + place, there);
  copy_rows<PIXELS, CHANNELS, CHANNELS>(shared.grad, static_cast<const T*>(parameters.grad) + place, there);
  copy_slab<CHANNELS, T>(shared.slabs[0], parameters.w1, parameters.w2, 0);
  for (int channel = int(threadIdx.x); channel < S::HIDDEN; channel += BLOCK)
    shared.gradient[channel].read(parameters.norm, parameters.sums, *parameters.count, S::HIDDEN, channel);
  wait_copies<0>();
  __syncthreads();

  char* const own = shared.y + 16 * warp * S::PITCH;
  const Rows16<CHANNELS> y(own), grad(shared.grad + 16 * warp * S::PITCH);
  float result[CHANNELS / 8][4] = {};
#pragma unroll 1
  for (int slab = 0; slab < S::HIDDEN / SLAB; ++slab) {
    copy_slab<CHANNELS, T>(shared.slabs[(slab + 1) % 2], parameters.w1, parameters.w2, slab + 1);
    const char* const w1 = shared.slabs[slab % 2];
    const char* const w2 = w1 + SLAB * S::PITCH;
#pragma unroll(Rows16<CHANNELS>::HELD ? SLAB / 16 : 1)
    for (int step = 0; step < SLAB / 16; ++step) {
      uint32_t below[4];
      float h[2][4] = {}, g[2][4] = {};
      const char* const of_w1 = w1 + 16 * step * S::PITCH + square<false>(S::PITCH);
      const char* const of_w2 = w2 + 32 * step + square<true>(S::SLAB_PITCH);
      y.multiply_by(h, [&](uint32_t* words, int of) { load_matrices_4<false>(words, of_w1 + 32 * of); }, T{});
      grad.multiply_by(
          g, [&](uint32_t* words, int of) { load_matrices_4<true>(words, of_w2 + 16 * of * S::SLAB_PITCH); }, T{});
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Gradient* const gradient = shared.gradient + SLAB * slab + 16 * step + 8 * half + 2 * t;
        const Floats4 first_of = load<Floats4>(gradient), second_of = load<Floats4>(gradient + 1);
        const auto of = [](const Floats4& f) { return Gradient{{f.number[0], f.number[1]}, f.number[2], f.number[3]}; };
        const Gradient one = of(first_of), two = of(second_of);
        below[2 * half] = packed(one.of(h[half][0], g[half][0]), two.of(h[half][1], g[half][1]), T{});
        below[2 * half + 1] = packed(one.of(h[half][2], g[half][2]), two.of(h[half][3], g[half][3]), T{});
      }
#pragma unroll
      for (int block = 0; block < CHANNELS / 8; block += 2) {
        uint32_t words[4];
        load_matrices_4<true>(words, w1 + 16 * step * S::PITCH + 16 * block + square<true>(S::PITCH));
        multiply(result[block], below, words, result[block], T{});
        multiply(result[block + 1], below, words + 2, result[block + 1], T{});
      }
    }
    wait_copies<0>();
    __syncthreads();
  }
  store_pixels<CHANNELS, T>(parameters.result, own, first + 16 * warp, parameters.pixels, result, parameters.beside);
}

template <class T, int CHANNELS> int backward_apply_any(const laconv_mlp_args& args, void* stream) {
  constexpr int BYTES = int(sizeof(ApplyShared<CHANNELS>));
  if (const int wrong = check(args, 16)) return wrong;
  if (const int wrong = check_shared(BYTES)) return wrong;
  const ApplyParameters parameters{args.grad,   args.y,        args.w1,   args.w2,    args.beside,
                                   args.result, norm_of(args), args.sums, args.count, args.pixels};
  return launch_warps(backward_apply<T, CHANNELS>, divided_up(args.pixels, PIXELS), BLOCK, BYTES, stream, parameters);
}

}  // namespace wide
}  // namespace mlp
}  // namespace laconv
