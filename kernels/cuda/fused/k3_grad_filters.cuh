// The gradients of the condition, the weight and the bias of k = 3 (lanes: k3.cuh), all of which follow from that of
// the filters,
//     grad_filters[p, tap, group] = sum over the group's channels of grad[p] * x[p + offset(tap)],
// which never leaves the registers. A warp walks down a strip of 8 columns, two rows a step: rows q and q + 8 of its
// products are column q of either row. Lane (q, t) makes all taps of group t for its two pixels (72 multiplications);
// two taps packed into a word are then, where they are,
//     the left operand of  grad_cond = grad_filters weight
//         tap 4 s + 2 i + j of group t is place 2 t + 8 i + j of step s of the sum, tap 8 a step of half the length;
//         column n of tile 4 p + i is channel 32 p + 8 (n / 2) + 2 i + n % 2: a lane ends with 16 bytes in a row
//     and, transposed (movmatrix), the right operand of  grad_weight^T = cond^T grad_filters
//         pixels are the steps of the sum; the condition is loaded with pixels along t and channels along q.
// The sums over pixels stay in registers while the warp walks, are added up by block, warp after warp, and then over
// all blocks (partial_sums.cuh).
//
// A gradient of the result that is not finite spoils the weight's gradient of taps outside of the picture, too.
#pragma once
#include "k3.cuh"
#include "partial_sums.cuh"

namespace laconv {
namespace k3 {

constexpr int ROWS = 2;  // of a step
constexpr int GRAD_COLUMNS = 8;
constexpr int FILTERS = TAPS * GROUPS;
constexpr int PART = FILTERS * CONDITION + FILTERS;  // numbers of a block's sums: weight, then bias
constexpr int CHANNEL_TILES = CONDITION / 8;

struct GradFiltersParameters {
  const void *x, *grad, *cond, *weight;
  void* grad_cond;  // or null
  float* parts;     // or null
  Dropout dropout;
  Strips strips;
};

// The gradients of all filters of a lane: its pixels in both rows; the tenth tap's stay zero.
using FilterGradients = float[ROWS][2 * TILES];
// The same, taps 2 tile and 2 tile + 1 packed into a word.
using Pairs = uint32_t[ROWS][TILES];

// gradient: the lane's four channels of that of the result. neighbours: of x, rows y - 1 to y + 2, in the lane's
// column and those beside it.
template <class T>
__device__ __forceinline__ void make_gradients(FilterGradients& filters, const float (&gradient)[ROWS][MEMBERS],
                                               const Words2 (&neighbours)[ROWS + 2][3]) {
#pragma unroll
  for (int row = 0; row < ROWS + 2; ++row)
#pragma unroll
    for (int dx = 0; dx < 3; ++dx) {
      float neighbour[MEMBERS];
      widen_four<T>(neighbour, neighbours[row][dx]);
#pragma unroll
      for (int own = max(0, row - 2); own <= min(ROWS - 1, row); ++own)
#pragma unroll
        for (int member = 0; member < MEMBERS; ++member)
          filters[own][3 * (row - own) + dx] += gradient[own][member] * neighbour[member];
    }
}

// The weight as right-hand operand of the condition's gradient, in shared memory as the lanes load it, the same for
// every warp (the sums leave no registers for it): for each tile taps 0 to 7 of group t, for four tiles tap 8.
struct WeightByChannel {
  Words4 taps[CHANNEL_TILES][LANES];
  Words4 last_tap[CHANNEL_TILES / 4][LANES];

  template <class T> __device__ __forceinline__ void fill(const void* weight) {
    const auto bits = [&](int tap, int tile, int lane) {
      const int q = lane / 4, t = lane % 4, channel = 32 * (tile / 4) + 8 * (q / 2) + 2 * (tile % 4) + q % 2;
      const T* const place = static_cast<const T*>(weight) + (tap * GROUPS + t) * CONDITION + channel;
      return uint32_t(load_constant<T>(place).bits);
    };
    const int lane = threadIdx.x % LANES;
    for (int tile = threadIdx.x / LANES; tile < CHANNEL_TILES; tile += WARPS) {
      Words4 words;
#pragma unroll
      for (int i = 0; i < 4; ++i) words.number[i] = bits(2 * i, tile, lane) | bits(2 * i + 1, tile, lane) << 16;
      store(&taps[tile][lane], words);
    }
    for (int part = threadIdx.x / LANES; part < CHANNEL_TILES / 4; part += WARPS) {
      Words4 words;
#pragma unroll
      for (int i = 0; i < 4; ++i) words.number[i] = bits(TAPS - 1, 4 * part + i, lane);
      store(&last_tap[part][lane], words);
    }
  }
};

// Sums over the warp's pixels. Numbers of weight[i][tile]: channel 8 q + 2 i, taps 2 tile and 2 tile + 1 of group t,
// then channel 8 q + 2 i + 1.
struct Sums {
  float weight[4][TILES][4];
  float bias[TAPS];
};

// A block's sums in shared memory, warp after warp: the order is fixed. Pieces of four channels change places so that
// the four groups of eight lanes that are served at once meet different banks.
struct BlockSums {
  float weight[FILTERS][CONDITION];
  float bias[FILTERS];

  __device__ __forceinline__ float* piece(int filter, int number) {
    const int group = filter % GROUPS;
    return &weight[filter][4 * (number ^ (group % 2 + group / 2 * 4))];
  }

  __device__ __forceinline__ void add(Sums& sums, int q, int t) {
    // Over the eight columns.
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap)
#pragma unroll
      for (int distance = 4; distance < LANES; distance *= 2)
        sums.bias[tap] += shuffled(sums.bias[tap], (4 * q + t) ^ distance);
    for (int warp = 0; warp < WARPS; ++warp) {
      if (int(threadIdx.x) / LANES == warp) {
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) {
          const int filter = tap * GROUPS + t;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float* const place = piece(filter, 2 * q + i);
            Floats4 sum = warp ? load<Floats4>(place) : zeros<float, 4>();
#pragma unroll
            for (int j = 0; j < 4; ++j) sum.number[j] += sums.weight[2 * i + j / 2][tap / 2][2 * (j % 2) + tap % 2];
            store(place, sum);
          }
          if (q == 0) store(bias + filter, (warp ? load<float>(bias + filter) : 0.f) + sums.bias[tap]);
        }
      }
      __syncthreads();
    }
  }

  __device__ __forceinline__ void write(float* part) {
    constexpr int PIECES = CONDITION / 4;
    for (int i = threadIdx.x; i < FILTERS * PIECES; i += THREADS)
      store(part + 4 * i, load<Floats4>(piece(i / PIECES, i % PIECES)));
    for (int i = threadIdx.x; i < FILTERS; i += THREADS) store(part + FILTERS * CONDITION + i, load<float>(bias + i));
  }
};

struct GradFiltersShared {
  WeightByChannel weight;  // where the gradient of the condition is wanted
  BlockSums sums;          // where that of the weight is
};

// The condition of a step's 16 pixels as left-hand operands: found[row][i] is channels 8 q to 8 q + 7 of column
// 2 t + i. Columns right of the picture take its last one, a row below it the row above: their gradients are zero.
template <class T> struct ConditionByChannel {
  static constexpr int BYTES = CONDITION * int(sizeof(T));
  const char* place[2];
  uint32_t row_bytes;
  Words4 found[ROWS][2];

  __device__ __forceinline__ ConditionByChannel(const void* cond, int64_t first_pixel, const Strip& strip, int width,
                                                int q, int t) {
    row_bytes = unsigned(width) * BYTES;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = min(strip.column + 2 * t + i, width - 1);
      place[i] = static_cast<const char*>(cond) + (first_pixel + column) * BYTES + 16 * q;
    }
  }

  // And goes on to the next two rows.
  __device__ __forceinline__ void load(bool second_inside) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      found[0][i] = load_constant<Words4>(place[i]);
      found[1][i] = load_constant<Words4>(place[i] + (second_inside ? row_bytes : 0));
      place[i] += ROWS * uint64_t(row_bytes);
    }
  }

  __device__ __forceinline__ void add_products(Sums& sums, const Pairs& pairs) const {
    uint32_t right[TILES][ROWS];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
      for (int row = 0; row < ROWS; ++row) right[tile][row] = transposed(pairs[row][tile]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t left[4];
#pragma unroll
      for (int row = 0; row < ROWS; ++row) {
        const uint32_t even_column = found[row][0].number[i], odd_column = found[row][1].number[i];
        left[2 * row] = bytes(even_column, odd_column, 0x5410);      // channel 8 q + 2 i
        left[2 * row + 1] = bytes(even_column, odd_column, 0x7632);  // channel 8 q + 2 i + 1
      }
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile)
        multiply(sums.weight[i][tile], left, right[tile], sums.weight[i][tile], T{});
    }
  }
};

// Channels 32 part + 8 t to + 7 of the gradient of the condition, of both rows.
template <class T>
__device__ __forceinline__ void make_grad_cond(Words4 (&gradient)[ROWS], const Pairs& pairs,
                                               const WeightByChannel& weight, int part) {
  const int lane = threadIdx.x % LANES;
  const Words4 last_tap = load<Words4>(&weight.last_tap[part][lane]);
  const uint32_t first[4] = {pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]};
  const uint32_t second[4] = {pairs[0][2], pairs[1][2], pairs[0][3], pairs[1][3]};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const Words4 taps = load<Words4>(&weight.taps[4 * part + i][lane]);
    float sum[4] = {};
    multiply(sum, first, taps.number, sum, T{});
    multiply(sum, second, taps.number + 2, sum, T{});
    add_product_8(sum, pairs[0][4], pairs[1][4], last_tap.number[i], T{});
#pragma unroll
    for (int row = 0; row < ROWS; ++row) gradient[row].number[i] = packed(sum[2 * row], sum[2 * row + 1], T{});
  }
}

template <class T, bool COND, bool WEIGHT, bool DROP>
__global__ void __launch_bounds__(THREADS, WEIGHT ? 2 : 4) grad_filters(const GradFiltersParameters parameters) {
  const int lane = threadIdx.x % LANES, q = lane / 4, t = lane % 4;
  const Strips& strips = parameters.strips;
  GradFiltersShared& shared = *reinterpret_cast<GradFiltersShared*>(shared_memory());
  if (COND) {
    shared.weight.fill<T>(parameters.weight);
    __syncthreads();
  }
  Sums sums = {};

  for (uint32_t index = blockIdx.x * WARPS + threadIdx.x / LANES; index < strips.count; index += gridDim.x * WARPS) {
    const Strip strip = strips.at(index);
    const int column = strip.column + q;
    const bool inside[3] = {column > 0 && column <= strips.width, column < strips.width, column + 1 < strips.width};
    constexpr int BYTES = CHANNELS * int(sizeof(T)), CONDITION_BYTES = CONDITION * int(sizeof(T));
    const int row_bytes = strips.width * BYTES;
    const uint32_t condition_row_bytes = unsigned(strips.width) * CONDITION_BYTES;
    const int64_t first_pixel = (strip.image * strips.height + strip.begin) * strips.width;  // of the row
    const int64_t own_pixel = first_pixel + column;
    const char* source = static_cast<const char*>(parameters.x) + (own_pixel - strips.width) * BYTES + 8 * t;
    const char* above = static_cast<const char*>(parameters.grad) + own_pixel * BYTES + 8 * t;
    char* result = static_cast<char*>(parameters.grad_cond) + own_pixel * CONDITION_BYTES + 16 * t;
    ConditionByChannel<T> condition(parameters.cond, first_pixel, strip, strips.width, q, t);
    uint32_t pixel_number = unsigned(strip.begin * strips.width + column);
    Key key{};
    if (DROP) key = load_constant<Key>(parameters.dropout.keys + strip.image);

    // Of x, rows y - 1 to y + 2, the first two from the step before.
    Words2 neighbours[ROWS + 2][3];
    const auto load_row = [&](Words2 (&row)[3], bool row_inside) {
#pragma unroll
      for (int i = 0; i < 3; ++i)
        row[i] = row_inside && inside[i] ? load_constant<Words2>(source + (i - 1) * BYTES) : zeros<uint32_t, 2>();
      source += row_bytes;
    };
    load_row(neighbours[0], strip.begin > 0);
    load_row(neighbours[1], true);
    for (int y = strip.begin; y < strip.end; y += ROWS) {
      const bool second_inside = y + 1 < strips.height;
      const bool stored[ROWS] = {inside[1], inside[1] && second_inside};
      load_row(neighbours[2], second_inside);
      load_row(neighbours[3], y + 2 < strips.height);
      if (WEIGHT) condition.load(second_inside);
      float gradient[ROWS][MEMBERS];
#pragma unroll
      for (int row = 0; row < ROWS; ++row) {
        widen_four<T>(gradient[row], stored[row] ? load_constant<Words2>(above) : zeros<uint32_t, 2>());
        above += row_bytes;
        if (DROP) {
#pragma unroll
          for (int member = 0; member < MEMBERS; ++member) gradient[row][member] *= parameters.dropout.scale;
        }
      }

      FilterGradients filters = {};
      make_gradients<T>(filters, gradient, neighbours);
      Pairs pairs;
#pragma unroll
      for (int row = 0; row < ROWS; ++row) {
        if (DROP) {
          const Bits128 drawn = filter_bits(key, pixel_number, unsigned(t), 0);
          pixel_number += unsigned(strips.width);
#pragma unroll
          for (int tap = 0; tap < TAPS; ++tap)
            filters[row][tap] = dropped(filters[row][tap], drawn, tap, parameters.dropout);
        }
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
          pairs[row][tile] = packed(filters[row][2 * tile], filters[row][2 * tile + 1], T{});
      }

      if (WEIGHT) {
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) sums.bias[tap] += filters[0][tap] + filters[1][tap];
        condition.add_products(sums, pairs);
      }
      if (COND) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          Words4 made[ROWS];
          make_grad_cond<T>(made, pairs, shared.weight, part);
          if (stored[0]) store(result + 64 * part, made[0]);
          if (stored[1]) store(result + condition_row_bytes + 64 * part, made[1]);
        }
        result += ROWS * uint64_t(condition_row_bytes);
      }
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        neighbours[0][i] = neighbours[2][i];
        neighbours[1][i] = neighbours[3][i];
      }
    }
  }

  if (WEIGHT) {
    shared.sums.add(sums, q, t);
    shared.sums.write(parameters.parts + int64_t(blockIdx.x) * PART);
  }
}

inline int64_t grad_filters_blocks(const Strips& strips) { return min(MOST_PARTS, divided_up(strips.count, WARPS)); }

template <class T, bool COND, bool WEIGHT>
int launch_grad_filters(const GradFiltersParameters& parameters, bool drop, void* stream) {
  const auto kernel = drop ? grad_filters<T, COND, WEIGHT, true> : grad_filters<T, COND, WEIGHT, false>;
  if (!WEIGHT) return launch_strips(kernel, 4, int(sizeof(WeightByChannel)), parameters, stream);
  const int64_t blocks = grad_filters_blocks(parameters.strips);
  return launch_warps(kernel, blocks, THREADS, int(sizeof(GradFiltersShared)), stream, parameters);
}

inline int grad_filters_strips(const laconv_fused_args& args, Strips& strips) {
  const int wrong = check(args, 1, {args.x, args.cond, args.weight, args.grad, args.grad_cond, args.workspace});
  return wrong ? wrong : cut(args, GRAD_COLUMNS, ROWS, strips);
}

// Bytes of the workspace where the gradient of the weight is wanted, for these sizes on every chip.
inline int64_t grad_filters_workspace(const laconv_fused_args& args) {
  Strips strips;
  const int wrong = grad_filters_strips(args, strips);
  return wrong ? 0 : grad_filters_blocks(strips) * PART * int64_t(sizeof(float));
}

template <class T> int grad_filters_any(const laconv_fused_args& args, void* stream) {
  if (args.packing) return LACONV_NO_FUSED_KERNEL;
  GradFiltersParameters parameters{args.x,         args.grad, args.cond,        args.weight,
                                   args.grad_cond, nullptr,   dropout_of(args), {}};
  const int wrong = grad_filters_strips(args, parameters.strips);
  if (wrong) return wrong;
  const bool drop = args.keys != nullptr;
  if (!args.grad_weight) return args.grad_cond ? launch_grad_filters<T, true, false>(parameters, drop, stream) : 0;

  if (args.workspace_bytes < grad_filters_workspace(args)) return LACONV_BAD_SIZE;
  parameters.parts = static_cast<float*>(args.workspace);
  const int failed = args.grad_cond ? launch_grad_filters<T, true, true>(parameters, drop, stream)
                                    : launch_grad_filters<T, false, true>(parameters, drop, stream);
  if (failed) return failed;
  const PartialSums sums{parameters.parts, grad_filters_blocks(parameters.strips), PART,   args.grad_weight,
                         args.grad_bias,   FILTERS * CONDITION,                    FILTERS};
  return launch_partial_sums(sums, stream);
}

}  // namespace k3
}  // namespace laconv
