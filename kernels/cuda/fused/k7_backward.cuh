// What the backward kernels of k = 7 share: a call's sizes, how it is cut into strips, the dropout of a pair of
// filters.
//
// The filters of a pixel and group are a row of 56 slots, 8 a kernel row: slot 8 dy + dx is tap (dy, dx), slot 8 dy +
// 7 is zero. So one column of 8 of a product's D is one kernel row, and lane t of a quad holds its taps 2t and 2t + 1.
#pragma once
#include "warp.cuh"

namespace laconv::k7_backward {

constexpr int TAPS = 7, REACH = TAPS / 2;  // of a kernel row; pixels that it reaches to either side
constexpr int SLOTS = 8 * TAPS;
constexpr int64_t LARGEST_PICTURE = 1 << 30;  // numbers, so that offsets in a picture fit into 32 bits with room beside

// laconv_fused_args as the kernels see it.
struct Call {
  const void *x, *cond, *weight, *bias, *grad;
  const Key* keys;  // null: no dropout
  uint32_t threshold;  // 1024 + threshold twice, in half precision: see `kept`
  float scale;         // of the filter values that are kept
  uint32_t zero;       // always, which the compiler does not know: see `key_of_row` and ConditionRow
  int height, width, channels, condition, groups;
  uint32_t row_of_x, picture_of_x;  // numbers
  uint32_t row_of_cond, picture_of_cond;

  __host__ __device__ int row_of_weight(int kernel_row, int dx, int group) const {
    return (kernel_row * TAPS + dx) * groups + group;
  }
};

// How pictures are cut: strips of columns, walked from above to below, and these into bands of rows.
struct Cut {
  int strips, bands, rows;  // strips a picture is wide, bands that it is high, rows of a band
};

struct Place {
  int image, band, strip, part;
};

// Blocks that differ in `part` alone are neighbours: they read the same pixels.
__device__ __forceinline__ Place place_of(unsigned block, const Cut& cut, int parts) {
  const unsigned strip_of_all = block / unsigned(parts), band_of_all = strip_of_all / unsigned(cut.strips);
  const unsigned image = band_of_all / unsigned(cut.bands);
  return {int(image), int(band_of_all - image * unsigned(cut.bands)),
          int(strip_of_all - band_of_all * unsigned(cut.strips)), int(block - strip_of_all * unsigned(parts))};
}

// The key, to the compiler another one in every row: else it keeps the keys of all seven rounds in registers.
__device__ __forceinline__ Key key_of_row(const Key& key, int y, uint32_t zero) {
  return {key.low ^ (uint32_t(y) & zero), key.high ^ (uint32_t(y) & zero)};
}

// The mask of a pixel's kernel row, for the pair of taps of lane t: Philox's block is t, and of its 16 bytes the
// kernel row owns two. Beside the byte 0x64 a byte is the half-precision number 1024 + byte, so one comparison serves
// the pair; digit 5 of the selector is the 0x64 of the threshold.
__device__ __forceinline__ uint32_t kept(const Bits128& random, int kernel_row, uint32_t threshold) {
  return at_least(bytes(random.word[kernel_row / 2], threshold, kernel_row % 2 ? 0x5352u : 0x5150u), threshold);
}

// Two words of each kernel row, which one warp hands over to another in shared memory: a quad of words of each lane
// for two kernel rows, half a quad for the last.
struct KernelRows {
  static constexpr int QUADS = LANES * 16, BYTES = (TAPS + 1) / 2 * QUADS;

  uint32_t word[TAPS][2];

  // Once for each kernel row, in their order. `own`: the lane's first quad, like `from`.
  __device__ __forceinline__ void hand_over(char* own, int kernel_row) const {
    const uint32_t* const last = word[kernel_row];
    if (kernel_row % 2) {
      const uint32_t* const before = word[kernel_row - 1];
      store(own + kernel_row / 2 * QUADS, Words4{{before[0], before[1], last[0], last[1]}});
    } else if (kernel_row == TAPS - 1) {
      store(own + kernel_row / 2 * QUADS, Words2{{last[0], last[1]}});
    }
  }
  __device__ __forceinline__ void take(const char* from) {
#pragma unroll
    for (int row = 0; row + 1 < TAPS; row += 2) {
      const Words4 words = load<Words4>(from + row / 2 * QUADS);
      word[row][0] = words.number[0];
      word[row][1] = words.number[1];
      word[row + 1][0] = words.number[2];
      word[row + 1][1] = words.number[3];
    }
    const Words2 words = load<Words2>(from + TAPS / 2 * QUADS);
    word[TAPS - 1][0] = words.number[0];
    word[TAPS - 1][1] = words.number[1];
  }
};

// 0, LACONV_BAD_SIZE, or LACONV_NO_FUSED_KERNEL where the dependable kernels must do it.
inline int call_of(const laconv_fused_args& args, Call& call) {
  constexpr int64_t most = 0x7fffffff;
  if (args.kernel_size != TAPS || args.packing) return LACONV_NO_FUSED_KERNEL;
  for (const int64_t side : {args.batch, args.height, args.width, args.channels, args.condition, args.groups})
    if (side < 0 || side > most) return LACONV_BAD_SIZE;
  if (args.groups < 1 || args.channels % args.groups) return LACONV_BAD_SIZE;
  if (args.threshold < 0 || args.threshold > 255) return LACONV_BAD_SIZE;
  const int64_t widest = args.channels > args.condition ? args.channels : args.condition;
  // With the rows beside the picture that a walk names and does not read.
  if (args.width && widest > LARGEST_PICTURE / (args.height + 16) / args.width) return LACONV_NO_FUSED_KERNEL;
  for (const void* address : {args.x, args.cond, args.weight, args.grad, static_cast<const void*>(args.result),
                              static_cast<const void*>(args.grad_cond)})
    if (!aligned(address, 16)) return LACONV_NO_FUSED_KERNEL;
  const bool drop = args.keys && args.threshold;
  call = {args.x,
          args.cond,
          args.weight,
          args.bias,
          args.grad,
          drop ? reinterpret_cast<const Key*>(args.keys) : nullptr,
          0x64006400u | uint32_t(args.threshold) * 0x10001u,
          drop ? 256.f / float(256 - args.threshold) : 1.f,
          0u,
          int(args.height),
          int(args.width),
          int(args.channels),
          int(args.condition),
          int(args.groups),
          uint32_t(args.width * args.channels),
          uint32_t(args.height * args.width * args.channels),
          uint32_t(args.width * args.condition),
          uint32_t(args.height * args.width * args.condition)};
  return 0;
}

// How many blocks a chip of 132 multiprocessors runs at once, two on each. A constant of the library, not of the chip,
// so that how the work is cut, and with it the order of sums, is a function of the sizes alone.
constexpr int64_t BLOCKS_AT_ONCE = 264;
constexpr int64_t LARGEST_STRIPS = 1 << 30;  // so that a walk over them stays within 32 bits

struct Walk {
  int columns;  // from a strip to the next
  int more;     // columns of the first strip beside these
  int step;     // rows
  int extra;    // rows' worth of time that a band costs beside its own rows
};

// Bands so high that what they cost beside their rows is little, and so many that no chip waits for its last blocks:
// the least time of `at_once` blocks in turns. `sharing`: blocks that walk down the same strip.
inline Cut cut_of(const Call& call, const Walk& walk, int64_t pictures, int64_t sharing, int64_t at_once) {
  constexpr int LOWEST = 8;
  const int strips = int(divided_up(max(call.width - walk.more, 1), walk.columns));
  Cut best{strips, 1, max(call.height, 1)};
  int64_t least = 0;
  for (int bands = 1; bands == 1 || divided_up(call.height, bands) >= LOWEST; ++bands) {
    const int rows = int(divided_up(divided_up(call.height, bands), walk.step)) * walk.step;
    if (rows == 0) break;
    const int64_t turns = divided_up(pictures * sharing * strips * bands, at_once), time = turns * (rows + walk.extra);
    if (bands == 1 || time < least) {
      least = time;
      best = {strips, int(divided_up(call.height, rows)), rows};
    }
  }
  return best;
}

}  // namespace laconv::k7_backward
