// Dropout in every number type, and the words of error codes.
#include "dropout.cuh"

#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))
#define LACONV_DROPOUT(name, type)                                                                \
  LACONV_EXPORT int laconv_drop_filters_##name(const laconv_dropout_args* args, void* stream) {  \
    return laconv::drop_filters_any<type>(*args, stream);                                         \
  }                                                                                               \
  LACONV_EXPORT int laconv_drop_elements_##name(const laconv_dropout_args* args, void* stream) { \
    return laconv::drop_elements_any<type>(*args, stream);                                        \
  }

LACONV_DROPOUT(f32, float)
LACONV_DROPOUT(f16, laconv::half)
LACONV_DROPOUT(bf16, laconv::bfloat16)
LACONV_DROPOUT(f64, double)

LACONV_EXPORT const char* laconv_words(int code) {
  switch (code) {
    case LACONV_BAD_SIZE:
      return "a size is negative or above 2^31 - 1 (channels: 2^27), or the groups do not divide the channels";
    case LACONV_BAD_LAYOUT:
      return "no padded rows for this type, kernel size, these groups or channels, or an address is not aligned";
    case LACONV_BAD_KERNEL_SIZE:
      return "the kernel size is not odd, or above 32767";
    case LACONV_BAD_THRESHOLD:
      return "the threshold of a dropout is not from 1 to 255";
    case LACONV_NO_FUSED_KERNEL:
      return "no fused kernel takes this shape, size or alignment";
    default:
      return cudaGetErrorString(cudaError_t(code));
  }
}
