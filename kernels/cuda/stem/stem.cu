// The entry points of stem.h for one type of results, LACONV_TYPE, named LACONV_TYPE_NAME.
#include "stem.cuh"

#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))
#define LACONV_JOINED(what, name, source) laconv_stem_##what##_##name##_##source
#define LACONV_NAMED(what, name, source) LACONV_JOINED(what, name, source)
#define LACONV_STEM(what, source, spelled)                                                                        \
  LACONV_EXPORT int LACONV_NAMED(what, LACONV_TYPE_NAME, source)(const laconv_stem_args* args, void* stream) {    \
    return laconv::stem::what##_any<LACONV_TYPE, spelled>(*args, stream);                                         \
  }

LACONV_STEM(forward, f32, float)
LACONV_STEM(backward, f32, float)
LACONV_STEM(forward, LACONV_TYPE_NAME, LACONV_TYPE)
LACONV_STEM(backward, LACONV_TYPE_NAME, LACONV_TYPE)
