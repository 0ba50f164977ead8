// The entry points of one number type and one kernel size; the build compiles this file once for each, in parallel:
//     LACONV_TYPE, LACONV_TYPE_NAME       float and f32, laconv::half and f16, ...
//     LACONV_KERNEL, LACONV_KERNEL_NAME   3 and k3, 5 and k5, 7 and k7, or 0 and any
#include "gather.cuh"
#include "gather_rows.cuh"
#include "grad_filter_rows.cuh"
#include "grad_filters.cuh"

#define LACONV_JOIN(name, type, kernel) laconv_dynamic_conv_##name##_##type##_##kernel
#define LACONV_NAME(name, type, kernel) LACONV_JOIN(name, type, kernel)
#define LACONV_ENTRY(name)                                                                \
  extern "C" __attribute__((visibility("default"))) int LACONV_NAME(name, LACONV_TYPE_NAME, LACONV_KERNEL_NAME)( \
      const laconv_conv_args* args, void* stream)

namespace laconv {

// What every kernel size shares comes from the unit of any size.
#if LACONV_KERNEL == 0
#define LACONV_SHARED template
#else
#define LACONV_SHARED extern template
#endif
LACONV_SHARED int launch_gather<LACONV_TYPE, 0, 1, Filters::ONE, Direction::FORWARD>(GatherParameters, void*);
LACONV_SHARED int launch_gather<LACONV_TYPE, 0, 1, Filters::ONE, Direction::GRAD_X>(GatherParameters, void*);

template <class T, int K, Direction D> int gather_in(const void* source, const laconv_conv_args& args, void* stream) {
  if (!args.padded) return gather_any<T, K, D>(source, args, stream);
  if constexpr (row_length(K) != 0) return gather_rows_any<T, K, D>(source, args, stream);
  return LACONV_BAD_LAYOUT;
}

template <class T, int K> int grad_filters_in(const laconv_conv_args& args, void* stream) {
  if (!args.padded) return grad_filters_any<T, K>(args, stream);
  if constexpr (row_length(K) != 0) return grad_filter_rows_any<T, K>(args, stream);
  return LACONV_BAD_LAYOUT;
}

}  // namespace laconv

LACONV_ENTRY(forward) {
  return laconv::gather_in<LACONV_TYPE, LACONV_KERNEL, laconv::Direction::FORWARD>(args->x, *args, stream);
}

LACONV_ENTRY(grad_x) {
  return laconv::gather_in<LACONV_TYPE, LACONV_KERNEL, laconv::Direction::GRAD_X>(args->grad, *args, stream);
}

LACONV_ENTRY(grad_filters) { return laconv::grad_filters_in<LACONV_TYPE, LACONV_KERNEL>(*args, stream); }
