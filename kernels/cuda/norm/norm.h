/* The C interface of batch norm; how entry points are called: laconv.h.
 *
 * A map is (rows, channels), dense, a row for each pixel of each image: channels-last. Statistics, weights and sums are
 * float32 whatever the map's TYPE. Entry points, for TYPE in f32, f16, bf16:
 *     int laconv_norm_statistics_TYPE(const laconv_norm_args*, void* stream)        x -> totals
 *     int laconv_norm_apply_TYPE(const laconv_norm_args*, void* stream)             x [beside] -> result
 *     int laconv_norm_backward_reduce_TYPE(const laconv_norm_args*, void* stream)   grad x [out] -> totals [masked]
 *     int laconv_norm_backward_apply_TYPE(const laconv_norm_args*, void* stream)    grad x -> result
 *     int laconv_norm_combine_f32(const laconv_norm_args*, void* stream)
 *         x, (rows, 2 channels + 1) float32: the totals of statistics of `rows` processes -> totals, those of all
 *     int64_t laconv_norm_workspace_TYPE(int64_t channels)     floats of workspace that the first and the third want
 * With packing s the passes are those of relu(BN(relu(x))), with neither `beside` nor `out`: x and the gradient of x lie
 * packed, (batch, height / s, cells, s, s, channels), its result and the gradient of that (batch, height, cells * s,
 * channels). Its statistics are those of rows with relu_before.
 * Sums are made in an order that depends on the sizes alone: the same bits on every run and every device.
 */
#pragma once
#include "../laconv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct laconv_norm_args {
  const void* x;        /* what is normalised */
  const void* beside;   /* apply: what is added, or null */
  const void* out;      /* backward_reduce: the forward result, or null: the sign of relu's input is computed again */
  const void* grad;     /* gradient of the forward result */
  void* result;         /* apply: relu?(beside + (x - mean) weight / sqrt(var + eps) + bias); backward_apply: of x */
  void* masked;         /* backward_reduce with `out`: grad where that is positive, else zero; not null then */
  const float* mean;    /* (channels) of all processes, as all below; not for statistics */
  const float* var;
  const float* weight;
  const float* bias;
  const float* sums;    /* backward_apply: (2, channels), the totals of backward_reduce over all processes */
  const float* count;   /* backward_apply: (1), the values of a channel over all processes */
  float* totals;        /* statistics: (2 channels + 1), means, variances by `rows`, rows;
                           combine: the same, of all processes;
                           backward_reduce: (2, channels), sums of grad and of grad (x - mean) / sqrt(var + eps) */
  float* workspace;
  int64_t rows, channels;
  int64_t relu;         /* 0 or 1 */
  int64_t relu_before;  /* statistics: 0; 1: of relu(x) */
  int64_t packing;      /* 0: x lies pixel by pixel; else the side of a cell in pixels */
  int64_t cells;        /* with packing: cells beside each other in a picture */
  double eps;
  double slope;         /* with relu: numbers below zero are multiplied by this, from 0 to 1 */
} laconv_norm_args;

#ifdef __cplusplus
}
#endif
