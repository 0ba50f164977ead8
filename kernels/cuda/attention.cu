// The weights of an attention, and their gradient, in every number type that maps have.
#include "attention.cuh"

#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))
#define LACONV_ATTENTION(name, type)                                                                      \
  LACONV_EXPORT int laconv_attention_weights_##name(const laconv_attention_args* args, void* stream) {   \
    return laconv::attention_any<type>(*args, false, stream);                                             \
  }                                                                                                       \
  LACONV_EXPORT int laconv_attention_weights_backward_##name(const laconv_attention_args* args, void* stream) { \
    return laconv::attention_any<type>(*args, true, stream);                                              \
  }

LACONV_ATTENTION(f32, float)
LACONV_ATTENTION(f16, laconv::half)
LACONV_ATTENTION(bf16, laconv::bfloat16)
