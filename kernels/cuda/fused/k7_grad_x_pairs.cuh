// The gradient of x, k = 7, 32 channels a group and a condition of 256 or 512: two warps share a group. Each makes the
// filters of 16 of the strip's 32 source columns, of all kernel rows, and hands them over turned to the targets; each
// then adds all sources for its half of the channels. So filters are made once, and a warp's sums (16 channels) leave
// registers for a fourth block of targets, which saves a strip in two where a picture is 26 pixels wide.
//
// The condition is too long to be held: it comes in chunks, for which the filters of all seven kernel rows wait.
#pragma once
#include "k7_grad_x.cuh"

namespace laconv::k7_backward {

// GROUPS of a block, as many as let two blocks of 256 conditions, or three of 512, share a multiprocessor.
template <class T, int CONDITION> struct GradXPairs {
  static constexpr int GROUPS = CONDITION > 256 ? 1 : 2, WARPS = 2 * GROUPS;
  static constexpr int BLOCKS_A_PROCESSOR = CONDITION > 256 ? 3 : 2;
  static constexpr int CHUNKS = 4, CHUNK = 32 * CHUNKS;  // of the condition at a time: pieces of 32, numbers
  static constexpr int WEIGHTS = GROUPS * GroupWeight<T, CONDITION>::BYTES;
  static constexpr int BYTES = WEIGHTS + WARPS * 2 * KernelRows::BYTES;
};

// The condition's CHUNK of 16 sources as left operands: see ConditionRow.
template <class T, int CHUNKS>
__device__ __forceinline__ void load_chunk(uint32_t (&word)[CHUNKS][2][4], const T* cond, const uint32_t (&offset)[2],
                                           uint32_t zero) {
#pragma unroll
  for (int patch = 0; patch < 2; ++patch)
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      const Words4 numbers = load_constant<Words4>(cond + offset[patch] + 32 * chunk);
#pragma unroll
      for (int i = 0; i < 4; ++i) word[chunk][i / 2][patch + i % 2 * 2] = numbers.number[i] | zero;
    }
}

template <class T, int CONDITION, bool DROP>
__global__ void __launch_bounds__(GradXPairs<T, CONDITION>::WARPS* LANES, GradXPairs<T, CONDITION>::BLOCKS_A_PROCESSOR)
    k7_grad_x_pairs(const GradXParameters parameters) {
  using Work = GradXPairs<T, CONDITION>;
  using Weight = GroupWeight<T, CONDITION>;
  const Call& call = parameters.call;
  const int lane = int(threadIdx.x) % LANES, warp = int(threadIdx.x) / LANES, q = lane / 4, t = lane % 4;
  const int half = warp % 2, pair = warp / 2;
  const Place place = place_of(blockIdx.x, parameters.cut, parameters.parts);
  // A pair without a group of its own does another's work and keeps it for itself: all meet at the barriers.
  const bool wanted = place.part * Work::GROUPS + pair < call.groups;
  const int group = min(place.part * Work::GROUPS + pair, call.groups - 1);

  char* const memory = shared_memory() + pair * Weight::BYTES;
  Weight::fill(memory, call, group, lane + half * LANES, 2 * LANES);
  const Weight weight(memory, lane);
  char* const handed = shared_memory() + Work::WEIGHTS + 16 * lane;
  __syncthreads();

  const int top = place.band * parameters.cut.rows, bottom = min(top + parameters.cut.rows, call.height);
  const int begin = max(top - REACH, 0), end = min(bottom + REACH, call.height);
  const int left = place.strip * TARGETS;  // of the sources
  const T* const cond = static_cast<const T*>(call.cond) + int64_t(place.image) * call.picture_of_cond + 8 * t;
  const int64_t own_numbers = int64_t(place.image) * call.picture_of_x + (2 * group + half) * MEMBERS + 4 * t;
  const T* const grad = static_cast<const T*>(call.grad) + own_numbers;
  const TargetStore<T> targets{static_cast<T*>(parameters.result) + own_numbers,
                               uint32_t(call.channels),
                               left - HALF_PATCH + q,
                               left + (left ? HALF_PATCH : 0),
                               wanted ? call.width : 0,
                               DROP ? call.scale : 1.f};

  const ToTargets turn(lane);
  const Key key = DROP ? load_constant<Key>(call.keys + place.image) : Key{0, 0};

  TargetRows<T, true> rows;
  rows.clear();
  int buffer = 0;
  int first_pixel = begin * call.width;
  for (int y = begin; y < end; ++y, first_pixel += call.width) {
    SourceRow<T> source;
    uint32_t of_grad[PATCHES], of_condition[2];
    bool inside[PATCHES];
#pragma unroll
    for (int patch = 0; patch < PATCHES; ++patch) {
      const int at = left + q + 8 * patch, column = min(at, call.width - 1);
      inside[patch] = column == at;
      of_grad[patch] = uint32_t(first_pixel + column) * call.channels;
    }
#pragma unroll
    for (int patch = 0; patch < 2; ++patch)
      of_condition[patch] = uint32_t(first_pixel + min(left + q + 8 * (2 * half + patch), call.width - 1)) * CONDITION;

    float filters[TAPS][4];
#pragma unroll
    for (int kernel_row = 0; kernel_row < TAPS; ++kernel_row) weight.begin(filters[kernel_row], kernel_row);
    // A loop in the machine code too: unrolled, the loads of all chunks go ahead of it and take the registers.
#pragma unroll 1
    for (int from = 0; from < CONDITION; from += Work::CHUNK) {
      uint32_t condition[Work::CHUNKS][2][4];
      load_chunk(condition, cond + from, of_condition, call.zero);
#pragma unroll
      for (int kernel_row = 0; kernel_row < TAPS; ++kernel_row)
        weight.add(filters[kernel_row], condition, kernel_row, from);
    }

    source.load(grad, of_grad, inside);
    Bits128 random[2];
    if (DROP) {
#pragma unroll
      for (int patch = 0; patch < 2; ++patch)
        random[patch] = filter_bits(key, uint32_t(first_pixel + left + q + 8 * (2 * half + patch)), group, t);
    }
    KernelRows own, other;
#pragma unroll
    for (int kernel_row = 0; kernel_row < TAPS; ++kernel_row) {
#pragma unroll
      for (int patch = 0; patch < 2; ++patch) {
        const float* const taps = filters[kernel_row] + 2 * patch;
        uint32_t words = packed(taps[0], taps[1], T{});
        if (DROP) words &= kept(random[patch], kernel_row, call.threshold);
        own.word[kernel_row][patch] = turn.of(words);
      }
      own.hand_over(handed + (2 * warp + buffer) * KernelRows::BYTES, kernel_row);
    }
    __syncthreads();  // the only one: what is written next was read before it
    other.take(handed + (2 * (warp ^ 1) + buffer) * KernelRows::BYTES);
    buffer ^= 1;
#pragma unroll
    for (int kernel_row = 0; kernel_row < TAPS; ++kernel_row) {
      uint32_t turned[PATCHES];
#pragma unroll
      for (int patch = 0; patch < 2; ++patch) {
        turned[patch] = half ? other.word[kernel_row][patch] : own.word[kernel_row][patch];
        turned[2 + patch] = half ? own.word[kernel_row][patch] : other.word[kernel_row][patch];
      }
      rows.add(kernel_row, source, turned, turn.right);
    }
    rows.clear_row(TAPS - 1);
    if (y - REACH >= top) targets.row(rows.done, uint32_t(first_pixel - REACH * call.width));
  }
#pragma unroll
  for (int last = 0; last < REACH; ++last) {
    const int y = end - REACH + last;
    if (y >= top && y < bottom) targets.row(rows.sum[last], uint32_t(y) * call.width);
  }
}

}  // namespace laconv::k7_backward
