// The gradient of the condition, k = 7: grad_cond[p] = sum over groups and taps of grad_filters[p, tap, group] *
// weight.
//
// A warp of a block makes the filter gradient of one group, all of the same strip of 16 columns, and leaves it in
// shared memory as left operands. After the one barrier of a step warp w sums over all groups for its share of the
// condition's channels: the sum over groups is the product's K, so that nobody adds to another's sum. Its part of the
// weight stays in its registers for all its strips, whatever the number of groups.
#pragma once
#include "filter_gradient.cuh"

namespace laconv::k7_backward {

struct GradCondParameters {
  Call call;
  Cut cut;
  void* result;
  int strips;  // of all pictures
};

// Right operands of K = 16 slots each. Operand i < 3 * WARPS: kernel rows 2 (i % 3) and the next of group i / 3; after
// them kernel row 6 of groups 2j and 2j + 1, so that K is 56 a group and no more.
template <int WARPS> struct Operands {
  static constexpr int COUNT = TAPS * WARPS / 2;

  static __device__ __forceinline__ int group(int operand, int half) {
    return operand < 3 * WARPS ? operand / 3 : 2 * (operand - 3 * WARPS) + half;
  }
  static __device__ __forceinline__ int kernel_row(int operand, int half) {
    return operand < 3 * WARPS ? 2 * (operand % 3) + half : TAPS - 1;
  }
};

// Blocks share the condition's channels in slices; warp w makes SLICE / WARPS of them. Each slice's block makes the
// filters' gradient for itself. Shared memory: a ring of x each warp, then two buffers of operands, of this step and
// of the one before, which others still read: a word quad a lane.
template <class T, int MEMBERS, int CONDITION, int WARPS, bool DROP> struct GradCond {
  static constexpr int PATCHES = 2, SLICE = SLICE_OF<CONDITION>, SLICES = CONDITION / SLICE;
  static constexpr int OPERANDS = Operands<WARPS>::COUNT, TILES = SLICE / WARPS / 8;
  static constexpr int RINGS = WARPS * KeyRing<T, MEMBERS, PATCHES>::BYTES, OPERAND = LANES * 16;
  static constexpr int BUFFER = PATCHES * OPERANDS * OPERAND, BYTES = RINGS + 2 * BUFFER;
  static constexpr int COLUMNS = 8 * PATCHES;
  using Run = Vector<uint32_t, TILES>;  // a lane's channels of a pixel, 2 a tile

  // Column q of tile n is channel 2 TILES (q / 2) + 2n + q % 2 of the warp's, so that a lane ends with a run of
  // channels. Lane (q, t) wants taps 2t and 2t + 1 of one channel, but a word of memory has two channels of one tap:
  // neighbouring columns each load one tap and exchange.
  static __device__ __forceinline__ void load_weight(uint32_t (&word)[TILES][OPERANDS][2], const Call& call,
                                                     int first_channel, int lane) {
    const int q = lane / 4, t = lane % 4, dx = 2 * t + q % 2;
    const uint32_t one_channel = q % 2 ? 0x3276u : 0x5410u;
    const T* const weight = static_cast<const T*>(call.weight) + first_channel + 2 * TILES * (q / 2);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
      for (int i = 0; i < OPERANDS; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int group = Operands<WARPS>::group(i, half), kernel_row = Operands<WARPS>::kernel_row(i, half);
          const uint32_t row = uint32_t(call.row_of_weight(kernel_row, dx, group));
          const uint32_t own = load_word_if(weight + row * CONDITION + 2 * tile, group < call.groups && dx < TAPS);
          word[tile][i][half] = bytes(own, shuffled(own, lane ^ 4), one_channel);
        }
  }

  // Two kernel rows of a patch are an operand; the last one shares it with that of the neighbouring group.
  struct Leave {
    char* own;
    int warp;
    uint32_t (&even)[PATCHES][2];

    __device__ __forceinline__ void operator()(int kernel_row, const uint32_t (&words)[PATCHES][2]) const {
#pragma unroll
      for (int patch = 0; patch < PATCHES; ++patch) {
        const int of_patch = patch * OPERANDS;
        if (kernel_row == TAPS - 1) {
          const int operand = of_patch + 3 * WARPS + warp / 2;
          store(own + operand * OPERAND + warp % 2 * 8, Words2{{words[patch][0], words[patch][1]}});
        } else if (kernel_row % 2) {
          const int operand = of_patch + 3 * warp + kernel_row / 2;
          store(own + operand * OPERAND, Words4{{even[patch][0], even[patch][1], words[patch][0], words[patch][1]}});
        } else {
          even[patch][0] = words[patch][0];
          even[patch][1] = words[patch][1];
        }
      }
    }
  };

  static __device__ __forceinline__ void sum_over_groups(float (&sum)[PATCHES][TILES][4], const char* own,
                                                         const uint32_t (&weight)[TILES][OPERANDS][2]) {
#pragma unroll
    for (int i = 0; i < OPERANDS; ++i)
#pragma unroll
      for (int patch = 0; patch < PATCHES; ++patch) {
        const Words4 filters = load<Words4>(own + (patch * OPERANDS + i) * OPERAND);
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
          multiply(sum[patch][tile], filters.number, weight[tile][i], sum[patch][tile], T{});
      }
  }
};

template <class T, int MEMBERS, int CONDITION, int WARPS, bool DROP>
__global__ void __launch_bounds__(WARPS* LANES, WARPS == 4 ? 2 : 1) k7_grad_cond(const GradCondParameters parameters) {
  using Work = GradCond<T, MEMBERS, CONDITION, WARPS, DROP>;
  using Ring = KeyRing<T, MEMBERS, Work::PATCHES>;
  const Call& call = parameters.call;
  const int lane = int(threadIdx.x % LANES), warp = int(threadIdx.x / LANES);
  const int slice = int(blockIdx.x % Work::SLICES);

  FilterGradient<T, MEMBERS, Work::PATCHES, DROP> filters(call, warp, lane, shared_memory() + warp * Ring::BYTES);
  uint32_t weight[Work::TILES][Work::OPERANDS][2];
  Work::load_weight(weight, call, slice * Work::SLICE + Work::SLICE / WARPS * warp, lane);

  char* own = shared_memory() + Work::RINGS + 16 * lane;  // the lane's quad of operand 0
  int to_other_buffer = Work::BUFFER;
  const unsigned blocks = gridDim.x / Work::SLICES;
  for (unsigned index = blockIdx.x / Work::SLICES; index < unsigned(parameters.strips); index += blocks) {
    const Place place = place_of(index, parameters.cut, 1);
    const int top = place.band * parameters.cut.rows, left = place.strip * Work::COLUMNS;
    const Strip strip{place.image, left, top, min(top + parameters.cut.rows, call.height)};
    const unsigned thread = unsigned(known_from_here(int(threadIdx.x)));
    filters.begin(strip, int(thread / LANES), int(thread % LANES));
    T* const picture = static_cast<T*>(parameters.result) + int64_t(place.image) * call.picture_of_cond;
    const int of_warp = slice * Work::SLICE + Work::SLICE / WARPS * int(thread / LANES);
    const int first_channel = of_warp + 2 * Work::TILES * int(thread % 4);
    uint32_t to = uint32_t(top) * call.row_of_cond + uint32_t(filters.column * CONDITION + first_channel);
    uint32_t in_ring = 0;
    for (int y = top; y < strip.bottom; y += STEP) {
      filters.ring.fetch(call, Ring::wrapped(in_ring + KEY_ROWS / 2 * Ring::PAIR), y + STEP < strip.bottom);
      wait_copies<1>();
      synchronize_warp();
      {
        uint32_t even[Work::PATCHES][2] = {};
        filters.step(in_ring, y, typename Work::Leave{own, warp, even});
        filters.grad.load(call);  // of the next step
      }
      __syncthreads();  // the only one: the other buffer was read before the last one
      float sum[Work::PATCHES][Work::TILES][4] = {};
      Work::sum_over_groups(sum, own, weight);

      const float scale = DROP ? call.scale : 1.f;
#pragma unroll
      for (int patch = 0; patch < Work::PATCHES; ++patch)
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
          typename Work::Run run;
#pragma unroll
          for (int tile = 0; tile < Work::TILES; ++tile) {
            const float* const pair = sum[patch][tile] + 2 * lower;
            run.number[tile] = packed(pair[0] * scale, pair[1] * scale, T{});
          }
          if (filters.column + 8 * patch < call.width && y + lower < strip.bottom)
            store(picture + (to + lower * call.row_of_cond + uint32_t(8 * patch * CONDITION)), run);
        }
      own += to_other_buffer;
      to_other_buffer = -to_other_buffer;
      to += STEP * call.row_of_cond;
      in_ring = Ring::wrapped(in_ring + Ring::PAIR);
    }
    wait_copies<0>();  // of rows that no step was left for
    synchronize_warp();
  }
}

}  // namespace laconv::k7_backward
