// The convolution of a kernel row as a product of matrices, for filters of up to 7 taps a row. A patch is 8
// neighbouring pixels of a row; together they meet 16 columns of x, its keys, the first of which is what tap 0 of pixel
// 0 meets. Pixel p meets key p + tap, so the filters of a patch are a band in a matrix of keys and pixels:
//
//               pixel 0   1   2   3   4   5   6   7
//     key  0        f0
//          1        f1  f0
//          2        f2  f1  f0
//         ...
//          7            f6  f5  f4  f3  f2  f1  f0       words 0 of the lanes end here
//          8                f6  f5  f4  f3  f2  f1       words 1 begin here
//         ...
//         13                                    f6
//
//     result^T (16 channels x 8 pixels) += x^T (16 channels x 16 keys) * band (16 keys x 8 pixels)
//
// The projection leaves the filters of pixel q in the four lanes of quad q, taps 2t and 2t + 1 in lane t (numbers 0 and
// 1 of its accumulators; numbers 2 and 3 are pixel q of the next patch). As an operand B the band wants keys 2t and 2t
// + 1 in word 0, keys 2t + 8 and 2t + 9 in word 1 of the same lanes. With q = 2s or 2s + 1 these are the taps of lane t
// - s of the quad, cyclically, or the upper one of the lane before and the lower one of that lane. So pairs turn within
// their quad, and each serves one word; the other is zero. Of pixels 4 and 5, where s = 2:
//
//         lane t                       0      1      2      3
//         has taps                    0 1    2 3    4 5    6 7
//     pixel 4  word 0: keys 2t, 2t+1   -      -     0 1    2 3      where t >= s
//              word 1: keys 2t+8, ..  4 5    6 7     -      -       where t < s
//     pixel 5  word 0                  -      -     7 0    1 2
//              word 1                 3 4    5 6     -      -
//
// A kernel row has no tap 7: the projection must leave zero there. (In an odd pixel it stands where tap -1 would.)
#pragma once
#include "warp.cuh"

namespace laconv {

// Where a lane finds its part of a band.
struct BandLane {
  int same;           // the lane whose pair is turned to this one
  int before;         // the lane before it in the quad, cyclically
  uint32_t selector;  // joins the two pairs
  bool second_word;   // the pair is word 1, else word 0
};

__device__ __forceinline__ BandLane band_lane(int lane) {
  const int q = lane >> 2, t = lane & 3, s = q >> 1, turned = (t - s) & 3, quad = lane & ~3;
  return {quad | turned, quad | ((turned + 3) & 3), q & 1 ? 0x5432u : 0x7654u, t < s};
}

// The operand B of the product, words[2], from the pair of filters that the projection left in this lane.
__device__ __forceinline__ void band_of(uint32_t pair, const BandLane& lane, uint32_t* words) {
  const uint32_t turned = bytes(shuffled(pair, lane.before), shuffled(pair, lane.same), lane.selector);
  words[0] = lane.second_word ? 0u : turned;
  words[1] = lane.second_word ? turned : 0u;
}

// The mask of `mask.cuh` on pairs of filters, for k = 5 and 7: lane t of a quad has taps 2t and 2t + 1 of a kernel row,
// and block t of the pixel's random bytes has these two columns of every row. Two bytes are compared at once, each as
// the half-precision number 1024 + byte, whose upper byte is 0x64; digit 5 of the selectors is that of the threshold.
__device__ __forceinline__ uint32_t threshold_pair(uint32_t threshold) {
  return 0x64006400u | threshold | threshold << 16;
}
__device__ __forceinline__ uint32_t dropped(uint32_t pair, const Bits128& random, int row, uint32_t threshold_pair) {
  const uint32_t drawn = bytes(random.word[row >> 1], threshold_pair, row & 1 ? 0x5352u : 0x5150u);
  return pair & at_least(drawn, threshold_pair);
}

}  // namespace laconv
