// The convolution of a kernel row as a product of matrices, for filters of up to 8 taps a row. A patch is 8 neighbouring
// pixels of a row; together they see 16 columns of x, the keys, of which key 0 is the pixel that tap 0 of pixel 0 meets.
// Pixel p meets key p + tap, so the filters of a patch are a band in a matrix of keys x pixels:
//
//              pixel 0   1   2   3   4   5   6   7
//     key  0       f0
//          1       f1  f0
//          2       f2  f1  f0
//          3       f3  f2  f1  f0                             word 0 of lane (q, t): pixel q, keys 2t, 2t+1
//          ...
//          7       f7  f6  f5  f4  f3  f2  f1  f0
//         ------------------------------------------------
//          8           f7  f6  f5  f4  f3  f2  f1
//          9               f7  f6  f5  f4  f3  f2             word 1: keys 2t+8, 2t+9
//          ...
//         14                                   f7
//
//     result^T (16 channels x 8 pixels) += x^T (16 channels x 16 keys) * band (16 keys x 8 pixels)
//
// The projection leaves filters of pixel q in the four lanes of quad q: lane t has taps 2t and 2t+1 (numbers 0, 1 of an
// accumulator; 2, 3 are the patch of pixels q + 8). As the band wants keys 2t, 2t+1 of pixel q = 2s + odd, that is taps
// 2(t-s) - odd and the next, the pairs turn inside their quad by s lanes. Of the quad of pixel 4 (s = 2) and of pixel 5:
//
//     lane t                    0       1       2       3
//     has taps                  0 1     2 3     4 5     6 7
//     pixel 4: keys 2t, 2t+1            .       0 1     2 3       lanes t >= s: word 0
//              keys 2t+8, 2t+9  4 5     6 7                       lanes t < s:  word 1
//     pixel 5: keys 2t, 2t+1            .       7'0     1 2
//              keys 2t+8, 2t+9  3 4     5 6     7
//
// So one turned pair serves both words: lane t takes the pair of lane (t - s) & 3, an odd pixel joins the upper number of
// the lane before that with the lower number of that lane, and the pair goes where the lane says; the other word is zero.
// At 7' stands tap 7, for which no room is left where t = s and the pixel is odd: a filter row has 7 taps at most, and the
// projection makes tap 7 zero. (It stands at key 2s of word 0, and is tap -1 there.)
//
// Where a filter or an x is not finite, the zeros of the band make 0 * Inf = NaN: see `k7_strip.cuh`.
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

// The mask of `mask.cuh` on pairs of filters, for 5 <= k <= 7: lane t of a quad holds taps 2t, 2t+1 of a kernel row, block
// t of the pixel's random bytes holds these two columns for every row. Bytes are compared as half-precision numbers
// 1024 + byte, two at once.
__device__ __forceinline__ uint32_t threshold_pair(uint32_t threshold) {
  return 0x64006400u | threshold | threshold << 16;
}
__device__ __forceinline__ uint32_t dropped(uint32_t pair, const Bytes16& random, int row, uint32_t threshold_pair) {
  const uint32_t drawn = bytes(random.word[row >> 1], threshold_pair, row & 1 ? 0x5352u : 0x5150u);
  return pair & at_least(drawn, threshold_pair);
}

}  // namespace laconv
