// Which backward kernel serves a call, k = 7, and how it is cut.
#pragma once
#include "k7_grad_x.cuh"

namespace laconv::k7_backward {

template <class T, int CONDITION, bool DROP>
int launch_grad_x(GradXParameters parameters, int64_t pictures, void* stream) {
  constexpr int GROUPS = THREADS / LANES;
  parameters.parts = int(divided_up(parameters.call.groups, GROUPS));
  parameters.cut = cut_of(parameters.call, TARGETS, 2 * REACH, pictures, parameters.parts, 264);
  const int64_t blocks = pictures * parameters.cut.bands * parameters.cut.strips * parameters.parts;
  return launch_warps(k7_grad_x<T, CONDITION, DROP>, blocks, THREADS, GROUPS * GroupWeight<T, CONDITION>::BYTES, stream,
                      parameters);
}

template <class T> int grad_x(const laconv_fused_args& args, void* stream) {
  GradXParameters parameters{};
  const int wrong = call_of(args, parameters.call);
  if (wrong) return wrong;
  parameters.result = args.result;
  const Call& call = parameters.call;
  const bool drop = call.keys != nullptr;
  if (call.channels != 16 * call.groups) return LACONV_NO_FUSED_KERNEL;
  if (call.condition == 64)
    return drop ? launch_grad_x<T, 64, true>(parameters, args.batch, stream)
                : launch_grad_x<T, 64, false>(parameters, args.batch, stream);
  if (call.condition == 128)
    return drop ? launch_grad_x<T, 128, true>(parameters, args.batch, stream)
                : launch_grad_x<T, 128, false>(parameters, args.batch, stream);
  return LACONV_NO_FUSED_KERNEL;
}

}  // namespace laconv::k7_backward
