/* The C interface of the kernel library: no PyTorch header, so that one build serves every version of PyTorch.
 *
 * Layouts are channels-last and dense. k = kernel_size is odd, taps are in row-major order, and filter (tap, group) of a
 * pixel stands at tap * groups + group:
 *     x, grad, the forward result and grad_x   (batch, height, width, channels)
 *     filters and grad_filters                 (batch, height, width, k * k * groups)
 * Channel ch belongs to group ch / (channels / groups), with `interleaved` to ch % groups.
 * With `padded` the filters of a pixel, and grad_filters, lie in padded rows instead:
 *     (batch, height, width, groups, k, row)   row = 4 for k = 3, 8 for k = 5 and 7: k filters, then zeros
 * for f32, f16 and bf16, groups of a multiple of four channels that are not interleaved, 2^20 channels at most, and
 * addresses at multiples of four numbers, those of filters at multiples of 16 bytes.
 *
 * Entry points, for TYPE in f32, f16, bf16, f64 and KERNEL in k3, k5, k7 (f64 has none of these) and any:
 *     int laconv_dynamic_conv_forward_TYPE_KERNEL(const laconv_conv_args*, void* stream)       x, filters -> result
 *     int laconv_dynamic_conv_grad_x_TYPE_KERNEL(const laconv_conv_args*, void* stream)        grad, filters -> result
 *     int laconv_dynamic_conv_grad_filters_TYPE_KERNEL(const laconv_conv_args*, void* stream)  grad, x -> result
 *     int laconv_dropout_TYPE(const laconv_dropout_args*, void* stream)                        in place
 *     int laconv_involution_{forward,grad_x,grad_filters}_TYPE(...)      planar layouts, f32, f16, bf16: for the bench
 *     const char* laconv_words(int code)
 * They launch on `stream` of the current device and return at once: no allocation, no waiting, so they can be captured
 * in a CUDA graph. 0 is success; any other code has its words, and then nothing was launched.
 */
#pragma once
#include <stdint.h>

#define LACONV_BAD_SIZE (-1)
#define LACONV_BAD_KERNEL_SIZE (-2)
#define LACONV_BAD_LAYOUT (-4)

#ifdef __cplusplus
extern "C" {
#endif

typedef struct laconv_conv_args {
  const void* x;       /* forward, grad_filters */
  const void* filters; /* forward, grad_x */
  const void* grad;    /* grad_x, grad_filters: gradient of the forward result */
  void* result;
  int64_t batch, height, width, channels, groups, kernel_size;
  int64_t interleaved; /* 0 or 1 */
  int64_t padded;      /* 0 or 1 */
} laconv_conv_args;

typedef struct laconv_dropout_args {
  void* values;         /* (images, elements), in place */
  int64_t images;
  int64_t elements;     /* values an image */
  int64_t first_image;  /* number of the first image in the whole batch */
  const int64_t* seed_address; /* the seed in device memory, or null: then `seed` is it */
  int64_t seed;
  double p;             /* probability of zero, in [0, 1), taken to the nearest 1/65536 */
} laconv_dropout_args;

#ifdef __cplusplus
}
#endif
