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
 *     int laconv_drop_filters_TYPE(const laconv_dropout_args*, void* stream)                   source -> result
 *     int laconv_drop_elements_TYPE(const laconv_dropout_args*, void* stream)                  source -> result
 *     int laconv_attention_weights_TYPE(const laconv_attention_args*, void* stream)            scores -> result
 *     int laconv_attention_weights_backward_TYPE(const laconv_attention_args*, void* stream)   grad, scores -> result;
 *         f32, f16, bf16
 *     int laconv_involution_{forward,grad_x,grad_filters}_TYPE(...)      planar layouts, f32, f16, bf16: for the bench
 *     int laconv_fused_WHAT_TYPE_KERNEL(const laconv_fused_args*, void* stream)   WHAT in forward, grad_x, grad_filters,
 *         TYPE in f16, bf16: filters are made from the condition on the chip and never written (folder fused/)
 *     int64_t laconv_fused_workspace_TYPE_KERNEL(const laconv_fused_args*)    bytes that grad_filters asks for
 *     const char* laconv_words(int code)
 * They launch on `stream` of the current device and return at once: no allocation, no waiting, so they can be captured
 * in a CUDA graph. 0 is success; any other code has its words, and then nothing was launched.
 */
#pragma once
#include <stdint.h>

#define LACONV_BAD_SIZE (-1)
#define LACONV_BAD_KERNEL_SIZE (-2)
#define LACONV_NO_FUSED_KERNEL (-3)
#define LACONV_BAD_THRESHOLD (-4)
#define LACONV_BAD_LAYOUT (-5)

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

/* Dropout by the rule of kernels/dropout.py. */
typedef struct laconv_dropout_args {
  const void* source;    /* (images, elements) */
  void* result;          /* the same; may be source */
  const int64_t* keys;   /* in device memory, one an image */
  int64_t images;
  int64_t elements;      /* values an image; of filters height * width times those of a pixel */
  int64_t groups, kernel_size; /* of filters */
  int64_t padded;        /* of filters: 0 or 1 */
  int64_t threshold;     /* of 256, 1 to 255: a value whose byte is below it is dropped */
} laconv_dropout_args;

/* The softmax over real words, and dropout: (images, heads, words, places). */
typedef struct laconv_attention_args {
  const void* scores;
  const void* grad;      /* backward: gradient of the forward result */
  void* result;
  const uint8_t* real;   /* (images, words): 0 or 1 */
  const int64_t* keys;   /* one an image, or null: no dropout */
  int64_t threshold;     /* as above, with keys */
  int64_t images, heads, words, places;
} laconv_attention_args;

/* The operator with the projection in it: filters = cond weight^T + bias, dropped by the rule of mask.cuh. Null where a
 * gradient is not wanted. The weight's gradients are float, summed in a fixed order; `workspace` is for their parts. */
typedef struct laconv_fused_args {
  const void* x;        /* (batch, height, width, channels) */
  const void* cond;     /* (batch, height, width, condition) */
  const void* weight;   /* (k * k * groups, condition) */
  const void* bias;     /* (k * k * groups), or null: zeros */
  const void* grad;     /* gradient of the forward result; the gradients only */
  void* result;         /* forward: the result; grad_x: like x */
  void* grad_cond;      /* grad_filters: like cond */
  float* grad_weight;   /* grad_filters: (k * k * groups, condition) */
  float* grad_bias;     /* grad_filters, with grad_weight: (k * k * groups) */
  void* workspace;      /* grad_filters with grad_weight */
  int64_t workspace_bytes;
  const uint64_t* keys; /* one an image, in device memory, or null: no dropout */
  int64_t threshold;    /* a filter value is kept where its byte is at least this, and scaled by 256 / (256 - threshold) */
  int64_t batch, height, width, channels, condition, groups, kernel_size;
  const float* scale;   /* (condition), with packing */
  const float* shift;   /* (condition), with packing */
  int64_t packing;      /* 0; s: cond lies packed, (batch, ceil(height / s), ceil(width / s), s, s, condition), and
                         * relu(scale * relu(cond) + shift) is the condition */
} laconv_fused_args;

#ifdef __cplusplus
}
#endif
