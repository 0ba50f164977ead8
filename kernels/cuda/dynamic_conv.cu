// The entry points of one number type and one kernel size; the build compiles this file once for each, in parallel:
//     LACONV_TYPE, LACONV_TYPE_NAME       float and f32, laconv::half and f16, ...
//     LACONV_KERNEL, LACONV_KERNEL_NAME   3 and k3, 5 and k5, 7 and k7, or 0 and any
#include "gather.cuh"
#include "grad_filters.cuh"

#define LACONV_JOIN(name, type, kernel) laconv_dynamic_conv_##name##_##type##_##kernel
#define LACONV_NAME(name, type, kernel) LACONV_JOIN(name, type, kernel)
#define LACONV_ENTRY(name)                                                                \
  extern "C" __attribute__((visibility("default"))) int LACONV_NAME(name, LACONV_TYPE_NAME, LACONV_KERNEL_NAME)( \
      const laconv_conv_args* args, void* stream)

LACONV_ENTRY(forward) {
  return laconv::gather_any<LACONV_TYPE, LACONV_KERNEL, laconv::Direction::FORWARD>(args->x, *args, stream);
}

LACONV_ENTRY(grad_x) {
  return laconv::gather_any<LACONV_TYPE, LACONV_KERNEL, laconv::Direction::GRAD_X>(args->grad, *args, stream);
}

LACONV_ENTRY(grad_filters) { return laconv::grad_filters_any<LACONV_TYPE, LACONV_KERNEL>(*args, stream); }
