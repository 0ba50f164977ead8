// Dynamic convolution on the CPU in float32 (v2 Eq. 2).
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

template <typename Whole, template <int> class ByRows, typename Arguments>
int start(const Shape& s, const Arguments& all, Index threads) {
  if (is_whole(s)) return !run<Whole>(s, all, threads);
  if (s.width >= 8) return !run<ByRows<8>>(s, all, threads);
  if (s.width >= 4) return !run<ByRows<4>>(s, all, threads);
  return !run<ByRows<1>>(s, all, threads);
}

}  // namespace

// All return 0, or 1 where memory ran out. shape: batch, channels, height, width, kernel, groups, interleaved; strides
// of images: image, channel, row, pixel; strides of filters: image, plane.

extern "C" int laconv_cpu_forward(const Index* shape, const float* x, const Index* x_strides, const float* filters,
                                  const Index* filter_strides, float* out, const Index* out_strides, Index threads) {
  const ForwardArguments all{{x, x_strides}, {filters, filter_strides}, {out, out_strides}};
  return start<WholeForward, RowsForward>(Shape(shape), all, threads);
}

extern "C" int laconv_cpu_backward(const Index* shape, const float* grad, const Index* grad_strides, const float* x,
                                   const Index* x_strides, const float* filters, const Index* filter_strides,
                                   float* grad_x, const Index* grad_x_strides, float* grad_filters,
                                   const Index* grad_filter_strides, Index threads) {
  const BackwardArguments all{{grad, grad_strides},
                              {x, x_strides},
                              {filters, filter_strides},
                              {grad_x, grad_x_strides},
                              {grad_filters, grad_filter_strides}};
  return start<WholeBackward, RowsBackward>(Shape(shape), all, threads);
}

// Dropout; keys: one an image.
extern "C" int laconv_cpu_drop_filters(float* filters, const Index* filter_strides, Index images, Index kernel,
                                       Index groups, Index pixels, const std::uint64_t* keys, std::uint32_t threshold,
                                       float scale, Index threads) {
  const Planes<float> all(filters, filter_strides);
  return !drop_filters(all, images, kernel, groups, pixels, {keys, threshold, scale}, threads);
}

extern "C" int laconv_cpu_drop_elements(const float* from, float* to, Index images, Index elements,
                                        const std::uint64_t* keys, std::uint32_t threshold, float scale,
                                        Index threads) {
  return !drop_elements(from, to, images, elements, {keys, threshold, scale}, threads);
}

// Hands over the process's own OpenMP runtime: its GOMP_parallel, or null.
extern "C" void laconv_cpu_use(Parallel found) { parallel = found; }
