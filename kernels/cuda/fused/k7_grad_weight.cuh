// The gradients of weight and bias, k = 7: grad_weight^T = condition^T * grad_filters over all pixels, and its sum of
// rows.
//
// The sums of a group, 56 slots x the condition's channels, are more than a warp's registers, so a pair of warps
// shares a group: each makes the filter gradient of its own patch of 16 pixels, hands it over transposed, which is the
// right operand, and adds both patches for its half of the channels: nothing is made twice. The condition of both
// patches lies in shared memory, where one load transposes it into left operands. A block is two such pairs on one
// strip of 16 columns.
//
// A fixed number of blocks walks over all strips, and each leaves one part of the sums; `launch_partial_sums` adds the parts
// in the order of the blocks. So results have the same bits on every chip.
#pragma once
#include "filter_gradient.cuh"

namespace laconv::k7_backward {

struct GradWeightParameters {
  Call call;
  Cut cut;
  float* parts;
  int64_t stride;    // floats from one part to the next: (49 groups) x condition, then 49 groups, and room
  int strips;        // of all pictures
  int group_blocks;  // blocks that share a strip: of two groups each, for each slice of the condition's channels
};

// Shared memory: a ring of x each warp; two buffers of the condition of two patches, this step's and the next; two
// buffers of each warp's transposed filter gradient.
//
// Blocks share the condition's channels in slices.
template <class T, int MEMBERS, int CONDITION> struct GradWeight {
  static constexpr int WARPS = 4, SHARERS = 2, GROUPS = WARPS / SHARERS;
  static constexpr int SLICE = SLICE_OF<CONDITION>, SLICES = CONDITION / SLICE;
  static constexpr int PATCH = 16 * SLICE * int(sizeof(T));  // bytes of the condition
  static constexpr int RINGS = WARPS * KeyRing<T, MEMBERS, 1>::BYTES, CONDITIONS = 2 * SHARERS * PATCH;
  static constexpr int BYTES = RINGS + CONDITIONS + WARPS * 2 * KernelRows::BYTES;
  static constexpr int TILES = SLICE / SHARERS / 16;
};

// The copies of the condition's two patches: a thread copies 8 channels of a pixel at a time, piece i of the pixel to
// i ^ column, so that 8 neighbouring columns' lie in different banks. SLICE 128: a pass of the block is one row of a
// patch; 64: a whole patch.
template <class T, int CONDITION, int SLICE> struct ConditionCopies {
  static constexpr int PIECES = SLICE / 8, PASS = THREADS / PIECES, PASSES = 16 / PASS;
  static constexpr int PATCH = 16 * SLICE * int(sizeof(T));

  char* to;
  const T* picture;
  uint32_t offset[2];

  __device__ __forceinline__ ConditionCopies(char* memory, int thread) {
    const int pixel = thread / PIECES, piece = thread % PIECES;
    to = memory + (pixel * PIECES + (piece ^ pixel % 8)) * 16;
  }
  __device__ __forceinline__ void begin(const Call& call, const Strip& strip, int first_channel, int thread) {
    const int pixel = thread / PIECES, piece = thread % PIECES;
    picture = static_cast<const T*>(call.cond) + int64_t(strip.image) * call.picture_of_cond;
#pragma unroll
    for (int patch = 0; patch < 2; ++patch) {
      const int column = strip.left + 8 * patch + pixel % 8, y = strip.top + pixel / 8;
      offset[patch] = column < call.width
                          ? uint32_t(y) * call.row_of_cond + uint32_t(column * CONDITION + first_channel + 8 * piece)
                          : OUTSIDE;
    }
  }
  // Asks for those of the next step, if there are `more`. Zeros outside the picture: there the filters' gradient is
  // zero, but 0 * NaN is not.
  __device__ __forceinline__ void fetch(const Call& call, int buffer, bool more) {
#pragma unroll
    for (int patch = 0; patch < 2; ++patch) {
#pragma unroll
      for (int pass = 0; pass < PASSES; ++pass) {
        const uint32_t at = offset[patch] + pass * call.row_of_cond;
        copy_16(to + (2 * buffer + patch) * PATCH + pass * PASS * PIECES * 16, picture + int(at),
                at < call.picture_of_cond && more);
      }
      offset[patch] += STEP * call.row_of_cond;
    }
    end_group_of_copies();
  }
};

// What a warp sums: channels 16 tile + q and + 8 of its half x slots 2t, 2t + 1 of each kernel row; and the bias, two
// kernel rows in one accumulator, the even one in its rows 0-7, the odd one in rows 8-15 (all rows alike).
template <class T, int TILES> struct WeightSums {
  float weight[TILES][TAPS][4] = {};
  float bias[(TAPS + 1) / 2][4] = {};

  __device__ __forceinline__ void add_bias(int kernel_row, const uint32_t* filters) {
    const uint32_t one = packed(1.f, 1.f, T{});
    const uint32_t upper[4] = {one, 0, one, 0}, lower[4] = {0, one, 0, one};
    float* const sum = bias[kernel_row / 2];
    multiply(sum, kernel_row % 2 ? lower : upper, filters, sum, T{});
  }
  // A patch: `condition`, the lane's row of its first matrices.
  __device__ __forceinline__ void add(const char* patch, int row_of_lane, const KernelRows& filters) {
    uint32_t channels[TILES][4];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) load_matrices_4<true>(channels[tile], patch + (row_of_lane ^ 32 * tile));
#pragma unroll
    for (int kernel_row = 0; kernel_row < TAPS; ++kernel_row)
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile)
        multiply(weight[tile][kernel_row], channels[tile], filters.word[kernel_row], weight[tile][kernel_row], T{});
  }
};

template <class T, int MEMBERS, int CONDITION, bool DROP>
__global__ void __launch_bounds__(THREADS, 2) k7_grad_weight(const GradWeightParameters parameters) {
  using Work = GradWeight<T, MEMBERS, CONDITION>;
  using Ring = KeyRing<T, MEMBERS, 1>;
  const Call& call = parameters.call;
  const int lane = int(threadIdx.x) % LANES, warp = int(threadIdx.x) / LANES, q = lane / 4, t = lane % 4;
  const int half = warp % Work::SHARERS;
  const unsigned sharing = unsigned(parameters.group_blocks * Work::SLICES);
  const unsigned part = blockIdx.x / sharing, parts = gridDim.x / sharing, shared_by = blockIdx.x - part * sharing;
  const int slice = int(shared_by % Work::SLICES);
  const int group = int(shared_by / Work::SLICES) * Work::GROUPS + warp / Work::SHARERS;

  char* const conditions = shared_memory() + Work::RINGS;
  char* const handed = conditions + Work::CONDITIONS + 16 * lane;
  FilterGradient<T, MEMBERS, 1, DROP> filters(call, group, lane, shared_memory() + warp * Ring::BYTES);
  ConditionCopies<T, CONDITION, Work::SLICE> copies(conditions, int(threadIdx.x));
  // Matrix lane / 8: channels from 8 (matrix % 2) on, pixels of row matrix / 2.
  const int column = lane % 8, piece = half * Work::SLICE / 16 + lane / 8 % 2;
  const int row_of_lane = ((lane / 16 * 8 + column) * (Work::SLICE / 8) + (piece ^ column)) * 16;

  WeightSums<T, Work::TILES> sums;
  int buffer = 0;
  for (unsigned index = part; index < unsigned(parameters.strips); index += parts) {
    const Place place = place_of(index, parameters.cut, 1);
    const int top = place.band * parameters.cut.rows, left = place.strip * 16;
    const Strip strip{place.image, left, top, min(top + parameters.cut.rows, call.height)};
    filters.begin({strip.image, left + 8 * half, top, strip.bottom}, group, lane);
    copies.begin(call, strip, slice * Work::SLICE, int(threadIdx.x));
    copies.fetch(call, buffer, true);
    uint32_t in_ring = 0;
    for (int y = top; y < strip.bottom; y += STEP) {
      const bool more = y + STEP < strip.bottom;
      filters.ring.fetch(call, Ring::wrapped(in_ring + KEY_ROWS / 2 * Ring::PAIR), more);
      wait_copies<2>();  // all but that and the condition
      synchronize_warp();
      KernelRows own;
      char* const to = handed + (2 * warp + buffer) * KernelRows::BYTES;
      filters.step(in_ring, y, [&](int kernel_row, const uint32_t (&words)[1][2]) {
        own.word[kernel_row][0] = transposed(words[0][0]);
        own.word[kernel_row][1] = transposed(words[0][1]);
        own.hand_over(to, kernel_row);
        sums.add_bias(kernel_row, own.word[kernel_row]);
      });
      filters.grad.load(call);  // of the next step
      wait_copies<1>();
      // The only barrier: the condition and the other warp's patch are there, and all have left the buffers of the step
      // before.
      __syncthreads();
      copies.fetch(call, buffer ^ 1, more);
      const char* const patches = conditions + 2 * buffer * Work::PATCH;
      sums.add(patches + half * Work::PATCH, row_of_lane, own);
      KernelRows other;
      other.take(handed + (2 * (warp ^ 1) + buffer) * KernelRows::BYTES);
      sums.add(patches + (half ^ 1) * Work::PATCH, row_of_lane, other);
      buffer ^= 1;
      in_ring = Ring::wrapped(in_ring + Ring::PAIR);
    }
    wait_copies<0>();  // of what no step was left for; a place in shared memory has copies of one thread only
    synchronize_warp();
  }

  // Both warps of a pair have summed the bias over their own patches. Where the first left its ring the second's go.
  __syncthreads();
  Floats4* const others = reinterpret_cast<Floats4*>(shared_memory()) + (warp / Work::SHARERS * 4) * LANES + lane;
  if (half == 1) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const sum = sums.bias[i];
      store(others + i * LANES, Floats4{{sum[0], sum[1], sum[2], sum[3]}});
    }
  }
  __syncthreads();
  if (group >= call.groups) return;
  const float scale = DROP ? call.scale : 1.f;
  float* const weight = parameters.parts + part * parameters.stride;
  float* const bias = weight + int64_t(TAPS * TAPS) * call.groups * CONDITION;
  const int first_channel = slice * Work::SLICE + half * (Work::SLICE / 2) + q;
#pragma unroll
  for (int kernel_row = 0; kernel_row < TAPS; ++kernel_row)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int dx = 2 * t + i;
      if (dx == TAPS) continue;
      const int row = call.row_of_weight(kernel_row, dx, group);
      float* const to = weight + int64_t(row) * CONDITION + first_channel;
#pragma unroll
      for (int tile = 0; tile < Work::TILES; ++tile) {
        store(to + 16 * tile, sums.weight[tile][kernel_row][i] * scale);
        store(to + 16 * tile + 8, sums.weight[tile][kernel_row][2 + i] * scale);
      }
      if (half == 0 && slice == 0 && q == 0) {
        const int sum = kernel_row / 2, number = 2 * (kernel_row % 2) + i;
        store(bias + row, (sums.bias[sum][number] + load<Floats4>(others + sum * LANES).number[number]) * scale);
      }
    }
}

}  // namespace laconv::k7_backward
