/* The C interface of the MLP whose hidden map is never written; how entry points are called: laconv.h.
 *
 *     result = relu(BN(y W1^T)) W2^T,   y and result (pixels, C), channels-last, W1 (4 C, C), W2 (C, 4 C)
 * Maps and matrices are of TYPE; statistics, the norm's weight and bias, and sums are float32. Addresses of maps and
 * matrices are multiples of 16 bytes. LACONV_NO_FUSED_KERNEL is the answer for other addresses, for another C than 16, 64,
 * 128 and 256, and where the device has too little shared memory for a block. Entry points, for TYPE in f16, bf16:
 *     int laconv_mlp_statistics_TYPE(const laconv_mlp_args*, void* stream)        y w1 -> totals own
 *     int laconv_mlp_forward_TYPE(const laconv_mlp_args*, void* stream)           y w1 w2 -> result
 *     int laconv_mlp_backward_reduce_TYPE(const laconv_mlp_args*, void* stream)   grad y w1 w2 -> totals
 *     int laconv_mlp_backward_apply_TYPE(const laconv_mlp_args*, void* stream)    grad y w1 w2 -> result
 *     int64_t laconv_mlp_workspace_TYPE(const laconv_mlp_args*)   floats of workspace that the first and the third want
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
  const void* beside;   /* backward_apply: what is added to the gradient of y, like y, or null */
  void* result;         /* forward: the result; backward_apply: the gradient of y */
  const float* mean;    /* (4 C) of the hidden map over all processes, as all below; not for statistics */
  const float* var;
  const float* weight;
  const float* bias;
  const float* sums;    /* backward_apply: (2, 4 C), the first totals of backward_reduce over all processes */
  const float* count;   /* backward_apply: (1), the values of a channel over all processes */
  float* totals;        /* statistics: (C, C) sums of y y^T, then (C) sums of y;
                           backward_reduce: (2, 4 C), sums of g and of g (h - mean) / sqrt(var + eps), where h is the
                           hidden map and g the gradient behind the ReLU; (C, 4 C) the gradient of W2; (4 C, C) sums of
                           g y^T */
  float* own;           /* statistics: (2 * 4 C + 1), means and variances of the hidden map by `pixels`, and those */
  float* workspace;
  int64_t pixels, channels; /* C */
  double eps;
} laconv_mlp_args;

#ifdef __cplusplus
}
#endif
