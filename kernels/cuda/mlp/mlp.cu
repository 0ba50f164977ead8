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

template <int CHANNELS> int64_t wide_workspace(int64_t pixels) {
  const int64_t of_sums = wide::shares_of<CHANNELS, wide::ReduceShape<CHANNELS>::PARTS>(pixels) * Sums<CHANNELS>::ALL;
  const int64_t of_moments = wide::shares_of<CHANNELS, wide::MOMENT_PARTS<CHANNELS>>(pixels) * Sums<CHANNELS>::MOMENTS;
  return of_sums > of_moments ? of_sums : of_moments;
}
inline int64_t workspace_of(int64_t pixels, int64_t channels) {
  if (pixels < 0) return 0;
  if (channels == 16) return narrow::summing_blocks(pixels) * Sums<16>::ALL;
  if (channels == 64) return wide_workspace<64>(pixels);
  if (channels == 128) return wide_workspace<128>(pixels);
  return channels == 256 ? wide_workspace<256>(pixels) : 0;
}

#define LACONV_BY_CHANNELS(what)                                                    \
  template <class T> int what##_any(const laconv_mlp_args& args, void* stream) {    \
    if (args.channels == 16) return narrow::what##_any<T>(args, stream);            \
    if (args.channels == 64) return wide::what##_any<T, 64>(args, stream);          \
    if (args.channels == 128) return wide::what##_any<T, 128>(args, stream);        \
    if (args.channels == 256) return wide::what##_any<T, 256>(args, stream);        \
    return LACONV_NO_FUSED_KERNEL;                                                  \
  }
LACONV_BY_CHANNELS(moments)
LACONV_BY_CHANNELS(forward)
LACONV_BY_CHANNELS(backward_reduce)
LACONV_BY_CHANNELS(backward_apply)

template <class T> int statistics_any(const laconv_mlp_args& args, void* stream) {
  const int code = moments_any<T>(args, stream);
  return code ? code : hidden_statistics_any<T>(args, stream);
}

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
