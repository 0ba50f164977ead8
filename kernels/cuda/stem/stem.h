/* The C interface of the stem, a 1x1 convolution of the image and the maximum of 2 x 2 pixels; how entry points are
 * called: laconv.h.
 *
 *     result[y, x] = max over the four pixels p of (2y, 2x) to (2y+1, 2x+1) of weight image[p] + bias
 * Everything is channels-last: the image has 3 channels, the result 16. Image, weight and bias count as rounded to TYPE,
 * and so do the four numbers that are compared; of equal ones the first is taken, as PyTorch does. Entry points, for TYPE
 * in f16, bf16 and SOURCE, the type that the image has, in f32 and TYPE:
 *     int laconv_stem_forward_TYPE_SOURCE(const laconv_stem_args*, void* stream)    image weight bias -> result
 *     int laconv_stem_backward_TYPE_SOURCE(const laconv_stem_args*, void* stream)   grad image weight bias -> totals
 * Sums are made in an order that depends on the sizes alone: the same bits on every run and every device.
 */
#pragma once
#include "../laconv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct laconv_stem_args {
  const void* image;   /* (batch, 2 height, 2 width, 3), at a multiple of two of its numbers */
  const void* weight;  /* (16, 3) of TYPE */
  const void* bias;    /* (16) of TYPE */
  const void* grad;    /* backward: gradient of the result, as that */
  void* result;        /* forward: (batch, height, width, 16), at a multiple of 16 bytes */
  float* totals;       /* backward: (4, 16), the gradients of the weight of each channel of the image, and of the bias */
  float* workspace;    /* backward: (264, 64) */
  int64_t batch, height, width; /* of the result */
} laconv_stem_args;

#ifdef __cplusplus
}
#endif
