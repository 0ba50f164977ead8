// The entry points of mlp.h for one type of maps, LACONV_TYPE, named LACONV_TYPE_NAME.
#include "narrow_backward_apply.cuh"
#include "narrow_backward_reduce.cuh"
#include "narrow_forward.cuh"
#include "narrow_moments.cuh"
#include "statistics.cuh"
#include "wide_backward_apply.cuh"
#include "wide_backward_reduce.cuh"
#include "wide_forward.cuh"
#include "wide_moments.cuh"

namespace laconv {
namespace mlp {

inline int64_t workspace_of(int64_t pixels, int64_t channels) {
  if (pixels < 0) return 0;
  if (channels == 16) return narrow::summing_blocks(pixels) * Sums<16>::ALL;
  const int64_t of_moments = wide::shares_of(pixels, wide::MOST_SHARES);
  if (channels == 64) return wide::shares_of(pixels, wide::ReduceShape<64>::SHARES) * Sums<64>::ALL;
  if (channels == 128)
    return max(wide::shares_of(pixels, wide::ReduceShape<128>::SHARES) * Sums<128>::ALL, of_moments * Sums<128>::MOMENTS);
  return 0;
}

template <class T> int statistics_any(const laconv_mlp_args& args, void* stream) {
  if (args.channels != 16 && args.channels != 64 && args.channels != 128) return LACONV_NO_FUSED_KERNEL;
  if (const int wrong = check(args, args.channels == 16 ? 8 : 16)) return wrong;
  const int code = args.channels == 16   ? narrow::moments_any<T>(args, stream)
                   : args.channels == 64 ? wide::moments_any<T, 64>(args, stream)
                                         : wide::moments_any<T, 128>(args, stream);
  return code ? code : hidden_statistics_any<T>(args, stream);
}

#define LACONV_BY_CHANNELS(what)                                                    \
  template <class T> int what##_any(const laconv_mlp_args& args, void* stream) {    \
    if (args.channels == 16) return narrow::what##_any<T>(args, stream);            \
    if (args.channels == 64) return wide::what##_any<T, 64>(args, stream);          \
    if (args.channels == 128) return wide::what##_any<T, 128>(args, stream);        \
    return LACONV_NO_FUSED_KERNEL;                                                  \
  }
LACONV_BY_CHANNELS(forward)
LACONV_BY_CHANNELS(backward_reduce)
LACONV_BY_CHANNELS(backward_apply)

}  // namespace mlp
}  // namespace laconv

#define LACONV_EXPORT extern "C" __attribute__((visibility("default")))
#define LACONV_JOINED(what, name) laconv_mlp_##what##_##name
#define LACONV_NAMED(what, name) LACONV_JOINED(what, name)
#define LACONV_MLP(what)                                                                              \
  LACONV_EXPORT int LACONV_NAMED(what, LACONV_TYPE_NAME)(const laconv_mlp_args* args, void* stream) { \
    return laconv::mlp::what##_any<LACONV_TYPE>(*args, stream);                                       \
  }

LACONV_EXPORT int64_t LACONV_NAMED(workspace, LACONV_TYPE_NAME)(const laconv_mlp_args* args) {
  return laconv::mlp::workspace_of(args->pixels, args->channels);
}
LACONV_MLP(statistics)
LACONV_MLP(forward)
LACONV_MLP(backward_reduce)
LACONV_MLP(backward_apply)
