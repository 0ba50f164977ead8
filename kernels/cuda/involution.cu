// The entry points of involution.cuh, for TYPE in f32, f16, bf16. Arguments are those of laconv_dynamic_conv_*, but the
// layouts are planar and dense:
//     x, grad, the forward result and grad_x   (batch, channels, height, width)
//     filters and grad_filters                 (batch, k * k * groups, height, width)
#include "involution.cuh"

#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))
#define LACONV_INVOLUTION(name, type)                                                                    \
  LACONV_EXPORT int laconv_involution_forward_##name(const laconv_conv_args* args, void* stream) {      \
    return laconv::involution_any<type, 1>(args->x, *args, stream);                                      \
  }                                                                                                      \
  LACONV_EXPORT int laconv_involution_grad_x_##name(const laconv_conv_args* args, void* stream) {       \
    return laconv::involution_any<type, -1>(args->grad, *args, stream);                                  \
  }                                                                                                      \
  LACONV_EXPORT int laconv_involution_grad_filters_##name(const laconv_conv_args* args, void* stream) { \
    return laconv::involution_filters_any<type>(*args, stream);                                          \
  }

LACONV_INVOLUTION(f32, float)
LACONV_INVOLUTION(f16, laconv::half)
LACONV_INVOLUTION(bf16, laconv::bfloat16)
