// The gradient of x, k = 7: grad_x[p + offset(tap)] += filter[p, tap] * grad[p], walked down a strip. A row of source
// pixels p is a step; it adds to the seven target rows around it, whose sums wait in registers.
//
// A strip has 32 source columns, four patches of 8. Targets are in blocks of 8 columns that begin in the middle of a
// patch, so that a patch reaches, by its seven taps, two blocks and no more:
//     block (16 channels x 8 targets) += grad^T (16 channels x 16 sources) * filters (16 sources x 8 targets)
// over the patches to its left and right. Of the five blocks that a strip's patches reach, the three inner ones have
// all their sources in it: 24 columns, from which strips follow each other. At the left edge of the picture the first
// block is complete as well. Where registers allow (LEFT_BLOCK), the first strip begins at the edge and has 28
// targets: one strip then serves a picture of 28 columns, and two one of 52.
#pragma once
#include "k7_backward.cuh"

namespace laconv::k7_backward {

constexpr int PATCHES = 4, INNER_BLOCKS = PATCHES - 1;
constexpr int TARGETS = 8 * INNER_BLOCKS;  // columns from strip to strip
constexpr int HALF_PATCH = 4;
constexpr int MEMBERS = 16;  // channels of a group that a warp makes

// Turns a pair of filters of lane (q, t), taps 2t and 2t + 1 of source q, into the operand of the product: lane (q, t)
// then holds what sources 2t and 2t + 1 give to target q of a block.
//
// Source q reaches target q + dx - 3, which is column q + dx + 1 of 16 where the block begins 4 before the patch.
// Modulo 8 this turns the row of a source by q + 1 places: by whole pairs an exchange within its quad, by half a pair
// a choice of bytes. Transposed, columns below the source's own number are those that were turned over the end: the
// right block's.
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
  __device__ __forceinline__ void load(const T* first, const uint32_t (&offset)[PATCHES],
                                       const bool (&inside)[PATCHES]) {
#pragma unroll
    for (int patch = 0; patch < PATCHES; ++patch) {
      Words2 channels = {{0, 0}};
      if (inside[patch]) channels = load_constant<Words2>(first + offset[patch]);
      word[patch][0] = transposed(channels.number[0]);
      word[patch][1] = transposed(channels.number[1]);
    }
  }
};

// Sums of the target rows that the source rows above have begun. With every source row they move up by one, for
// nothing: the product of a kernel row reads its sum at one place and leaves it at the next.
template <class T, bool LEFT_BLOCK> struct TargetRows {
  static constexpr int BLOCKS = INNER_BLOCKS + LEFT_BLOCK;

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
      const int to_right = block + 1 - LEFT_BLOCK, to_left = to_right - 1;
      uint32_t filters[2] = {0, turned[to_right] & ~right}, sources[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < 2; ++i) sources[2 + i] = grad.word[to_right][i];
      if (to_left >= 0) {
        filters[0] = turned[to_left] & right;
#pragma unroll
        for (int i = 0; i < 2; ++i) sources[i] = grad.word[to_left][i];
      }
      float* const next = kernel_row ? sum[kernel_row - 1][block] : done[block];
      multiply(next, sources, filters, sum[kernel_row][block], T{});
    }
  }
};

// Where a lane's four channels of a target go: the row's sums transposed, so that lane (q, t) has channels 4t to 4t +
// 3 of target q.
template <class T> struct TargetStore {
  T* first;  // of the lane's channels in the picture
  uint32_t channels;
  int column;  // of the lane's target in the first block
  int begin, end;  // of the columns that are the strip's
  float scale;

  template <int BLOCKS>
  __device__ __forceinline__ void row(const float (&sum)[BLOCKS][4], uint32_t first_pixel_of_row) const {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      const float* const s = sum[block];
      const uint32_t low = transposed(packed(s[0] * scale, s[1] * scale, T{}));
      const uint32_t high = transposed(packed(s[2] * scale, s[3] * scale, T{}));
      const int at = column + 8 * block;
      const bool inner = BLOCKS == INNER_BLOCKS || block > 0;  // these begin at `begin` or behind it
      if ((inner || at >= begin) && at < end)
        store(first + (first_pixel_of_row + uint32_t(at)) * channels, Words2{{low, high}});
    }
  }
};

}  // namespace laconv::k7_backward
