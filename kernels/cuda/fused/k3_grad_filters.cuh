// The gradients of the condition, the weight and the bias of k = 3, all of which follow from the gradient of the filters,
//     grad_filters[p, tap, group] = sum over the group's channels of grad[p] * x[p + offset(tap)],
// which never leaves the registers. A warp walks down a strip of 8 columns, two rows a step: rows q and q + 8 of its
// products are column q of either row. Lane (q, t) makes all taps of group t for its two pixels (72 multiplications); two
// taps packed into a word are then, where they are,
//     the left operand of  grad_cond = grad_filters weight
//         tap 4 s + 2 i + j of group t is place 2 t + 8 i + j of step s of the sum, tap 8 a step of half the length;
//         column n of tile 4 p + i is channel 32 p + 8 (n / 2) + 2 i + n % 2: a lane ends with 16 bytes that lie together
//     and, transposed (movmatrix), the right operand of  grad_weight^T = cond^T grad_filters
//         pixels are the steps of the sum; the condition is loaded with pixels along t and channels along q.
// The sums over pixels stay in registers while the warp walks, are added up by block, warp after warp, and then over all
// blocks (partial_sums.cuh).
//
// A gradient of the result that is not finite spoils the weight's gradient of taps outside of the picture, too.
#pragma once
#include "k3.cuh"
#include "partial_sums.cuh"

namespace laconv {
namespace k3 {

constexpr int ROWS = 2;         // of a step
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

// The weight as right-hand operand of the condition's gradient: word p is taps 2 p and 2 p + 1 of group t.
template <class T> struct WeightByChannel {
  uint32_t word[CHANNEL_TILES][TILES];

  __device__ __forceinline__ void load(const void* weight, int q, int t) {
    const auto bits = [&](int tap, int channel) {
      const T* const place = static_cast<const T*>(weight) + (tap * GROUPS + t) * CONDITION + channel;
      return tap < TAPS ? uint32_t(load_constant<T>(place).bits) : 0u;
    };
#pragma unroll
    for (int tile = 0; tile < CHANNEL_TILES; ++tile) {
      const int channel = 32 * (tile / 4) + 8 * (q / 2) + 2 * (tile % 4) + q % 2;
#pragma unroll
      for (int pair = 0; pair < TILES; ++pair)
        word[tile][pair] = bits(2 * pair, channel) | bits(2 * pair + 1, channel) << 16;
    }
  }
};

// Sums over the warp's pixels. Numbers of weight[i][tile]: channel 8 q + 2 i, taps 2 tile and 2 tile + 1 of group t, then
// channel 8 q + 2 i + 1.
struct Sums {
  float weight[4][TILES][4];
  float bias[TAPS];
};

// A block's sums in shared memory, warp after warp: the order is fixed. Pieces of four channels change places so that the
// four groups of eight lanes that are served at once meet different banks.
struct BlockSums {
  float weight[FILTERS][CONDITION];
  float bias[FILTERS];

  __device__ __forceinline__ Floats4* piece(int filter, int number) {
    const int group = filter % GROUPS;
    return reinterpret_cast<Floats4*>(&weight[filter][4 * (number ^ (group % 2 + group / 2 * 4))]);
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
            Floats4* const place = piece(filter, 2 * q + i);
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

// The condition of the step's 16 pixels as left-hand operands: found[row][i] is channels 8 q to 8 q + 7 of column 2 t + i.
struct ConditionByChannel {
  Words4 found[ROWS][2];

  template <class T> __device__ __forceinline__ void add(Sums& sums, const uint32_t (&pairs)[ROWS][TILES]) const {
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
        left[2 * row] = bytes(found[row][0].number[i], found[row][1].number[i], 0x5410);      // channel 8 q + 2 i
        left[2 * row + 1] = bytes(found[row][0].number[i], found[row][1].number[i], 0x7632);  // channel 8 q + 2 i + 1
      }
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile)
        multiply(sums.weight[i][tile], left, right[tile], sums.weight[i][tile], T{});
    }
  }
};

// Channels 32 part + 8 t to + 7 of the gradient of the condition, of both rows.
template <class T>
__device__ __forceinline__ void make_grad_cond(Words4 (&gradient)[ROWS], const uint32_t (&pairs)[ROWS][TILES],
                                               const WeightByChannel<T>& weight, int part) {
  const uint32_t first[4] = {pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]};
  const uint32_t second[4] = {pairs[0][2], pairs[1][2], pairs[0][3], pairs[1][3]};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t* const word = weight.word[4 * part + i];
    float sum[4] = {};
    multiply(sum, first, word, sum, T{});
    multiply(sum, second, word + 2, sum, T{});
    add_product_8(sum, pairs[0][4], pairs[1][4], word[4], T{});
#pragma unroll
    for (int row = 0; row < ROWS; ++row) gradient[row].number[i] = packed(sum[2 * row], sum[2 * row + 1], T{});
  }
}

template <class T, bool COND, bool WEIGHT, bool DROP>
__global__ void __launch_bounds__(THREADS, WEIGHT ? 2 : 3) grad_filters(const GradFiltersParameters parameters) {
  const int lane = threadIdx.x % LANES, q = lane / 4, t = lane % 4;
  const Strips& strips = parameters.strips;
  WeightByChannel<T> weight;
  if (COND) weight.load(parameters.weight, q, t);
  Sums sums = {};

  for (uint32_t index = blockIdx.x * WARPS + threadIdx.x / LANES; index < strips.count; index += gridDim.x * WARPS) {
    const Strip strip = strips.at(index);
    const int column = strip.column + q, last = strips.width - 1;
    const bool inside[3] = {column > 0 && column - 1 <= last, column <= last, column + 1 <= last};
    constexpr int BYTES = CHANNELS * int(sizeof(T)), CONDITION_BYTES = CONDITION * int(sizeof(T));
    const int row_bytes = strips.width * BYTES;
    const uint32_t condition_row_bytes = unsigned(strips.width) * CONDITION_BYTES;
    const int64_t row = (strip.image * strips.height + strip.begin) * strips.width;  // its first pixel
    const char* source = static_cast<const char*>(parameters.x) + (row - strips.width + column) * BYTES + 8 * t;
    const char* above = static_cast<const char*>(parameters.grad) + (row + column) * BYTES + 8 * t;
    // Columns outside take the condition of the last one; their gradient is zero.
    const char* condition[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      condition[i] = static_cast<const char*>(parameters.cond) +
                     (row + min(strip.column + 2 * t + i, last)) * CONDITION_BYTES + 16 * q;
    char* result = static_cast<char*>(parameters.grad_cond) + (row + column) * CONDITION_BYTES + 16 * t;
    uint32_t pixel_number = unsigned(strip.begin * strips.width + column);
    Key key{};
    if (DROP) key = load_constant<Key>(parameters.dropout.keys + strip.image);

    // The lane's four channels of x, in its column and its neighbours: rows y - 1 to y + 2, the first two from the step
    // before.
    Words2 neighbours[ROWS + 2][3];
    const auto load_row = [&](Words2 (&to)[3], bool row_inside) {
#pragma unroll
      for (int i = 0; i < 3; ++i)
        to[i] = row_inside && inside[i] ? load_constant<Words2>(source + (i - 1) * BYTES) : zeros<uint32_t, 2>();
      source += row_bytes;
    };
    load_row(neighbours[0], strip.begin > 0);
    load_row(neighbours[1], true);
    for (int y = strip.begin; y < strip.end; y += ROWS) {
      const bool rows_inside[ROWS] = {inside[1], inside[1] && y + 1 < strips.height};
      load_row(neighbours[2], y + 1 < strips.height);
      load_row(neighbours[3], y + 2 < strips.height);
      ConditionByChannel conditions;
      if (WEIGHT) {
        // Below the picture: its last row again.
        const uint32_t second = y + 1 < strips.height ? condition_row_bytes : 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          conditions.found[0][i] = load_constant<Words4>(condition[i]);
          conditions.found[1][i] = load_constant<Words4>(condition[i] + second);
          condition[i] += 2 * uint64_t(condition_row_bytes);
        }
      }
      float gradient[ROWS][MEMBERS];
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        widen_four<T>(gradient[r], rows_inside[r] ? load_constant<Words2>(above) : zeros<uint32_t, 2>());
        above += row_bytes;
        if (DROP) {
#pragma unroll
          for (int member = 0; member < MEMBERS; ++member) gradient[r][member] *= parameters.dropout.scale;
        }
      }

      float filters[ROWS][2 * TILES] = {};  // their gradients; the tenth tap's stays zero
#pragma unroll
      for (int from = 0; from < ROWS + 2; ++from)
#pragma unroll
        for (int dx = 0; dx < 3; ++dx) {
          float neighbour[MEMBERS];
          widen_four<T>(neighbour, neighbours[from][dx]);
#pragma unroll
          for (int r = max(0, from - 2); r <= min(ROWS - 1, from); ++r)
#pragma unroll
            for (int member = 0; member < MEMBERS; ++member)
              filters[r][3 * (from - r) + dx] += gradient[r][member] * neighbour[member];
        }
      if (DROP) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
          const Bytes16 drawn = philox7(pixel_number, unsigned(t), 0, key);
          pixel_number += unsigned(strips.width);
#pragma unroll
          for (int tap = 0; tap < TAPS; ++tap) filters[r][tap] = dropped(filters[r][tap], drawn, tap, parameters.dropout);
        }
      }
      uint32_t pairs[ROWS][TILES];
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
          pairs[r][tile] = packed(filters[r][2 * tile], filters[r][2 * tile + 1], T{});

      if (WEIGHT) {
#pragma unroll
        for (int tap = 0; tap < TAPS; ++tap) sums.bias[tap] += filters[0][tap] + filters[1][tap];
        conditions.add<T>(sums, pairs);
      }
      if (COND) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          Words4 made[ROWS];
          make_grad_cond<T>(made, pairs, weight, part);
          if (rows_inside[0]) store(result + 64 * part, made[0]);
          if (rows_inside[1]) store(result + condition_row_bytes + 64 * part, made[1]);
        }
        result += 2 * uint64_t(condition_row_bytes);
      }
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        neighbours[0][i] = neighbours[2][i];
        neighbours[1][i] = neighbours[3][i];
      }
    }
  }

  if (WEIGHT) {
    BlockSums& block = *reinterpret_cast<BlockSums*>(shared_memory());
    block.add(sums, q, t);
    block.write(parameters.parts + int64_t(blockIdx.x) * PART);
  }
}

inline int64_t grad_filters_blocks(const Strips& strips) { return min(MOST_PARTS, divided_up(strips.count, WARPS)); }

template <class T, bool COND, bool WEIGHT>
int launch_grad_filters(const GradFiltersParameters& parameters, bool drop, void* stream) {
  const int64_t blocks = grad_filters_blocks(parameters.strips);
  const int shared_bytes = WEIGHT ? int(sizeof(BlockSums)) : 0;
  return drop ? launch_warps(grad_filters<T, COND, WEIGHT, true>, blocks, THREADS, shared_bytes, stream, parameters)
              : launch_warps(grad_filters<T, COND, WEIGHT, false>, blocks, THREADS, shared_bytes, stream, parameters);
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
  GradFiltersParameters parameters{args.x, args.grad, args.cond, args.weight, args.grad_cond, nullptr, dropout_of(args), {}};
  const int wrong = grad_filters_strips(args, parameters.strips);
  if (wrong) return wrong;
  const bool drop = args.keys != nullptr;
  if (!args.grad_weight) return args.grad_cond ? launch_grad_filters<T, true, false>(parameters, drop, stream) : 0;

  if (args.workspace_bytes < grad_filters_workspace(args)) return LACONV_BAD_SIZE;
  parameters.parts = static_cast<float*>(args.workspace);
  const int failed = args.grad_cond ? launch_grad_filters<T, true, true>(parameters, drop, stream)
                                    : launch_grad_filters<T, false, true>(parameters, drop, stream);
  if (failed) return failed;
  return launch_partial_sums({parameters.parts, grad_filters_blocks(parameters.strips), PART, args.grad_weight,
                              args.grad_bias, FILTERS * CONDITION, FILTERS}, stream);
}

}  // namespace k3
}  // namespace laconv
