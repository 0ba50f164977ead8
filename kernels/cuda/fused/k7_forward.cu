// The fused forward result for k = 7, one entry point a number type; the build compiles this file once for each:
//     LACONV_TYPE, LACONV_TYPE_NAME   laconv::half and f16, laconv::bfloat16 and bf16
// It takes 16 channels a group with conditions of 64 and 128 numbers and 32 channels a group with 256 and 512, any
// number of groups, addresses that are multiples of 16 bytes, pictures whose x and condition, with 16 rows more than
// they have, are at most 2^30 numbers each. Everything else is LACONV_NO_FUSED_KERNEL, as is a device whose blocks may
// not have the shared memory: 102 KB for a condition of 128 numbers, 124 KB for 256, 180 KB for 512.
#include "k7_forward.cuh"
#include "k7_forward_wide.cuh"

namespace laconv::k7 {

constexpr int64_t LARGEST = 0x7fffffff;
// Of x or the condition in a picture, counted in 32 bits without a sign, with room above, below and beside.
constexpr int64_t LARGEST_PICTURE = 1 << 30, ROWS_BESIDE = 16;

// The height of strips. Blocks run in rounds of as many as fit, and the last round takes as long as a full one, so high
// strips leave processors idle; low ones pay more often for the weight and the rows beside a strip, which take a block
// about as long as two steps. A strip of 128 rows pays 3 % for them, so none is higher. Results do not depend on it.
inline int strip_rows(int64_t height, int64_t blocks_of_one_row, int64_t blocks_a_round) {
  constexpr int64_t HIGHEST = 128, STEPS_BESIDE = 2;
  int64_t best = STEP_ROWS, least = LARGEST * HIGHEST;
  for (int64_t rows = STEP_ROWS; rows <= HIGHEST && rows < height + STEP_ROWS; rows += STEP_ROWS) {
    const int64_t rounds = divided_up(blocks_of_one_row * divided_up(height, rows), blocks_a_round);
    const int64_t steps = rounds * (rows / STEP_ROWS + STEPS_BESIDE);
    if (steps <= least) {
      least = steps;
      best = rows;
    }
  }
  return int(best);
}

// The parameters but for the cut into strips; 0 or what does not fit.
inline int parameters_of(const laconv_fused_args& args, Forward& parameters) {
  for (const int64_t side : {args.batch, args.height, args.width, args.channels, args.condition, args.groups})
    if (side < 0 || side > LARGEST) return LACONV_BAD_SIZE;
  if (args.groups < 1 || args.channels % args.groups) return LACONV_BAD_SIZE;
  if (args.threshold < 0 || args.threshold > 255) return LACONV_BAD_SIZE;
  if (args.kernel_size != TAPS) return LACONV_NO_FUSED_KERNEL;
  const int64_t numbers = args.channels > args.condition ? args.channels : args.condition;
  if (args.width && numbers && args.height + ROWS_BESIDE > LARGEST_PICTURE / args.width / numbers)
    return LACONV_NO_FUSED_KERNEL;
  for (const void* address : {args.x, args.cond, args.weight, static_cast<const void*>(args.result)})
    if (!aligned(address, 16)) return LACONV_NO_FUSED_KERNEL;
  parameters = {};
  parameters.x = args.x;
  parameters.cond = args.cond;
  parameters.weight = args.weight;
  parameters.bias = args.bias;
  parameters.result = args.result;
  if (args.threshold) parameters.keys = reinterpret_cast<const Key*>(args.keys);
  parameters.threshold = uint32_t(args.threshold);
  parameters.scale = 256.f / float(256 - args.threshold);
  parameters.height = int(args.height);
  parameters.width = int(args.width);
  parameters.channels = int(args.channels);
  parameters.groups = int(args.groups);
  return 0;
}

// As many strips a block as there is shared memory for.
template <class Shape>
int launch_strips(void (*kernel)(Forward), int64_t batch, Forward parameters, void* stream) {
  constexpr int WEIGHT_BYTES = Shape::GROUPS * Shape::Weights::BYTES, STRIP_BYTES = Shape::GROUPS * Shape::Rows::BYTES;
  Device device;
  const int failed = current_device(device);
  if (failed) return failed;
  int strips = Shape::MOST_STRIPS;
  while (WEIGHT_BYTES + strips * STRIP_BYTES > device.shared_memory)
    if (--strips < Shape::FEWEST_STRIPS) return LACONV_NO_FUSED_KERNEL;
  parameters.strips_a_block = strips;
  const int64_t bundles = divided_up(parameters.groups, Shape::GROUPS);
  const int64_t across = divided_up(parameters.width, STRIP_COLUMNS);
  parameters.strip_rows = strip_rows(parameters.height, divided_up(batch * across * bundles, strips),
                                     int64_t(device.processors) * Shape::BLOCKS_A_PROCESSOR);
  const int64_t down = divided_up(parameters.height, parameters.strip_rows);
  parameters.bundles = int(bundles);
  parameters.strips_across = int(across);
  parameters.strips_down = int(down);
  parameters.strips = batch * across * down;
  const int64_t blocks = divided_up(parameters.strips, strips) * bundles;
  if (parameters.strips > LARGEST || blocks > LARGEST) return LACONV_NO_FUSED_KERNEL;
  return launch_warps(kernel, blocks, Shape::GROUPS * strips * LANES, WEIGHT_BYTES + strips * STRIP_BYTES, stream,
                      parameters);
}

template <class T, int CONDITION> int launch_narrow(int64_t batch, const Forward& parameters, void* stream) {
  const auto kernel = parameters.keys ? forward<T, CONDITION, true> : forward<T, CONDITION, false>;
  return launch_strips<NarrowShape<T, CONDITION>>(kernel, batch, parameters, stream);
}

template <class T, int CONDITION> int launch_wide(int64_t batch, const Forward& parameters, void* stream) {
  const auto kernel = parameters.keys ? wide_forward<T, CONDITION, true> : wide_forward<T, CONDITION, false>;
  return launch_strips<WideShape<T, CONDITION>>(kernel, batch, parameters, stream);
}

template <class T> int forward_any(const laconv_fused_args& args, void* stream) {
  Forward parameters;
  const int wrong = parameters_of(args, parameters);
  if (wrong) return wrong;
  const int64_t channels = args.channels / args.groups, condition = args.condition;
  const bool narrow = channels == 16 && (condition == 64 || condition == 128);
  const bool wide = channels == 32 && (condition == 256 || condition == 512);
  if (!narrow && !wide) return LACONV_NO_FUSED_KERNEL;
  if (args.batch * args.height * args.width == 0) return 0;
  switch (condition) {
    case 64:
      return launch_narrow<T, 64>(args.batch, parameters, stream);
    case 128:
      return launch_narrow<T, 128>(args.batch, parameters, stream);
    case 256:
      return launch_wide<T, 256>(args.batch, parameters, stream);
    default:
      return launch_wide<T, 512>(args.batch, parameters, stream);
  }
}

}  // namespace laconv::k7

#define LACONV_JOIN(type) laconv_fused_forward_##type##_k7
#define LACONV_NAME(type) LACONV_JOIN(type)

extern "C" __attribute__((visibility("default"))) int LACONV_NAME(LACONV_TYPE_NAME)(const laconv_fused_args* args,
                                                                                     void* stream) {
  return laconv::k7::forward_any<LACONV_TYPE>(*args, stream);
}
