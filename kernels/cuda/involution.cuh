// The dynamic convolution as the kernels of involution (Li et al. 2021) and SAN (Zhao et al. 2020) are written, which the
// paper's authors used: a thread for each number of a result, planar memory, one number a load, nothing shared. It is
// what the others are measured against; the operator never takes it. Sums are in float here, and sizes in 64 bits.
#pragma once
#include "strips.cuh"

namespace laconv {

struct InvolutionParameters {
  const void* source;   // x or grad
  const void* factors;  // the filters; x for their gradient
  void* result;
  Shape shape;
  int64_t items;  // numbers of the result
};

struct Place {
  int64_t image;
  int plane, y, x;
};

__device__ __forceinline__ Place place_at(int64_t item, int planes, const Shape& shape) {
  const uint64_t row = uint64_t(item) / unsigned(shape.width);
  const uint64_t plane = row / unsigned(shape.height);
  const uint64_t image = plane / unsigned(planes);
  return {int64_t(image), int(plane - image * planes), int(row - plane * shape.height),
          int(uint64_t(item) - row * shape.width)};
}

__device__ __forceinline__ bool inside(int y, int x, const Shape& shape) {
  return y >= 0 && y < shape.height && x >= 0 && x < shape.width;
}

// SIGN 1: forward, from x and the filters of the own pixel. SIGN -1: the gradient of x, from grad and the filters of the
// pixel on the other side. K is the kernel size, or 0: known only when it runs.
template <class T, int K, int SIGN>
__global__ void __launch_bounds__(THREADS) involution(const InvolutionParameters parameters) {
  const Shape& shape = parameters.shape;
  const int k = K ? K : shape.kernel_size;
  const int reach = k / 2;
  const int64_t pixels = int64_t(shape.height) * shape.width;
  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.items;
       item += int64_t(gridDim.x) * THREADS) {
    const Place at = place_at(item, shape.channels, shape);
    const int group = shape.interleaved ? at.plane % shape.groups : at.plane / shape.channels_a_group();
    const T* const source =
        static_cast<const T*>(parameters.source) + (at.image * shape.channels + at.plane) * pixels;
    const T* const filters =
        static_cast<const T*>(parameters.factors) + (at.image * shape.filters_a_pixel() + group) * pixels;
    const int own = at.y * shape.width + at.x;
    Wide<T> sum = 0;
#pragma unroll(K ? K : 1)
    for (int row = 0; row < k; ++row) {
#pragma unroll(K ? K : 1)
      for (int column = 0; column < k; ++column) {
        const int y = at.y + SIGN * (row - reach), x = at.x + SIGN * (column - reach);
        if (!inside(y, x, shape)) continue;
        const int neighbour = y * shape.width + x;
        const int64_t plane = int64_t(row * k + column) * shape.groups;
        sum += widen(load_constant<T>(source + neighbour)) *
               widen(load_constant<T>(filters + plane * pixels + (SIGN > 0 ? own : neighbour)));
      }
    }
    static_cast<T*>(parameters.result)[item] = narrowed<T>(sum);
  }
}

template <class T> __global__ void __launch_bounds__(THREADS) involution_filters(const InvolutionParameters parameters) {
  const Shape& shape = parameters.shape;
  const int reach = shape.kernel_size / 2;
  const int64_t pixels = int64_t(shape.height) * shape.width;
  const int members = shape.channels_a_group();
  const int64_t stride = (shape.interleaved ? shape.groups : 1) * pixels;  // from a channel of the group to the next
  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.items;
       item += int64_t(gridDim.x) * THREADS) {
    const Place at = place_at(item, shape.filters_a_pixel(), shape);
    const int tap = at.plane / shape.groups, group = at.plane % shape.groups;
    const int y = at.y + tap / shape.kernel_size - reach, x = at.x + tap % shape.kernel_size - reach;
    Wide<T> sum = 0;
    if (inside(y, x, shape)) {
      const int channel = shape.interleaved ? group : group * members;
      const int64_t first = (at.image * shape.channels + channel) * pixels;
      const T* grad = static_cast<const T*>(parameters.source) + first + at.y * shape.width + at.x;
      const T* source = static_cast<const T*>(parameters.factors) + first + y * shape.width + x;
      for (int member = 0; member < members; ++member, grad += stride, source += stride)
        sum += widen(load_constant<T>(grad)) * widen(load_constant<T>(source));
    }
    static_cast<T*>(parameters.result)[item] = narrowed<T>(sum);
  }
}

// A plane's offsets are 32-bit numbers.
inline int involution_shape(const laconv_conv_args& args, Shape& shape) {
  const int wrong = shape_of(args, shape);
  return wrong ? wrong : args.height && args.width > 0x7fffffff / args.height ? LACONV_BAD_SIZE : 0;
}

template <class T, int SIGN> int involution_any(const void* source, const laconv_conv_args& args, void* stream) {
  InvolutionParameters parameters{source, args.filters, args.result, {}, 0};
  const int wrong = involution_shape(args, parameters.shape);
  if (wrong) return wrong;
  parameters.items = parameters.shape.pixels() * args.channels;
  const auto kernel = args.kernel_size == 3   ? involution<T, 3, SIGN>
                      : args.kernel_size == 5 ? involution<T, 5, SIGN>
                      : args.kernel_size == 7 ? involution<T, 7, SIGN>
                                              : involution<T, 0, SIGN>;
  return launch(kernel, divided_up(parameters.items, THREADS), 0, stream, parameters);
}

template <class T> int involution_filters_any(const laconv_conv_args& args, void* stream) {
  InvolutionParameters parameters{args.grad, args.x, args.result, {}, 0};
  const int wrong = involution_shape(args, parameters.shape);
  if (wrong) return wrong;
  parameters.items = parameters.shape.pixels() * parameters.shape.filters_a_pixel();
  return launch(involution_filters<T>, divided_up(parameters.items, THREADS), 0, stream, parameters);
}

}  // namespace laconv
