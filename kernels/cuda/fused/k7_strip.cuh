// What the forward kernels of k = 7 share. A warp owns one group and walks down a strip of 16 columns, two rows of
// results a step; a block is GROUPS such warps side by side on each of its strips. In shared memory lie, once a block,
// the projection's weight and bias of its groups, and for each warp the rows of x that its results meet, in a ring.
//
// Numbers that are not finite spoil a superset of what they spoil by definition, since 0 * Inf = NaN:
//     x       in its channel and the 7 rows that meet it, whole patches of 8 pixels (columns 8i to 8i + 7) that read
//             its column: they read 16 columns from 8i - 3 in the left half of a strip, 14 in the right half
//     cond    all channels of its pixel, even if the taps that meet x inside of the picture would not
//     weight, bias   all results of the group
#pragma once
#include "band.cuh"

namespace laconv::k7 {

constexpr int TAPS = 7, REACH = 3;
constexpr int STRIP_COLUMNS = 16, STEP_ROWS = 2;
// A kernel row of filters takes 8 columns of the projection, the last of which is zero.
constexpr int PADDED_TAPS = 8, PADDED_FILTERS = TAPS * PADDED_TAPS;
// The shared memory of a processor of sm_90 and sm_100, of which every block takes some for itself.
constexpr int PROCESSOR_BYTES = 228 * 1024, RESERVED_BYTES = 1024;

struct Forward {
  const void* x;
  const void* cond;
  const void* weight;
  const void* bias;  // or null
  void* result;
  const Key* keys;  // with dropout
  uint32_t threshold;
  float scale;  // of what dropout keeps; 1 without
  // Always 0, which the compiler cannot know: see `ConditionOperands`.
  uint32_t zero;
  int height, width, channels, groups;
  int strip_rows;  // even
  int strips_across, strips_down;
  int strips_a_block;
  int64_t strips;  // of all images
  int bundles;     // of GROUPS groups
};

// What a warp works at. The bundles of a strip are neighbours in the grid, so that its condition is read into the cache
// once, and strips of an image are, so that rows at their borders are.
struct WarpStrip {
  int group;
  int64_t image;
  int x, y;  // of the first pixel
  int end;   // the row behind the last
  bool any;  // the last blocks have warps without a group or a strip
};

// The random bytes of a lane's four pixels of a step: number i is column q of half i & 1, row y + (i >> 1).
__device__ __forceinline__ void draw(Bits128 (&random)[4], Key key, const WarpStrip& strip, int y, int width, int q,
                                     int t) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    random[i] = filter_bits(key, (y + (i >> 1)) * width + strip.x + q + 8 * (i & 1), strip.group, t);
}

template <int GROUPS> __device__ __forceinline__ WarpStrip warp_strip(const Forward& parameters) {
  const int warp = int(threadIdx.x) / LANES;
  const unsigned bundle = blockIdx.x % unsigned(parameters.bundles);
  const unsigned strip =
      blockIdx.x / unsigned(parameters.bundles) * unsigned(parameters.strips_a_block) + unsigned(warp / GROUPS);
  const unsigned rows = strip / unsigned(parameters.strips_across);
  const unsigned image = rows / unsigned(parameters.strips_down);
  WarpStrip place;
  place.group = int(bundle) * GROUPS + warp % GROUPS;
  place.image = image;
  place.x = int(strip - rows * unsigned(parameters.strips_across)) * STRIP_COLUMNS;
  place.y = int(rows - image * unsigned(parameters.strips_down)) * parameters.strip_rows;
  place.end = min(place.y + parameters.strip_rows, parameters.height);
  place.any = place.group < parameters.groups && int64_t(strip) < parameters.strips;
  return place;
}

// The condition of two rows of 16 pixels, 32 PARTS numbers of each, as they are loaded: lane t of a quad has 16 bytes
// of every part, for columns q and q + 8 of the strip.
template <int PARTS> struct ConditionWords {
  Words4 word[STEP_ROWS][2][PARTS];

  template <class T> __device__ __forceinline__ void load(const T* const (&pixel)[STEP_ROWS][2]) {
#pragma unroll
    for (int row = 0; row < STEP_ROWS; ++row)
#pragma unroll
      for (int column = 0; column < 2; ++column)
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
          word[row][column][part] = load_constant<Words4>(pixel[row][column] + 32 * part);
  }
};

// The same as operands A, two a part: rows q and q + 8 of a product are columns q and q + 8 of the strip.
//
// Four words that were loaded at once lie in registers in a row, but an operand takes words of two pixels in a row, and
// the compiler would copy them again for every product. An OR with a zero that it knows nothing of gives each word a
// register of its own, once.
template <int PARTS> struct ConditionOperands {
  uint32_t word[STEP_ROWS][PARTS][2][4];

  __device__ __forceinline__ void take(const ConditionWords<PARTS>& loaded, uint32_t zero) {
#pragma unroll
    for (int row = 0; row < STEP_ROWS; ++row)
#pragma unroll
      for (int column = 0; column < 2; ++column)
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            word[row][part][i >> 1][column + 2 * (i & 1)] = loaded.word[row][column][part].number[i] | zero;
  }
};

// The weight and bias of one group in shared memory, as the projection's operands take them. Row 8 dy + dx of the
// weight is tap (dy, dx). Of every 32 numbers of the condition lane t of a quad takes 8t to 8t+7, 16 bytes that serve
// two products of 16 numbers; the order within a sum is free, so the condition is taken in the same one.
template <class T, int CONDITION> struct Projection {
  static_assert(CONDITION % 64 == 0, "the pitch below is meant for whole lines of 128 bytes");
  static constexpr int PITCH = CONDITION + 32;  // numbers: neighbouring rows are 64 bytes apart in the banks
  static constexpr int WEIGHT_BYTES = PADDED_FILTERS * PITCH * int(sizeof(T));
  static constexpr int BIAS_QUADS = PADDED_FILTERS / 2;
  static constexpr int BYTES = WEIGHT_BYTES + BIAS_QUADS * int(sizeof(Floats4));

  char* memory;

  // Begins to copy the weight, shared by so many warps; zeros where there is no such group.
  __device__ __forceinline__ void copy(const Forward& parameters, int group, int lane, int sharer, int sharers) const {
    constexpr int PIECE = 16 / int(sizeof(T)), PIECES = CONDITION / PIECE;
    const T* const weight = static_cast<const T*>(parameters.weight);
    const bool any = group < parameters.groups;
    for (int i = sharer * LANES + lane; i < PADDED_FILTERS * PIECES; i += sharers * LANES) {
      const int row = i / PIECES, column = i % PIECES * PIECE, dx = row % PADDED_TAPS;
      const bool wanted = any && dx < TAPS;
      const int tap = row / PADDED_TAPS * TAPS + dx;
      const int64_t filter = wanted ? int64_t(tap) * parameters.groups + group : 0;
      copy_16(memory + (row * PITCH + column) * int(sizeof(T)), weight + filter * CONDITION + column, wanted);
    }
    // A pair of taps has its biases twice, for the rows q and q + 8 of an accumulator.
    const int pair = sharer * LANES + lane;
    if (pair < BIAS_QUADS) {
      const int row = pair / 4, dx = pair % 4 * 2;
      const float low = bias_of(parameters, group, row, dx), high = bias_of(parameters, group, row, dx + 1);
      store(memory + WEIGHT_BYTES + pair * int(sizeof(Floats4)), Floats4{{low, high, low, high}});
    }
  }

  // What the accumulators of a kernel row begin with.
  __device__ __forceinline__ Floats4 bias(int row, int lane) const {
    return load<Floats4>(memory + WEIGHT_BYTES + (row * 4 + (lane & 3)) * int(sizeof(Floats4)));
  }
  // d = c + the product over numbers 32 first to 32 (first + PARTS) - 1 of the condition with a kernel row's weight,
  // for two rows of pixels.
  template <int PARTS>
  __device__ __forceinline__ void filters(float (&d)[STEP_ROWS][4], const ConditionOperands<PARTS>& condition, int row,
                                          int first, int lane, const float* const (&c)[STEP_ROWS]) const {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const Words4 taps = weight(row, first + part, lane);
#pragma unroll
      for (int i = 0; i < STEP_ROWS; ++i) {
        multiply(d[i], condition.word[i][part][0], taps.number, part ? d[i] : c[i], T{});
        multiply(d[i], condition.word[i][part][1], taps.number + 2, d[i], T{});
      }
    }
  }

 private:
  static __device__ __forceinline__ float bias_of(const Forward& parameters, int group, int row, int dx) {
    if (!parameters.bias || group >= parameters.groups || dx == TAPS) return 0;
    const int64_t filter = int64_t(row * TAPS + dx) * parameters.groups + group;
    return widen(load_constant<Vector<T, 1>>(static_cast<const T*>(parameters.bias) + filter).number[0]);
  }
  // Two operands B, for numbers 32 part to 32 part + 31 of the condition.
  __device__ __forceinline__ Words4 weight(int row, int part, int lane) const {
    const int number = (row * PADDED_TAPS + (lane >> 2)) * PITCH + 32 * part + 8 * (lane & 3);
    return load<Words4>(memory + number * int(sizeof(T)));
  }
};

// Rows of x of one group, for a warp that walks down: five pairs of rows of 24 pixels, from REACH columns left of the
// strip, of which 22 are met. Four pairs are read by a step (rows y - 3 to y + 4), while the fifth is on its way. Zeros
// stand for what is outside of the picture. A pixel is 2 or 4 pieces of 16 bytes, in an order that turns with the
// pixel, so that 8 pixels' equal pieces lie in all banks.
template <class T, int CHANNELS> struct RowRing {
  static constexpr int PIXELS = 24, MET = STRIP_COLUMNS + 2 * REACH, PAIRS = 5;
  static constexpr int PIXEL_BYTES = CHANNELS * int(sizeof(T)), PIECES = PIXEL_BYTES / 16;
  static constexpr int ROW_BYTES = PIXELS * PIXEL_BYTES, PAIR_BYTES = STEP_ROWS * ROW_BYTES;
  static constexpr int BYTES = PAIRS * PAIR_BYTES;
  static constexpr int COPIES = PAIR_BYTES / 16 / LANES;  // of a lane, a pair of rows
  static constexpr uint32_t NOWHERE = 1u << 31;           // no picture is as large, however far the strip goes

  char* memory;
  const T* picture;        // of this group: its first pixel
  uint32_t at[COPIES];     // what the lane copies next, in numbers from there; above the picture: about 2^32
  uint32_t end;            // nothing is wanted from here on
  uint32_t step;           // two rows
  int piece;               // where the lane's first piece goes; the next ones are LANES pieces further
  int operand;             // the row of a matrix that this lane names
  int oldest;              // offset of the pair of rows that is read first

  static __device__ __forceinline__ int place(int pixel, int piece) {
    constexpr int PIXELS_A_LINE = 128 / PIXEL_BYTES;
    return pixel * PIXEL_BYTES + (piece ^ (pixel / PIXELS_A_LINE % PIECES)) * 16;
  }
  static __device__ __forceinline__ int wrapped(int offset) { return offset >= BYTES ? offset - BYTES : offset; }

  __device__ __forceinline__ RowRing(char* memory, const Forward& parameters, const WarpStrip& strip, int lane)
      : memory(memory), oldest(0) {
    const int width = parameters.width, channels = parameters.channels;
    const int64_t pixels = int64_t(parameters.height) * width;
    picture = static_cast<const T*>(parameters.x) + strip.image * pixels * channels + strip.group * CHANNELS;
    step = uint32_t(STEP_ROWS * width) * channels;
    end = strip.any ? uint32_t(min(strip.end + REACH, parameters.height)) * width * channels : 0;
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
      constexpr int PIECES_A_ROW = PIXELS * PIECES;
      const int number = lane + LANES * i, pixel = number % PIECES_A_ROW / PIECES;
      const int column = strip.x - REACH + pixel, row = strip.y - REACH + number / PIECES_A_ROW;
      const bool inside = column >= 0 && column < width && pixel < MET;
      at[i] = inside ? uint32_t(row * width + column) * channels + number % PIECES * 8 : NOWHERE;
    }
    // LANES pieces are a multiple of what the order turns by, in either row.
    piece = place(lane / PIECES, lane % PIECES);
    // Matrices 0, 1: 8 pixels, channels 0-7 and 8-15; 2, 3: the next 8 pixels.
    operand = place((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1);
  }

  // Begins to copy the next pair of rows to this offset.
  __device__ __forceinline__ void copy_next(int offset) {
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
      copy_16(memory + offset + piece + LANES * 16 * i, picture + at[i], at[i] < end);
      at[i] += step;
    }
    end_group_of_copies();
  }
  __device__ __forceinline__ void copy_first() {
#pragma unroll
    for (int pair = 0; pair < PAIRS - 1; ++pair) copy_next(pair * PAIR_BYTES);
  }
  __device__ __forceinline__ void copy_ahead() { copy_next(wrapped(oldest + (PAIRS - 1) * PAIR_BYTES)); }
  __device__ __forceinline__ void turn() { oldest = wrapped(oldest + PAIR_BYTES); }

  // The pairs of rows that a step reads.
  __device__ __forceinline__ void pairs(const char* (&pair)[PAIRS - 1]) const {
#pragma unroll
    for (int i = 0; i < PAIRS - 1; ++i) pair[i] = memory + wrapped(oldest + i * PAIR_BYTES);
  }
  // The operand A of a band's product: 16 channels x the 16 keys of a patch.
  __device__ __forceinline__ void keys(uint32_t* words, const char* const (&pair)[PAIRS - 1], int row, int patch,
                                       int half) const {
    const char* const first = pair[row >> 1] + (row & 1) * ROW_BYTES + patch * 8 * PIXEL_BYTES;
    load_matrices_4<true>(words, first + (operand ^ (half * 32)));
  }
};

// Writes 16 channels of a patch, from the sums of the bands' products: lanes change from (channel q; pixels 2t, 2t+1)
// to (pixel q; channels 2t, 2t+1 and 2t+8, 2t+9), whose address this is.
template <class T>
__device__ __forceinline__ void store_patch(T* address, const float (&sums)[4], float scale, bool inside) {
  const uint32_t lower = transposed(packed(sums[0] * scale, sums[1] * scale, T{}));
  const uint32_t upper = transposed(packed(sums[2] * scale, sums[3] * scale, T{}));
  if (inside) {
    store(address, Vector<uint32_t, 1>{{lower}});
    store(address + 8, Vector<uint32_t, 1>{{upper}});
  }
}

}  // namespace laconv::k7
