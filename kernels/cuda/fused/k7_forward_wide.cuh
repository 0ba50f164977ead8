// The forward result for k = 7 and 32 channels a group, conditions of 256 and 512 numbers. As in `k7_forward.cuh` a
// step of a warp makes two rows of a strip, here 32 pixels x 32 channels. The condition is too long for registers: it
// comes in chunks of 64 numbers, each loaded while the one before is multiplied, and the sums of all seven kernel rows
// wait in 56 accumulators. Every band then meets both halves of the group's channels.
//
// A group's weight is 32 or 60 KB of shared memory, so several warps share it, each on a strip of its own: the weight
// of 2 groups and the rows of x of 4 (condition 256) or 2 (condition 512) strips fill a processor of sm_90. With fewer
// than two strips some of the four quarters of a processor would have no warp, so a device with less room is not
// served. At 512 the alternatives are slower by the model: the weight in chunks for every step is 57 KB a step where
// the condition is 32 KB; more strips of one group read the condition from the second cache once a group, not once in
// two, which takes longer than the products do.
#pragma once
#include "k7_strip.cuh"

namespace laconv::k7 {

template <class T, int CONDITION> struct WideShape {
  static constexpr int CHANNELS = 32, GROUPS = 2, BLOCKS_A_PROCESSOR = 1;
  static constexpr int FEWEST_STRIPS = 2, MOST_STRIPS = CONDITION > 256 ? 2 : 4;
  static constexpr int MOST_THREADS = GROUPS * MOST_STRIPS * LANES;
  using Weights = Projection<T, CONDITION>;
  using Rows = RowRing<T, CHANNELS>;
  static_assert(GROUPS * (Weights::BYTES + MOST_STRIPS * Rows::BYTES) + RESERVED_BYTES <= PROCESSOR_BYTES, "");
};

// The pixels whose condition is loaded next: columns q and q + 8 of two rows, chunk after chunk. Rows behind the strip
// take its last one's condition; they are not stored.
template <class T, int CONDITION, int CHUNK> struct ConditionWalk {
  const T* cond;
  uint32_t at[STEP_ROWS][2];

  __device__ __forceinline__ ConditionWalk(const T* cond, const int (&column)[2], const WarpStrip& strip, int width)
      : cond(cond) {
#pragma unroll
    for (int i = 0; i < 2 * STEP_ROWS; ++i)
      at[i >> 1][i & 1] = uint32_t(row_at(strip.y, i >> 1, strip) * width + column[i & 1]) * CONDITION;
  }
  static __device__ __forceinline__ int row_at(int y, int row, const WarpStrip& strip) {
    return min(y + row, strip.end - 1);
  }
  __device__ __forceinline__ void load(ConditionWords<CHUNK / 32>& loaded) const {
    const T* pixel[STEP_ROWS][2];
#pragma unroll
    for (int i = 0; i < 2 * STEP_ROWS; ++i) pixel[i >> 1][i & 1] = cond + at[i >> 1][i & 1];
    loaded.load(pixel);
  }
  // By so many numbers in the first and the second row.
  __device__ __forceinline__ void advance(uint32_t first, uint32_t second) {
#pragma unroll
    for (int column = 0; column < 2; ++column) {
      at[0][column] += first;
      at[1][column] += second;
    }
  }
};

template <class T, int CONDITION, bool DROP>
__global__ void __launch_bounds__(WideShape<T, CONDITION>::MOST_THREADS, 1) wide_forward(const Forward parameters) {
  using Shape = WideShape<T, CONDITION>;
  using Weights = typename Shape::Weights;
  using Rows = typename Shape::Rows;
  constexpr int CHUNK = 64, PARTS = CHUNK / 32, CHUNKS = CONDITION / CHUNK, HALVES = Shape::CHANNELS / 16;
  const int lane = int(threadIdx.x) % LANES, warp = int(threadIdx.x) / LANES, q = lane >> 2, t = lane & 3;
  const WarpStrip strip = warp_strip<Shape::GROUPS>(parameters);

  const Weights projection{shared_memory() + warp % Shape::GROUPS * Weights::BYTES};
  projection.copy(parameters, strip.group, lane, warp / Shape::GROUPS, parameters.strips_a_block);
  Rows x(shared_memory() + Shape::GROUPS * Weights::BYTES + warp * Rows::BYTES, parameters, strip, lane);
  x.copy_first();
  wait_copies<0>();
  __syncthreads();
  if (!strip.any) return;

  const int width = parameters.width;
  const int64_t first_pixel = strip.image * parameters.height * width;
  const T* const cond = static_cast<const T*>(parameters.cond) + first_pixel * CONDITION + 8 * t;
  T* const result = static_cast<T*>(parameters.result) + first_pixel * parameters.channels +
                    strip.group * Shape::CHANNELS + 2 * t;
  const BandLane band = band_lane(lane);
  const uint32_t threshold = threshold_pair(parameters.threshold);
  Key key{};
  if constexpr (DROP) key = load_constant<Key>(parameters.keys + strip.image);
  const int column[2] = {min(strip.x + q, width - 1), min(strip.x + q + 8, width - 1)};
  using Walk = ConditionWalk<T, CONDITION, CHUNK>;
  Walk walk(cond, column, strip, width);
  ConditionWords<PARTS> loaded;
  ConditionOperands<PARTS> condition;  // of the chunk that is multiplied next
  walk.load(loaded);
  condition.take(loaded, parameters.zero);

  for (int y = strip.y; y < strip.end; y += STEP_ROWS) {
    x.copy_ahead();
    float filters[TAPS][STEP_ROWS][4];
#pragma unroll
    for (int dy = 0; dy < TAPS; ++dy) {
      const Floats4 bias = projection.bias(dy, lane);
#pragma unroll
      for (int i = 0; i < 4 * STEP_ROWS; ++i) filters[dy][i >> 2][i & 3] = bias.number[i & 3];
    }
    // From the last chunk of these rows to the first of the next two.
    uint32_t on[STEP_ROWS];
#pragma unroll
    for (int row = 0; row < STEP_ROWS; ++row) {
      const int rows = Walk::row_at(y + STEP_ROWS, row, strip) - Walk::row_at(y, row, strip);
      on[row] = uint32_t(rows * width) * CONDITION - (CONDITION - CHUNK);
    }
    // A loop that is not unrolled: the compiler would have all loads first, and spill.
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      const bool last = chunk == CHUNKS - 1;
      walk.advance(last ? on[0] : CHUNK, last ? on[1] : CHUNK);
      walk.load(loaded);
#pragma unroll
      for (int dy = 0; dy < TAPS; ++dy)
        projection.filters(filters[dy], condition, dy, chunk * PARTS, lane, {filters[dy][0], filters[dy][1]});
      condition.take(loaded, parameters.zero);
    }
    Bits128 random[4];
    if constexpr (DROP) draw(random, key, strip, y, width, q, t);
    wait_copies<1>();
    synchronize_warp();

    const char* pair[Rows::PAIRS - 1];
    x.pairs(pair);
    float sums[HALVES][4][4] = {};
    uint32_t keys[2][HALVES][2][4];
    const auto load_keys = [&](int row) {
#pragma unroll
      for (int i = 0; i < 2 * HALVES; ++i) x.keys(keys[row & 1][i >> 1][i & 1], pair, row, i & 1, i >> 1);
    };
    load_keys(0);
#pragma unroll
    for (int dy = 0; dy < TAPS; ++dy) {
      load_keys(dy + 1);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i >> 1, patch = i & 1;
        uint32_t taps = packed(filters[dy][row][2 * patch], filters[dy][row][2 * patch + 1], T{}), words[2];
        if constexpr (DROP) taps = dropped(taps, random[i], dy, threshold);
        band_of(taps, band, words);
#pragma unroll
        for (int half = 0; half < HALVES; ++half)
          multiply(sums[half][i], keys[(dy + row) & 1][half][patch], words, sums[half][i], T{});
      }
    }
    synchronize_warp();  // every lane has read the oldest rows, so their place may be filled

#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = y + (i >> 1), own = strip.x + q + 8 * (i & 1);
      T* const address = result + uint32_t(row * width + own) * parameters.channels;
#pragma unroll
      for (int half = 0; half < HALVES; ++half)
        store_patch(address + 16 * half, sums[half][i], DROP ? parameters.scale : 1.f,
                    row < strip.end && own < width);
    }
    x.turn();
  }
  wait_copies<0>();
}

}  // namespace laconv::k7
