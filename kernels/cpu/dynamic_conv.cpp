// Dynamic convolution on the CPU (v2 Eq. 2), summed in float32.
//
//   out[ch, p]              = sum_t  filters[t, group(ch), p] * x[ch, p + t]
//   grad_x[ch, q]           = sum_t  filters[t, group(ch), q - t] * grad[ch, q - t]
//   grad_filters[t, gr, p]  = sum_{ch of gr}  grad[ch, p] * x[ch, p + t]
//
// Every number is computed by one task in one order: results do not depend on the number of threads. No header of
// PyTorch is used.

#include "dropout.h"
#include "rows.h"
#include "team.h"
#include "whole.h"

using namespace laconv;

namespace {

template <typename Whole, template <typename, int> class ByRows, typename Arguments>
int start(const Shape& s, const Arguments& all, Index threads) {
  using T = typename Arguments::Number;
  if (is_whole(s)) return !run<Whole>(s, all, threads);
  if (s.width >= kWidest) return !run<ByRows<T, kWidest>>(s, all, threads);
  if (s.width >= 8) return !run<ByRows<T, 8>>(s, all, threads);
  if (s.width >= 4) return !run<ByRows<T, 4>>(s, all, threads);
  return !run<ByRows<T, 1>>(s, all, threads);
}

template <typename T>
Images<const T> images(const void* data, const Index* strides) {
  return {static_cast<const T*>(data), strides};
}

template <typename T>
Images<T> images(void* data, const Index* strides) {
  return {static_cast<T*>(data), strides};
}

template <typename T>
Planes<const T> planes(const void* data, const Index* strides) {
  return {static_cast<const T*>(data), strides};
}

template <typename T>
Planes<T> planes(void* data, const Index* strides) {
  return {static_cast<T*>(data), strides};
}

// Calls work with a number of the type that is meant.
template <typename Work>
int with_type(Index type, Work work) {
  return type ? work(Bfloat16()) : work(float());
}

}  // namespace

// All return 0, or 1 where memory ran out. shape: batch, channels, height, width, kernel, groups, interleaved; type of
// all numbers: 0 float32, 1 bfloat16; strides of images: image, channel, row, pixel; strides of filters: image, plane.

extern "C" int laconv_cpu_forward(const Index* shape, Index type, const void* x, const Index* x_strides,
                                  const void* filters, const Index* filter_strides, void* out,
                                  const Index* out_strides, Index threads) {
  return with_type(type, [&](auto number) {
    using T = decltype(number);
    const ForwardArguments<T> all{
        images<T>(x, x_strides), planes<T>(filters, filter_strides), images<T>(out, out_strides)};
    return start<WholeForward<T>, RowsForward>(Shape(shape), all, threads);
  });
}

extern "C" int laconv_cpu_backward(const Index* shape, Index type, const void* grad, const Index* grad_strides,
                                   const void* x, const Index* x_strides, const void* filters,
                                   const Index* filter_strides, void* grad_x, const Index* grad_x_strides,
                                   void* grad_filters, const Index* grad_filter_strides, Index threads) {
  return with_type(type, [&](auto number) {
    using T = decltype(number);
    const BackwardArguments<T> all{images<T>(grad, grad_strides), images<T>(x, x_strides),
                                   planes<T>(filters, filter_strides), images<T>(grad_x, grad_x_strides),
                                   planes<T>(grad_filters, grad_filter_strides)};
    return start<WholeBackward<T>, RowsBackward>(Shape(shape), all, threads);
  });
}

// Dropout; keys: one an image.
extern "C" int laconv_cpu_drop_filters(Index type, void* filters, const Index* filter_strides, Index images,
                                       Index kernel, Index groups, Index pixels, const std::uint64_t* keys,
                                       std::uint32_t threshold, float scale, Index threads) {
  return with_type(type, [&](auto number) {
    const auto all = planes<decltype(number)>(filters, filter_strides);
    return !drop_filters(all, images, kernel, groups, pixels, {keys, threshold, scale}, threads);
  });
}

extern "C" int laconv_cpu_drop_elements(const float* from, float* to, Index images, Index elements,
                                        const std::uint64_t* keys, std::uint32_t threshold, float scale,
                                        Index threads) {
  return !drop_elements(from, to, images, elements, {keys, threshold, scale}, threads);
}

// Hands over the process's own OpenMP runtime: its GOMP_parallel, or null.
extern "C" void laconv_cpu_use(Parallel found) { parallel = found; }
