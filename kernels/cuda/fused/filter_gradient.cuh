// The gradient of a group's filters, k = 7, made on the chip while a warp walks down a strip, two rows a step:
//     grad_filters[p, tap] = sum over the group's channels of grad[p] * x[p + offset(tap)], dropped as the filters.
//
// A patch is 8 columns of the two rows, 16 pixels, and meets a row of x in 14 of the 16 columns that begin 3 before
// it, its keys. So S = grad (16 pixels x channels) * x^T (channels x 16 keys) has all taps of a kernel row, that of
// pixel q from key q on; a row of keys is the kernel row n of the upper pixels and n - 1 of the lower, and 8 rows
// serve a step. Each row of a quad is then turned back by its pixel's number, which the forward and grad_x do the
// other way round.
//
// A kernel row is handed on when both rows of pixels have it, as the word of taps 2t, 2t + 1 of pixel q of lane (q,
// t): that is the left operand of filters * weight as it lies. Slot 7 holds whatever the turn leaves there: its weight
// is zero.
#pragma once
#include "k7_backward.cuh"

namespace laconv::k7_backward {

constexpr int STEP = 2;                      // rows of pixels a step
constexpr int KEY_ROWS = TAPS + STEP - 1;    // rows of x that they meet
constexpr uint32_t OUTSIDE = 0x80000000u;    // an offset outside every picture, and still after a walk down it

// The condition's channels that a block takes; more than that its registers do not hold.
constexpr int LARGEST_SLICE = 128;
template <int CONDITION> constexpr int SLICE_OF = CONDITION < LARGEST_SLICE ? CONDITION : LARGEST_SLICE;

// A strip of columns between two rows.
struct Strip {
  int image, left, top, bottom;
};

// Rows of a group's x around the step, in shared memory: 10, of which 8 are read and 2 are on their way. Two rows are
// a pair of planes, one for each 16 channels, so that a pixel has two pieces of 16 bytes in each: they lie in turn,
// four pixels this way and four the other, so that 8 neighbouring pixels' first (or second) pieces lie in different
// banks.
template <class T, int MEMBERS, int PATCHES> struct KeyRing {
  static constexpr int PARTS = MEMBERS / 16, COLUMNS = 8 * PATCHES + 8;
  static constexpr int PIXEL = 32, ROW = COLUMNS * PIXEL, PLANE = 2 * ROW, PAIR = PARTS * PLANE, BYTES = 5 * PAIR;
  static constexpr int COPIES = PLANE / (16 * LANES);  // a lane makes for a plane

  char* copies;              // where the lane's first copy goes, at place 0
  const char *keys, *third;  // see `load`
  const T* picture;          // of x
  uint32_t offset[COPIES];   // in the picture, of the next copies

  static __device__ __forceinline__ int place_of(int pixel, int piece) {
    return pixel * PIXEL + (piece ^ pixel / 4 % 2) * 16;
  }
  // Places in the ring are bytes and grow; behind the end the difference is the smaller one.
  static __device__ __forceinline__ uint32_t wrapped(uint32_t place) { return min(place, place - uint32_t(BYTES)); }

  __device__ __forceinline__ KeyRing(char* memory, int lane)
      : copies(memory + place_of(lane / 2, lane % 2)),
        keys(memory + place_of(lane % 8 + lane / 16 * 8, lane / 8 % 2)),
        third(memory + lane / 16 % PARTS * PLANE + place_of(16 + lane % 8, lane / 8 % 2)) {}

  // Asks for the first 8 rows of a strip, the walk's first place being 0; zeros where there is no such group.
  __device__ __forceinline__ void begin(const Call& call, const Strip& strip, int group, int lane) {
    picture = as_it_is(static_cast<const T*>(call.x) + int64_t(strip.image) * call.picture_of_x);
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
      // The two rows' pixels are counted through; neither ROW nor a copy's distance turns pieces.
      const int pixel = (lane + LANES * i) / 2, column = strip.left - REACH + pixel % COLUMNS;
      const bool inside = group < call.groups && column >= 0 && column < call.width && pixel % COLUMNS < COLUMNS - 2;
      const int y = strip.top - REACH + pixel / COLUMNS;
      const int in_row = column * call.channels + group * MEMBERS + lane % 2 * 8;
      offset[i] = inside ? uint32_t(y) * call.row_of_x + uint32_t(in_row) : OUTSIDE;
    }
#pragma unroll
    for (int pair = 0; pair < KEY_ROWS / 2; ++pair) fetch(call, pair * PAIR, true);
  }

  // Asks for the next two rows, as one group of copies, where there is a step `more` to read them. Rows above the
  // picture have an offset below zero, which as an unsigned number is beyond its end like that of rows below.
  __device__ __forceinline__ void fetch(const Call& call, uint32_t place, bool more) {
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
#pragma unroll
      for (int part = 0; part < PARTS; ++part)
        copy_16(copies + place + part * PLANE + 16 * LANES * i, picture + int(offset[i]) + 16 * part,
                offset[i] < call.picture_of_x && more);
      offset[i] += 2 * call.row_of_x;
    }
    end_group_of_copies();
  }

  // The right operands of a row of x: words of 8 keys x 16 channels, by part of the channels and block of 8 keys. A
  // load gives two blocks of one part, or the third block of all parts.
  __device__ __forceinline__ void load(uint32_t (&words)[PARTS][PATCHES + 1][2], uint32_t place) const {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      uint32_t blocks[4];
      load_matrices_4<false>(blocks, keys + place + part * PLANE);
#pragma unroll
      for (int i = 0; i < 4; ++i) words[part][i / 2][i % 2] = blocks[i];
    }
    if (PATCHES == 1) return;
    uint32_t parts[4];
    if (PARTS == 1) load_matrices_2<false>(parts, third + place);
    else load_matrices_4<false>(parts, third + place);
#pragma unroll
    for (int i = 0; i < 2 * PARTS; ++i) words[i / 2][PATCHES][i % 2] = parts[i];
  }
};

// The gradient of the result at the step's pixels, as the left operand: its words lie in memory as they are.
template <class T, int MEMBERS, int PATCHES> struct GradRows {
  const T* picture;
  uint32_t offset[PATCHES], end;
  uint32_t word[PATCHES][MEMBERS / 16][4];

  __device__ __forceinline__ void begin(const Call& call, const Strip& strip, int group, int lane) {
    picture = as_it_is(static_cast<const T*>(call.grad) + int64_t(strip.image) * call.picture_of_x);
    end = uint32_t(strip.bottom) * call.row_of_x;
#pragma unroll
    for (int patch = 0; patch < PATCHES; ++patch) {
      const int column = strip.left + 8 * patch + lane / 4;
      const bool inside = group < call.groups && column < call.width;
      const int in_row = column * call.channels + group * MEMBERS + lane % 4 * 2;
      offset[patch] = inside ? uint32_t(strip.top) * call.row_of_x + uint32_t(in_row) : OUTSIDE;
    }
  }

  // The next two rows; zeros, whose filters have no gradient, beside the picture and below the strip.
  __device__ __forceinline__ void load(const Call& call) {
#pragma unroll
    for (int patch = 0; patch < PATCHES; ++patch) {
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        const uint32_t at = offset[patch] + lower * call.row_of_x;
#pragma unroll
        for (int part = 0; part < MEMBERS / 16; ++part)
#pragma unroll
          for (int half = 0; half < 2; ++half)
            word[patch][part][lower + 2 * half] = load_word_if(picture + int(at) + 16 * part + 8 * half, at < end);
      }
      offset[patch] += STEP * call.row_of_x;
    }
  }
};

template <class T, int MEMBERS, int PATCHES, bool DROP> struct FilterGradient {
  using Ring = KeyRing<T, MEMBERS, PATCHES>;

  Ring ring;
  GradRows<T, MEMBERS, PATCHES> grad;
  const Call& call;
  int group;
  int lower, upper;   // lanes of the quad whose keys are the taps of this one
  uint32_t selector;  // joins them
  bool from_first;    // its own keys are wanted of the first block of 8, else of the second
  int t, column;      // of the lane's pixel in the first patch
  Key key;

  __device__ __forceinline__ FilterGradient(const Call& of, int of_group, int lane, char* memory)
      : ring(memory, lane), call(of), group(of_group) {
    const int q = lane / 4, pairs = q / 2;
    t = lane % 4;
    lower = lane - t + ((t + pairs) & 3);
    upper = lane - t + ((t + pairs + 1) & 3);
    selector = q % 2 ? 0x5432u : 0x3210u;
    from_first = t >= pairs;
  }

  // Asks for what the first step reads. Of a group that is none everything is zero.
  __device__ __forceinline__ void begin(const Strip& strip, int of_group, int lane) {
    column = strip.left + lane / 4;
    if (DROP) key = load_constant<Key>(call.keys + strip.image);
    ring.begin(call, strip, of_group, lane);
    grad.begin(call, strip, of_group, lane);
    grad.load(call);
  }

  // Calls take(kernel_row, words) for each kernel row, words[patch][row of pixels]. `place`: of the first of 8 rows of
  // x.
  template <class Take> __device__ __forceinline__ void step(uint32_t place, int y, const Take& take) {
    Bits128 random[PATCHES][2];
    if (DROP) {
      const Key key_here = key_of_row(key, y, call.zero);
#pragma unroll
      for (int patch = 0; patch < PATCHES; ++patch)
#pragma unroll
        for (int row = 0; row < 2; ++row)
          random[patch][row] = filter_bits(key_here, uint32_t((y + row) * call.width + column + 8 * patch), group, t);
    }
    uint32_t of_upper_row[PATCHES] = {};  // waits for the same kernel row of the lower pixels
#pragma unroll
    for (int pair = 0; pair < KEY_ROWS / 2; ++pair) {
      const uint32_t of_pair = Ring::wrapped(place + pair * Ring::PAIR);
#pragma unroll
      for (int row_of_two = 0; row_of_two < 2; ++row_of_two) {
        const int key_row = 2 * pair + row_of_two;
        uint32_t keys[Ring::PARTS][PATCHES + 1][2];
        ring.load(keys, of_pair + row_of_two * Ring::ROW);
        uint32_t words[PATCHES][2];
#pragma unroll
        for (int patch = 0; patch < PATCHES; ++patch) {
          float first[4] = {0, 0, 0, 0}, second[4] = {0, 0, 0, 0};
#pragma unroll
          for (int part = 0; part < Ring::PARTS; ++part) {
            multiply(first, grad.word[patch][part], keys[part][patch], first, T{});
            multiply(second, grad.word[patch][part], keys[part][patch + 1], second, T{});
          }
          words[patch][0] = of_upper_row[patch];
          if (key_row < TAPS) of_upper_row[patch] = taps(first, second, random[patch][0], key_row);
          if (key_row > 0) words[patch][1] = taps(first + 2, second + 2, random[patch][1], key_row - 1);
        }
        if (key_row > 0) take(key_row - 1, words);
      }
    }
  }

 private:
  // Of the lane's pair of keys in both blocks: its pair of taps.
  __device__ __forceinline__ uint32_t taps(const float* first, const float* second, const Bits128& random,
                                           int kernel_row) const {
    const uint32_t pair = packed(from_first ? first[0] : second[0], from_first ? first[1] : second[1], T{});
    const uint32_t turned = bytes(shuffled(pair, lower), shuffled(pair, upper), selector);
    return DROP ? turned & kept(random, kernel_row, call.threshold) : turned;
  }
};

}  // namespace laconv::k7_backward
