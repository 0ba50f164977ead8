// The entry points of mlp.h for one type of maps, LACONV_TYPE, named LACONV_TYPE_NAME.
#include "backward_apply.cuh"
#include "backward_reduce.cuh"
#include "forward.cuh"
#include "statistics.cuh"

#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))
#define LACONV_JOINED(what, name) laconv_mlp_##what##_##name
#define LACONV_NAMED(what, name) LACONV_JOINED(what, name)
#define LACONV_MLP(what)                                                                              \
  LACONV_EXPORT int LACONV_NAMED(what, LACONV_TYPE_NAME)(const laconv_mlp_args* args, void* stream) { \
    return laconv::mlp::what##_any<LACONV_TYPE>(*args, stream);                                       \
  }

LACONV_EXPORT int64_t LACONV_NAMED(workspace, LACONV_TYPE_NAME)(int64_t pixels) {
  return pixels < 0 ? 0 : laconv::mlp::summing_blocks(pixels) * laconv::mlp::TOTALS;
}
LACONV_MLP(statistics)
LACONV_MLP(forward)
LACONV_MLP(backward_reduce)
LACONV_MLP(backward_apply)
