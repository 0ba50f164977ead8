// The forward result for k = 7 and 16 channels a group, conditions of 64 and 128 numbers. A step of a warp makes two
// rows of a strip (32 pixels x 16 channels): the condition of these pixels is loaded once, straight into operands; for
// one kernel row after another the projection, the turn into bands and the bands' product follow at once, so that four
// words of filters live at a time.
#pragma once
#include "k7_strip.cuh"

namespace laconv::k7 {

// A block is one strip. Two blocks share a processor, so that one computes while the other waits for its condition.
template <class T, int CONDITION> struct NarrowShape {
  static constexpr int CHANNELS = 16, GROUPS = 4, FEWEST_STRIPS = 1, MOST_STRIPS = 1, BLOCKS_A_PROCESSOR = 2;
  using Weights = Projection<T, CONDITION>;
  using Rows = RowRing<T, CHANNELS>;
  static_assert(BLOCKS_A_PROCESSOR * (GROUPS * (Weights::BYTES + Rows::BYTES) + RESERVED_BYTES) <= PROCESSOR_BYTES, "");
};

template <class T, int CONDITION, bool DROP>
__global__ void __launch_bounds__(NarrowShape<T, CONDITION>::GROUPS* LANES, 2) forward(const Forward parameters) {
  using Shape = NarrowShape<T, CONDITION>;
  using Weights = typename Shape::Weights;
  using Rows = typename Shape::Rows;
  constexpr int PARTS = CONDITION / 32;
  const int lane = int(threadIdx.x) % LANES, warp = int(threadIdx.x) / LANES, q = lane >> 2, t = lane & 3;
  const WarpStrip strip = warp_strip<Shape::GROUPS>(parameters);
  if (!strip.any) return;  // warps share nothing

  const Weights projection{shared_memory() + warp * Weights::BYTES};
  projection.copy(parameters, strip.group, lane, 0, 1);
  Rows x(shared_memory() + Shape::GROUPS * Weights::BYTES + warp * Rows::BYTES, parameters, strip, lane);
  x.copy_first();

  const int width = parameters.width;
  const int64_t first_pixel = strip.image * parameters.height * width;
  const T* const cond = static_cast<const T*>(parameters.cond) + first_pixel * CONDITION + 8 * t;
  T* const result = static_cast<T*>(parameters.result) + first_pixel * parameters.channels +
                    strip.group * Shape::CHANNELS + 2 * t;
  const BandLane band = band_lane(lane);
  const uint32_t threshold = threshold_pair(parameters.threshold);
  Key key{};
  if constexpr (DROP) key = load_constant<Key>(parameters.keys + strip.image);
  // Columns outside of the picture take the last one's condition, and are not stored.
  const int column[2] = {min(strip.x + q, width - 1), min(strip.x + q + 8, width - 1)};

  for (int y = strip.y; y < strip.end; y += STEP_ROWS) {
    x.copy_ahead();
    const T* pixel[STEP_ROWS][2];
#pragma unroll
    for (int i = 0; i < 2 * STEP_ROWS; ++i) {
      const int row = min(y + (i >> 1), parameters.height - 1);
      pixel[i >> 1][i & 1] = cond + uint32_t(row * width + column[i & 1]) * CONDITION;
    }
    ConditionWords<PARTS> loaded;
    loaded.load(pixel);
    ConditionOperands<PARTS> condition;
    condition.take(loaded, parameters.zero);
    Bits128 random[4];
    if constexpr (DROP) draw(random, key, strip, y, width, q, t);
    wait_copies<1>();
    synchronize_warp();

    const char* pair[Rows::PAIRS - 1];
    x.pairs(pair);
    // Patch i is half i & 1 of row i >> 1. Kernel row dy + 1 of row 0 and dy of row 1 meet the same x.
    float sums[4][4] = {};
    uint32_t keys[2][2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) x.keys(keys[0][half], pair, 0, half, 0);
#pragma unroll
    for (int dy = 0; dy < TAPS; ++dy) {
      const Floats4 bias = projection.bias(dy, lane);
      float filters[STEP_ROWS][4];
      projection.filters(filters, condition, dy, 0, lane, {bias.number, bias.number});
#pragma unroll
      for (int half = 0; half < 2; ++half) x.keys(keys[(dy + 1) & 1][half], pair, dy + 1, half, 0);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i >> 1, half = i & 1;
        uint32_t taps = packed(filters[row][2 * half], filters[row][2 * half + 1], T{}), words[2];
        if constexpr (DROP) taps = dropped(taps, random[i], dy, threshold);
        band_of(taps, band, words);
        multiply(sums[i], keys[(dy + row) & 1][half], words, sums[i], T{});
      }
    }
    synchronize_warp();  // every lane has read the oldest rows, so their place may be filled

#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = y + (i >> 1), own = strip.x + q + 8 * (i & 1);
      store_patch(result + uint32_t(row * width + own) * parameters.channels, sums[i], DROP ? parameters.scale : 1.f,
                  row < strip.end && own < width);
    }
    x.turn();
  }
  wait_copies<0>();
}

}  // namespace laconv::k7
