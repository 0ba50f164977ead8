// The entry points of norm.h for one type of maps, LACONV_TYPE, named LACONV_TYPE_NAME.
#include "apply.cuh"
#include "backward.cuh"
#include "statistics.cuh"

#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))
#define LACONV_JOINED(what, name) laconv_norm_##what##_##name
#define LACONV_NAMED(what, name) LACONV_JOINED(what, name)
#define LACONV_NORM(what)                                                                                        \
  LACONV_EXPORT int LACONV_NAMED(what, LACONV_TYPE_NAME)(const laconv_norm_args* args, void* stream) {           \
    return laconv::what##_any<LACONV_TYPE>(*args, stream);                                                       \
  }

LACONV_EXPORT int64_t LACONV_NAMED(workspace, LACONV_TYPE_NAME)(int64_t channels) {
  return laconv::workspace_of<LACONV_TYPE>(channels);
}
LACONV_NORM(statistics)
LACONV_NORM(apply)
LACONV_NORM(backward_reduce)
LACONV_NORM(backward_apply)
