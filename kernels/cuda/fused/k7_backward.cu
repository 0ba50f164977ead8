// The entry points of the fused backward, k = 7, of one number type; the build compiles this file once for each:
//     LACONV_TYPE, LACONV_TYPE_NAME       laconv::half and f16, laconv::bfloat16 and bf16
#include "k7_backward_launch.cuh"

#define LACONV_JOIN(name, type) laconv_fused_##name##_##type##_k7
#define LACONV_NAME(name, type) LACONV_JOIN(name, type)
#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))

LACONV_EXPORT int LACONV_NAME(grad_x, LACONV_TYPE_NAME)(const laconv_fused_args* args, void* stream) {
  return laconv::k7_backward::grad_x<LACONV_TYPE>(*args, stream);
}

LACONV_EXPORT int LACONV_NAME(grad_filters, LACONV_TYPE_NAME)(const laconv_fused_args* args, void* stream) {
  return laconv::k7_backward::grad_filters<LACONV_TYPE>(*args, stream);
}

LACONV_EXPORT int64_t LACONV_NAME(workspace, LACONV_TYPE_NAME)(const laconv_fused_args* args) {
  return laconv::k7_backward::workspace(*args);
}
