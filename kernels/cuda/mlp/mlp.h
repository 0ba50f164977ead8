/* The C interface of the MLP whose hidden map is never written; how entry points are called: laconv.h.
 *
 *     result = relu(BN(y W1^T)) W2^T,   y and result (pixels, 16), channels-last, W1 (64, 16), W2 (16, 64)
 * Maps and matrices are of TYPE; statistics, the norm's weight and bias, and sums are float32. Addresses of maps and
 * matrices are multiples of 8 bytes. Entry points, for TYPE in f16, bf16:
 *     int laconv_mlp_statistics_TYPE(const laconv_mlp_args*, void* stream)        y w1 -> totals own
 *     int laconv_mlp_forward_TYPE(const laconv_mlp_args*, void* stream)           y w1 w2 -> result
 *     int laconv_mlp_backward_reduce_TYPE(const laconv_mlp_args*, void* stream)   grad y w1 w2 -> totals
 *     int laconv_mlp_backward_apply_TYPE(const laconv_mlp_args*, void* stream)    grad y w1 w2 -> result
 *     int64_t laconv_mlp_workspace_TYPE(int64_t pixels)     floats of workspace that the first and the third want
 * Sums are made in an order that depends on the sizes alone: the same bits on every run and every device.
 */
#pragma once
#include "../laconv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct laconv_mlp_args {
  const void* y;
  const void* w1;
  const void* w2;
  const void* grad;     /* gradient of the forward result */
  void* result;         /* forward: the result; backward_apply: the gradient of y */
  const float* mean;    /* (64) of the hidden map over all processes, as all below; not for statistics */
  const float* var;
  const float* weight;
  const float* bias;
  const float* sums;    /* backward_apply: (2, 64), the first totals of backward_reduce over all processes */
  const float* count;   /* backward_apply: (1), the values of a channel over all processes */
  float* totals;        /* statistics: (16, 16) sums of y y^T, then (16) sums of y;
                           backward_reduce: (2, 64), sums of g and of g (h - mean) / sqrt(var + eps), where h is the
                           hidden map and g the gradient behind the ReLU; (16, 64) the gradient of W2; (64, 16) sums of
                           g y^T */
  float* own;           /* statistics: (2 * 64 + 1), means and variances of the hidden map by `pixels`, and those */
  float* workspace;
  int64_t pixels, channels; /* 16, for which alone there are kernels */
  double eps;
} laconv_mlp_args;

#ifdef __cplusplus
}
#endif
