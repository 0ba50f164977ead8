// The gradient of x, k = 7, 16 channels a group and a condition of 64 or 128: a warp owns a group, four warps of a
// block walk down the same strip (so three of them find the condition in the cache). The weight of each group lies in
// shared memory; filters of one kernel row live at a time. Scatter and lanes: k7_scatter.cuh.
#pragma once
#include "k7_scatter.cuh"
#include "k7_weight.cuh"

namespace laconv::k7_backward {

struct GradXParameters {
  Call call;
  Cut cut;
  void* result;
  int parts;  // blocks that share a strip
};

// The condition of the strip's 32 sources in a row as the left operand of the filters' product, K = CHUNKS * 32.
//
// Sixteen bytes of a pixel are its words of two products. Every word passes an OR with a zero that the compiler does
// not know: a load leaves four words of one pixel in neighbouring registers and a product wants words of two pixels
// there, and without a place of their own ptxas copies all of them for every kernel row, which doubles the
// instructions.
template <class T, int CHUNKS> struct ConditionRow {
  uint32_t word[PATCHES / 2][CHUNKS][2][4];

  // `first`: of the lane's 8 numbers in the picture's first pixel.
  __device__ __forceinline__ void load(const T* first, const uint32_t (&offset)[PATCHES], uint32_t zero) {
#pragma unroll
    for (int patch = 0; patch < PATCHES; ++patch)
#pragma unroll
      for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const Words4 numbers = load_constant<Words4>(first + offset[patch] + 32 * chunk);
        uint32_t(*const of)[4] = word[patch / 2][chunk];
        const int upper_row = patch % 2;
        of[0][upper_row] = numbers.number[0] | zero;
        of[0][2 + upper_row] = numbers.number[1] | zero;
        of[1][upper_row] = numbers.number[2] | zero;
        of[1][2 + upper_row] = numbers.number[3] | zero;
      }
  }
};

template <class T, int CONDITION, bool DROP>
__global__ void __launch_bounds__(THREADS, 2) k7_grad_x(const GradXParameters parameters) {
  constexpr int CHUNKS = CONDITION / 32, WARPS = THREADS / LANES;
  const Call& call = parameters.call;
  const int lane = int(threadIdx.x) % LANES, warp = int(threadIdx.x) / LANES, q = lane / 4, t = lane % 4;
  const Place place = place_of(blockIdx.x, parameters.cut, parameters.parts);
  const int group = place.part * WARPS + warp;
  if (group >= call.groups) return;  // a whole warp; the block has no barrier

  char* const memory = shared_memory() + warp * GroupWeight<T, CONDITION>::BYTES;
  GroupWeight<T, CONDITION>::fill(memory, call, group, lane, LANES);
  const GroupWeight<T, CONDITION> weight(memory, lane);
  synchronize_warp();

  const int top = place.band * parameters.cut.rows, bottom = min(top + parameters.cut.rows, call.height);
  const int begin = max(top - REACH, 0), end = min(bottom + REACH, call.height);
  const int left = place.strip * TARGETS;
  const int64_t picture = int64_t(place.image) * (call.height * call.width);
  const T* const cond = static_cast<const T*>(call.cond) + picture * CONDITION + 8 * t;
  const T* const grad = static_cast<const T*>(call.grad) + picture * call.channels + group * MEMBERS + 4 * t;
  const TargetStore<T> targets{static_cast<T*>(parameters.result) + picture * call.channels + group * MEMBERS + 4 * t,
                               uint32_t(call.channels), left + q, left, call.width, DROP ? call.scale : 1.f};

  const ToTargets turn(lane);
  const Key key = DROP ? load_constant<Key>(call.keys + place.image) : Key{0, 0};

  TargetRows<T, false> rows;
  rows.clear();
  uint32_t first_pixel = uint32_t(begin) * call.width;
  for (int y = begin; y < end; ++y, first_pixel += call.width) {
    ConditionRow<T, CHUNKS> condition;
    SourceRow<T> source;
    uint32_t of_grad[PATCHES], of_condition[PATCHES];
    bool inside[PATCHES];
#pragma unroll
    for (int patch = 0; patch < PATCHES; ++patch) {
      // Columns outside the picture have a gradient of zero, so that the filters of any pixel will do for them.
      const int at = left - HALF_PATCH + q + 8 * patch, column = max(0, min(at, call.width - 1));
      inside[patch] = column == at;
      of_grad[patch] = (first_pixel + column) * call.channels;
      of_condition[patch] = (first_pixel + column) * CONDITION;
    }
    source.load(grad, of_grad, inside);
    condition.load(cond, of_condition, call.zero);
    Bits128 random[PATCHES];
    if (DROP) {
#pragma unroll
      for (int patch = 0; patch < PATCHES; ++patch)
        random[patch] = filter_bits(key, first_pixel + left - HALF_PATCH + q + 8 * patch, group, t);
    }
#pragma unroll
    for (int kernel_row = 0; kernel_row < TAPS; ++kernel_row) {
      float filters[2][4];
      weight.filters(filters, condition.word, kernel_row);
      uint32_t turned[PATCHES];
#pragma unroll
      for (int patch = 0; patch < PATCHES; ++patch) {
        const float* const taps = filters[patch / 2] + 2 * (patch % 2);
        uint32_t pair = packed(taps[0], taps[1], T{});
        if (DROP) pair &= kept(random[patch], kernel_row, call.threshold);
        turned[patch] = turn.of(pair);
      }
      rows.add(kernel_row, source, turned, turn.right);
    }
    rows.clear_row(TAPS - 1);
    if (y - REACH >= top) targets.row(rows.done, first_pixel - REACH * call.width);
  }
  // At the picture's end no source row is left for the last three targets. After the loop, since a branch in it would
  // make every turn copy the sums.
#pragma unroll
  for (int last = 0; last < REACH; ++last) {
    const int y = end - REACH + last;
    if (y >= top && y < bottom) targets.row(rows.sum[last], uint32_t(y) * call.width);
  }
}

}  // namespace laconv::k7_backward
