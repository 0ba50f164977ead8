// Which backward kernel serves a call, k = 7, how it is cut, and where its parts of sums go.
#pragma once
#include "k7_grad_cond.cuh"
#include "k7_grad_weight.cuh"
#include "k7_grad_x_pairs.cuh"
#include "partial_sums.cuh"

namespace laconv::k7_backward {

// A band of grad_x makes the filters of 3 more rows above and below.
constexpr Walk X_WALK{TARGETS, 0, 1, 2 * REACH}, PAIRS_WALK{TARGETS, HALF_PATCH, 1, 2 * REACH};
// A band of the filters' gradient waits for 8 rows of x before its first step.
constexpr Walk FILTERS_WALK{16, 0, STEP, 6};

constexpr int64_t MOST_GROUPS = 8;  // whose filters' gradients one block makes for the condition's

// 0, or LACONV_NO_FUSED_KERNEL where a block may not have so much shared memory.
inline int fits(int bytes) {
  Device device;
  const int failed = current_device(device);
  if (failed) return failed;
  return bytes <= device.shared_memory ? 0 : LACONV_NO_FUSED_KERNEL;
}

template <int NUMBER> struct Constant {
  static constexpr int VALUE = NUMBER;
};

// run(condition, drop), both as types.
template <int ONE, int OTHER, class Run> int with_condition(const Call& call, const Run& run) {
  const bool drop = call.keys != nullptr;
  const auto with = [&](auto condition) {
    return drop ? run(condition, Constant<1>{}) : run(condition, Constant<0>{});
  };
  if (call.condition == ONE) return with(Constant<ONE>{});
  if (call.condition == OTHER) return with(Constant<OTHER>{});
  return LACONV_NO_FUSED_KERNEL;
}

template <class T, int CONDITION, bool DROP>
int launch_grad_x(GradXParameters parameters, int64_t pictures, void* stream) {
  constexpr int GROUPS = THREADS / LANES, BYTES = GROUPS * GroupWeight<T, CONDITION>::BYTES;
  if (const int refused = fits(BYTES)) return refused;
  parameters.parts = int(divided_up(parameters.call.groups, GROUPS));
  parameters.cut = cut_of(parameters.call, X_WALK, pictures, parameters.parts, BLOCKS_AT_ONCE);
  const int64_t blocks = pictures * parameters.cut.bands * parameters.cut.strips * parameters.parts;
  return launch_warps(k7_grad_x<T, CONDITION, DROP>, blocks, THREADS, BYTES, stream, parameters);
}

template <class T, int CONDITION, bool DROP>
int launch_grad_x_pairs(GradXParameters parameters, int64_t pictures, void* stream) {
  using Work = GradXPairs<T, CONDITION>;
  constexpr int64_t AT_ONCE = BLOCKS_AT_ONCE / 2 * Work::BLOCKS_A_PROCESSOR;
  if (const int refused = fits(Work::BYTES)) return refused;
  parameters.parts = int(divided_up(parameters.call.groups, Work::GROUPS));
  parameters.cut = cut_of(parameters.call, PAIRS_WALK, pictures, parameters.parts, AT_ONCE);
  const int64_t blocks = pictures * parameters.cut.bands * parameters.cut.strips * parameters.parts;
  return launch_warps(k7_grad_x_pairs<T, CONDITION, DROP>, blocks, Work::WARPS * LANES, Work::BYTES, stream,
                      parameters);
}

template <class T> int grad_x(const laconv_fused_args& args, void* stream) {
  GradXParameters parameters{};
  const int wrong = call_of(args, parameters.call);
  if (wrong) return wrong;
  parameters.result = args.result;
  const Call& call = parameters.call;
  if (call.channels == 32 * call.groups)
    return with_condition<256, 512>(call, [&](auto condition, auto drop) {
      return launch_grad_x_pairs<T, decltype(condition)::VALUE, decltype(drop)::VALUE>(parameters, args.batch, stream);
    });
  if (call.channels != 16 * call.groups) return LACONV_NO_FUSED_KERNEL;
  return with_condition<64, 128>(call, [&](auto condition, auto drop) {
    return launch_grad_x<T, decltype(condition)::VALUE, decltype(drop)::VALUE>(parameters, args.batch, stream);
  });
}

template <class T, int MEMBERS, int CONDITION, int WARPS, bool DROP>
int launch_grad_cond(GradCondParameters parameters, int64_t pictures, void* stream) {
  using Work = GradCond<T, MEMBERS, CONDITION, WARPS, DROP>;
  constexpr int64_t AT_ONCE = WARPS == 4 ? BLOCKS_AT_ONCE : BLOCKS_AT_ONCE / 2;
  parameters.cut = cut_of(parameters.call, FILTERS_WALK, pictures, Work::SLICES, AT_ONCE);
  const int64_t strips = pictures * parameters.cut.bands * parameters.cut.strips;
  if (strips > LARGEST_STRIPS) return LACONV_NO_FUSED_KERNEL;
  parameters.strips = int(strips);
  // A multiple of the slices: a block's slice never changes.
  const int64_t blocks = min(strips, AT_ONCE / Work::SLICES) * Work::SLICES;
  return launch_warps(k7_grad_cond<T, MEMBERS, CONDITION, WARPS, DROP>, blocks, WARPS * LANES, Work::BYTES, stream,
                      parameters);
}

// How the sums of all pixels are shared out.
struct Parts {
  Cut cut;
  int64_t strips, blocks, stride;  // blocks that make the parts of one group and slice; floats of a part
  int group_blocks, slices;        // which share a strip

  int64_t bytes() const { return blocks * stride * int64_t(sizeof(float)); }
};

inline Parts parts_of(const Call& call, int64_t pictures) {
  constexpr int GROUPS = 2, LINE = 32;  // floats of a line of the cache: no part shares one with the next
  Parts parts{};
  parts.group_blocks = int(divided_up(call.groups, GROUPS));
  parts.slices = int(divided_up(call.condition, LARGEST_SLICE));
  const int64_t sharing = int64_t(parts.group_blocks) * parts.slices;
  parts.cut = cut_of(call, FILTERS_WALK, pictures, sharing, BLOCKS_AT_ONCE);
  parts.strips = pictures * parts.cut.bands * parts.cut.strips;
  parts.blocks = min(parts.strips, max(BLOCKS_AT_ONCE / sharing, int64_t(1)));
  const int64_t filters = int64_t(TAPS * TAPS) * call.groups;
  parts.stride = divided_up(filters * (call.condition + 1), LINE) * LINE;
  return parts;
}

template <class T, int MEMBERS, int CONDITION, bool DROP>
int launch_grad_weight(const Call& call, const laconv_fused_args& args, void* stream) {
  const Parts parts = parts_of(call, args.batch);
  float* const memory = static_cast<float*>(args.workspace);
  const GradWeightParameters parameters{call, parts.cut, memory, parts.stride, int(parts.strips), parts.group_blocks};
  const int64_t blocks = parts.blocks * parts.group_blocks * parts.slices;
  const int failed = launch_warps(k7_grad_weight<T, MEMBERS, CONDITION, DROP>, blocks, THREADS,
                                  GradWeight<T, MEMBERS, CONDITION>::BYTES, stream, parameters);
  if (failed) return failed;
  const int64_t filters = int64_t(TAPS * TAPS) * call.groups;
  const PartialSums sums{memory, parts.blocks, parts.stride, args.grad_weight, args.grad_bias,
                         filters * call.condition, filters};
  return launch_partial_sums(sums, stream);
}

template <class T, int MEMBERS, int CONDITION, int WARPS, bool DROP>
int launch_grad_filters(const Call& call, const laconv_fused_args& args, void* stream) {
  constexpr int COND_BYTES = GradCond<T, MEMBERS, CONDITION, WARPS, DROP>::BYTES;
  constexpr int WEIGHT_BYTES = GradWeight<T, MEMBERS, CONDITION>::BYTES;
  // All that may be refused, before anything is launched.
  const int bytes = max(args.grad_cond ? COND_BYTES : 0, args.grad_weight ? WEIGHT_BYTES : 0);
  if (const int refused = fits(bytes)) return refused;
  if (args.grad_weight) {
    const Parts parts = parts_of(call, args.batch);
    if (parts.strips > LARGEST_STRIPS) return LACONV_NO_FUSED_KERNEL;
    if (args.workspace_bytes < parts.bytes()) return LACONV_BAD_SIZE;
  }
  if (args.grad_cond) {
    const GradCondParameters parameters{call, {}, args.grad_cond, 0};
    const int failed = launch_grad_cond<T, MEMBERS, CONDITION, WARPS, DROP>(parameters, args.batch, stream);
    if (failed) return failed;
  }
  return args.grad_weight ? launch_grad_weight<T, MEMBERS, CONDITION, DROP>(call, args, stream) : 0;
}

inline bool filters_fit(const Call& call) {
  const int members = call.channels / call.groups;
  return call.groups <= MOST_GROUPS && ((members == 16 && (call.condition == 64 || call.condition == 128)) ||
                                        (members == 32 && call.condition == 256));
}

template <class T> int grad_filters(const laconv_fused_args& args, void* stream) {
  Call call;
  const int wrong = call_of(args, call);
  if (wrong) return wrong;
  if (!filters_fit(call)) return LACONV_NO_FUSED_KERNEL;
  if (call.channels == 32 * call.groups)
    return with_condition<256, 256>(call, [&](auto condition, auto drop) {
      return launch_grad_filters<T, 32, decltype(condition)::VALUE, 8, decltype(drop)::VALUE>(call, args, stream);
    });
  return with_condition<64, 128>(call, [&](auto condition, auto drop) {
    constexpr int CONDITION = decltype(condition)::VALUE;
    constexpr bool DROP = decltype(drop)::VALUE;
    return call.groups <= 4 ? launch_grad_filters<T, 16, CONDITION, 4, DROP>(call, args, stream)
                            : launch_grad_filters<T, 16, CONDITION, 8, DROP>(call, args, stream);
  });
}

// Bytes of the parts of weight and bias's gradients; 0 where there is no kernel.
inline int64_t workspace(const laconv_fused_args& args) {
  Call call;
  if (call_of(args, call) || !filters_fit(call)) return 0;
  return parts_of(call, args.batch).bytes();
}

}  // namespace laconv::k7_backward
