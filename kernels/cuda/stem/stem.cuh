// The stem (stem.h), a thread to a pixel of the result. Nothing is kept but the image: the backward pass finds out anew
// which of the four pixels each channel took.
#pragma once
#include "../fused/partial_sums.cuh"
#include "../fused/warp.cuh"
#include "stem.h"

namespace laconv {
namespace stem {

constexpr int COLOURS = 3, CHANNELS = 16, PIXELS = 4, SUMS = (COLOURS + 1) * CHANNELS;

struct Parameters {
  const void *image, *weight, *bias, *grad;
  void* result;
  float* parts;  // (blocks, SUMS)
  int64_t pixels;
  unsigned width;  // of the result
};

template <class T> __device__ __forceinline__ float rounded(float number) { return widen(narrowed<T>(number)); }

// What four pixels a pixel of the result is made of, by row.
template <class T, class S> struct Colours {
  float of[PIXELS][COLOURS];

  __device__ __forceinline__ void load(const Parameters& parameters, int64_t pixel) {
    const int64_t row = int64_t(uint64_t(pixel) / parameters.width);
    const int64_t first = 2 * (2 * row * parameters.width + (pixel - row * parameters.width));
    const S* const upper = static_cast<const S*>(parameters.image) + first * COLOURS;
#pragma unroll
    for (int i = 0; i < PIXELS * COLOURS; i += 2) {
      const int64_t below = i < 2 * COLOURS ? 0 : 2 * int64_t(parameters.width) * COLOURS - 2 * COLOURS;
      const auto two = load_constant<Vector<S, 2>>(upper + below + i);
      of[i / COLOURS][i % COLOURS] = rounded<T>(widen(two.number[0]));
      of[(i + 1) / COLOURS][(i + 1) % COLOURS] = rounded<T>(widen(two.number[1]));
    }
  }
};

// The weight and the bias, as numbers of T.
template <class T> struct Matrix {
  float weight[CHANNELS][COLOURS], bias[CHANNELS];

  __device__ __forceinline__ void load(const Parameters& parameters) {
#pragma unroll
    for (int channel = 0; channel < CHANNELS; ++channel) {
      bias[channel] = widen(load_constant<T>(static_cast<const T*>(parameters.bias) + channel));
#pragma unroll
      for (int colour = 0; colour < COLOURS; ++colour)
        weight[channel][colour] =
            widen(load_constant<T>(static_cast<const T*>(parameters.weight) + channel * COLOURS + colour));
    }
  }
  __device__ __forceinline__ float of(int channel, const float (&colours)[COLOURS]) const {
    float sum = bias[channel];
#pragma unroll
    for (int colour = 0; colour < COLOURS; ++colour) sum = fmaf(weight[channel][colour], colours[colour], sum);
    return rounded<T>(sum);
  }
};

// Whether a number takes the place of the largest so far: NaN does, and stays.
__device__ __forceinline__ bool takes_over(float number, float largest) {
  return !(number <= largest) && !(largest != largest);
}

template <class T, class S> __global__ void __launch_bounds__(THREADS, 4) forward(const Parameters parameters) {
  Matrix<T> matrix;
  matrix.load(parameters);
  const int64_t stride = int64_t(gridDim.x) * THREADS;
  for (int64_t pixel = int64_t(blockIdx.x) * THREADS + threadIdx.x; pixel < parameters.pixels; pixel += stride) {
    Colours<T, S> colours;
    colours.load(parameters, pixel);
    T* const result = static_cast<T*>(parameters.result) + pixel * CHANNELS;
#pragma unroll
    for (int first = 0; first < CHANNELS; first += 8) {
      float numbers[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        numbers[i] = matrix.of(first + i, colours.of[0]);
#pragma unroll
        for (int p = 1; p < PIXELS; ++p) {
          const float other = matrix.of(first + i, colours.of[p]);
          if (takes_over(other, numbers[i])) numbers[i] = other;
        }
      }
      Packed<T, 8> eight;
      eight.narrow_from(numbers);
      store(result + first, eight);
    }
  }
}

template <class T, class S> __global__ void __launch_bounds__(THREADS, 2) backward(const Parameters parameters) {
  Matrix<T> matrix;
  matrix.load(parameters);
  float sums[COLOURS + 1][CHANNELS] = {};
  const int64_t stride = int64_t(gridDim.x) * THREADS;
  for (int64_t pixel = int64_t(blockIdx.x) * THREADS + threadIdx.x; pixel < parameters.pixels; pixel += stride) {
    Colours<T, S> colours;
    colours.load(parameters, pixel);
    const T* const grad = static_cast<const T*>(parameters.grad) + pixel * CHANNELS;
#pragma unroll
    for (int first = 0; first < CHANNELS; first += 8) {
      float above[8];
      load_constant<Packed<T, 8>>(grad + first).widen_to(above);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float largest = matrix.of(first + i, colours.of[0]);
        float taken[COLOURS] = {colours.of[0][0], colours.of[0][1], colours.of[0][2]};
#pragma unroll
        for (int p = 1; p < PIXELS; ++p) {
          const float other = matrix.of(first + i, colours.of[p]);
          if (!takes_over(other, largest)) continue;
          largest = other;
#pragma unroll
          for (int colour = 0; colour < COLOURS; ++colour) taken[colour] = colours.of[p][colour];
        }
#pragma unroll
        for (int colour = 0; colour < COLOURS; ++colour)
          sums[colour][first + i] = fmaf(above[i], taken[colour], sums[colour][first + i]);
        sums[COLOURS][first + i] += above[i];
      }
    }
  }
  // Over the lanes of a warp, then over the warps of the block.
  float* const shared = reinterpret_cast<float*>(shared_memory());  // (warps, SUMS)
  const int lane = int(threadIdx.x) % LANES;
#pragma unroll
  for (int i = 0; i < SUMS; ++i) {
    float sum = sums[i / CHANNELS][i % CHANNELS];
#pragma unroll
    for (int apart = 1; apart < LANES; apart *= 2) sum += shuffled(sum, lane ^ apart);
    if (lane == 0) shared[int(threadIdx.x) / LANES * SUMS + i] = sum;
  }
  __syncthreads();
  if (int(threadIdx.x) < SUMS) {
    float sum = 0;
    for (int warp = 0; warp < THREADS / LANES; ++warp) sum += shared[warp * SUMS + threadIdx.x];
    store(parameters.parts + int64_t(blockIdx.x) * SUMS + threadIdx.x, sum);
  }
}

inline int check(const laconv_stem_args& args, int numbers_of_image) {
  constexpr int64_t MOST = 1 << 30;
  for (const int64_t side : {args.batch, args.height, args.width})
    if (side < 0 || side > MOST) return LACONV_BAD_SIZE;
  if (args.height && args.width && args.batch > INT64_MAX / 64 / args.height / args.width) return LACONV_BAD_SIZE;
  const bool lie_well = aligned(args.image, 2 * numbers_of_image) && aligned(args.result, 16) && aligned(args.grad, 16);
  return lie_well ? 0 : LACONV_NO_FUSED_KERNEL;
}

inline Parameters parameters_of(const laconv_stem_args& args) {
  const int64_t pixels = args.batch * args.height * args.width;
  return {args.image, args.weight, args.bias, args.grad, args.result, args.workspace, pixels, unsigned(args.width)};
}

template <class T, class S> int forward_any(const laconv_stem_args& args, void* stream) {
  if (const int wrong = check(args, int(sizeof(S)))) return wrong;
  const Parameters parameters = parameters_of(args);
  constexpr int64_t MOST_BLOCKS = 4 * MOST_PARTS;  // the matrix is loaded once a block
  const int64_t all = divided_up(parameters.pixels, THREADS);
  return launch(forward<T, S>, all < MOST_BLOCKS ? all : MOST_BLOCKS, 0, stream, parameters);
}

template <class T, class S> int backward_any(const laconv_stem_args& args, void* stream) {
  if (const int wrong = check(args, int(sizeof(S)))) return wrong;
  const Parameters parameters = parameters_of(args);
  const int64_t all = divided_up(parameters.pixels, THREADS), blocks = all < MOST_PARTS ? all : MOST_PARTS;
  constexpr int BYTES = THREADS / LANES * SUMS * int(sizeof(float));
  const int code = launch_warps(backward<T, S>, blocks, THREADS, BYTES, stream, parameters);
  if (code) return code;
  return launch_partial_sums({args.workspace, blocks, SUMS, args.totals, nullptr, SUMS, 0}, stream);
}

}  // namespace stem
}  // namespace laconv
