// The gradient of x, k = 7: grad_x[p + offset(tap)] += filter[p, tap] * grad[p], walked down a strip. A row of source
// pixels p is a step; it adds to the seven target rows around it, whose sums wait in registers.
//
// A strip has 32 source columns, four patches of 8, and 24 target columns, three blocks of 8 that begin in the middle of a
// patch: a patch reaches, by its seven taps, the right half of one block and all before the left half of the next. So
//     block b (16 channels x 8 targets) += grad^T (16 channels x 16 sources) * filters (16 sources x 8 targets)
// over the sources of patches b and b + 1.
#pragma once
#include "k7_backward.cuh"

namespace laconv::k7_backward {

constexpr int PATCHES = 4, BLOCKS = PATCHES - 1;
constexpr int SOURCES = 8 * PATCHES, TARGETS = 8 * BLOCKS, AHEAD = 4;  // a strip's sources begin 4 columns ahead
constexpr int MEMBERS = 16;                                            // channels of a group that a warp makes

// Turns a pair of filters of lane (q, t), taps 2t and 2t + 1 of source q, into the operand of the product: lane (q, t) then
// holds what sources 2t and 2t + 1 give to target q of a block.
//
// Source q reaches target q + dx - 3, which is column q + dx + 1 of 16 where the block begins 4 before the patch. Modulo 8
// this turns the row of a source by q + 1 places: by whole pairs an exchange within its quad, by half a pair a choice of
// bytes. Transposed, columns below the source's own number are those that were turned over the end: the right block's.
struct ToTargets {
  int own, before;  // lanes of the quad whose pairs meet here
  uint32_t halves;  // which halves of them
  uint32_t right;   // 0xffff where the target is one of the right block

  explicit __device__ __forceinline__ ToTargets(int lane) {
    const int q = lane / 4, t = lane % 4, pairs = (q + 1) / 2;
    own = lane - t + ((t - pairs) & 3);
    before = lane - t + ((t - pairs - 1) & 3);
    halves = q % 2 ? 0x7654u : 0x5432u;
    right = (q < 2 * t ? 0xffffu : 0u) | (q < 2 * t + 1 ? 0xffff0000u : 0u);
  }
  __device__ __forceinline__ uint32_t of(uint32_t pair) const {
    return transposed(bytes(shuffled(pair, before), shuffled(pair, own), halves));
  }
};

// The gradient of the strip's 32 sources in a row, as the left operand: of each patch the words of 16 channels, in the
// order that makes one load of four channels a pixel enough (and one store, see TargetRows).
template <class T> struct SourceRow {
  uint32_t word[PATCHES][2];

  // `first`: of the lane's channels in the picture; zeros where a column is outside.
  __device__ __forceinline__ void load(const T* first, const uint32_t (&offset)[PATCHES], const bool (&inside)[PATCHES]) {
#pragma unroll
    for (int patch = 0; patch < PATCHES; ++patch) {
      Words2 channels = {{0, 0}};
      if (inside[patch]) channels = load_constant<Words2>(first + offset[patch]);
      word[patch][0] = transposed(channels.number[0]);
      word[patch][1] = transposed(channels.number[1]);
    }
  }
};

// Sums of the target rows that the source rows above have begun. With every source row they move up by one, for nothing:
// the product of a kernel row reads its sum at one place and leaves it at the next.
template <class T> struct TargetRows {
  float sum[TAPS][BLOCKS][4];
  float done[BLOCKS][4];  // the row that no later source row reaches

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int row = 0; row < TAPS; ++row) clear_row(row);
  }
  __device__ __forceinline__ void clear_row(int row) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[row][block][i] = 0.f;
  }

  // What a kernel row of the sources adds; kernel rows must come in their order. `turned`: of ToTargets, by patch.
  __device__ __forceinline__ void add(int kernel_row, const SourceRow<T>& grad, const uint32_t (&turned)[PATCHES],
                                      uint32_t right) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      const uint32_t filters[2] = {turned[block] & right, turned[block + 1] & ~right};
      const uint32_t sources[4] = {grad.word[block][0], grad.word[block][1], grad.word[block + 1][0],
                                   grad.word[block + 1][1]};
      float* const next = kernel_row ? sum[kernel_row - 1][block] : done[block];
      multiply(next, sources, filters, sum[kernel_row][block], T{});
    }
  }
};

// Where a lane's four channels of a target go: the row's sums transposed, so that lane (q, t) has channels 4t to 4t + 3 of
// target q.
template <class T> struct TargetStore {
  T* first;  // of the lane's channels in the picture
  uint32_t channels;
  int column, width;  // of the first block's target
  float scale;

  __device__ __forceinline__ void row(const float (&sum)[BLOCKS][4], uint32_t first_pixel_of_row) const {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      const float* const s = sum[block];
      const uint32_t low = transposed(packed(s[0] * scale, s[1] * scale, T{}));
      const uint32_t high = transposed(packed(s[2] * scale, s[3] * scale, T{}));
      const int at = column + 8 * block;
      if (at < width) store(first + (first_pixel_of_row + uint32_t(at)) * channels, Words2{{low, high}});
    }
  }
};

}  // namespace laconv::k7_backward
