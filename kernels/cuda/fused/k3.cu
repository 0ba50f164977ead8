// The entry points of the fused kernels of k = 3 in one number type; the build compiles this file once for each:
//     LACONV_TYPE, LACONV_TYPE_NAME       laconv::half and f16, laconv::bfloat16 and bf16
#include "k3_forward.cuh"
#include "k3_grad_filters.cuh"
#include "k3_grad_x.cuh"

#define LACONV_JOIN(name, type) laconv_fused_##name##_##type##_k3
#define LACONV_NAME(name, type) LACONV_JOIN(name, type)
#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))
#define LACONV_ENTRY(name) \
  LACONV_EXPORT int LACONV_NAME(name, LACONV_TYPE_NAME)(const laconv_fused_args* args, void* stream)

LACONV_ENTRY(forward) { return laconv::k3::forward_any<LACONV_TYPE>(*args, stream); }
LACONV_ENTRY(grad_x) { return laconv::k3::grad_x_any<LACONV_TYPE>(*args, stream); }
LACONV_ENTRY(grad_filters) { return laconv::k3::grad_filters_any<LACONV_TYPE>(*args, stream); }
LACONV_EXPORT int64_t LACONV_NAME(workspace, LACONV_TYPE_NAME)(const laconv_fused_args* args) {
  return laconv::k3::grad_filters_workspace(*args);
}
