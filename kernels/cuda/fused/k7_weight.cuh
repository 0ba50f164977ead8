// The weight of a group in shared memory, and the product that makes filters of it, k = 7.
#pragma once
#include "k7_backward.cuh"

namespace laconv::k7_backward {

// 56 rows of CONDITION numbers, every eighth zero. A row's pitch of 2 * CONDITION + 64 bytes lets the lanes of a
// quarter of a warp load 16 bytes each from different banks; the 64 bytes hold the bias of the row's whole kernel row,
// by pair of slots {low, high, low, high}, which is D of rows q and q + 8 as it is before the first product.
//
// Both operands take the same liberty with K: in a chunk of 32, lane t's words of two products are numbers 8t to 8t +
// 7, which is 16 bytes in a row.
template <class T, int CONDITION> struct GroupWeight {
  static constexpr int PITCH = CONDITION + 32;  // numbers
  static constexpr int BYTES = SLOTS * PITCH * int(sizeof(T));

  const T* own;  // the lane's numbers of the first kernel row's slot q

  __device__ __forceinline__ GroupWeight(const char* memory, int lane)
      : own(reinterpret_cast<const T*>(memory) + lane / 4 * PITCH + 8 * (lane % 4)) {}

  // By `lanes` lanes together; a barrier of them must follow.
  static __device__ __forceinline__ void fill(char* memory, const Call& call, int group, int lane, int lanes) {
    T* const rows = reinterpret_cast<T*>(memory);
    constexpr int PIECES = CONDITION / 8;
    const T* const weight = static_cast<const T*>(call.weight);
    for (int piece = lane; piece < SLOTS * PIECES; piece += lanes) {
      const int slot = piece / PIECES, number = piece % PIECES * 8;
      Words4 words = {{0, 0, 0, 0}};
      if (slot % 8 < TAPS) {
        const int64_t row = call.row_of_weight(slot / 8, slot % 8, group);
        words = load_constant<Words4>(weight + row * CONDITION + number);
      }
      store(rows + slot * PITCH + number, words);
    }
    for (int piece = lane; piece < SLOTS * 4; piece += lanes) {
      const int slot = piece / 4, pair = piece % 4, first = slot / 8 * 8 + 2 * pair;
      const float low = bias_of(call, first, group), high = bias_of(call, first + 1, group);
      store(rows + slot * PITCH + CONDITION + 8 * pair, Floats4{{low, high, low, high}});
    }
  }

  // filters (row = pixel, columns = the slots of a kernel row) of 16 pixels a tile; condition[tile][chunk][product].
  template <int TILES>
  __device__ __forceinline__ void filters(float (&sum)[TILES][4],
                                          const uint32_t (&condition)[TILES][CONDITION / 32][2][4],
                                          int kernel_row) const {
    const Floats4 first = load<Floats4>(own + kernel_row * 8 * PITCH + CONDITION);
#pragma unroll
    for (int chunk = 0; chunk < CONDITION / 32; ++chunk) {
      const Words4 words = load<Words4>(own + kernel_row * 8 * PITCH + 32 * chunk);
#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
        multiply(sum[tile], condition[tile][chunk][0], words.number, chunk ? sum[tile] : first.number, T{});
        multiply(sum[tile], condition[tile][chunk][1], words.number + 2, sum[tile], T{});
      }
    }
  }

  // The same of 16 pixels in parts: the bias, then what numbers `from` to `from` + 32 CHUNKS of the condition add.
  __device__ __forceinline__ void begin(float (&sum)[4], int kernel_row) const {
    const Floats4 first = load<Floats4>(own + kernel_row * 8 * PITCH + CONDITION);
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = first.number[i];
  }
  template <int CHUNKS>
  __device__ __forceinline__ void add(float (&sum)[4], const uint32_t (&condition)[CHUNKS][2][4], int kernel_row,
                                      int from) const {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      const Words4 words = load<Words4>(own + from + kernel_row * 8 * PITCH + 32 * chunk);
      multiply(sum, condition[chunk][0], words.number, sum, T{});
      multiply(sum, condition[chunk][1], words.number + 2, sum, T{});
    }
  }

 private:
  static __device__ __forceinline__ float bias_of(const Call& call, int slot, int group) {
    if (slot % 8 == TAPS || call.bias == nullptr) return 0.f;
    const T* const all = static_cast<const T*>(call.bias);
    return widen(load_constant<T>(all + call.row_of_weight(slot / 8, slot % 8, group)));
  }
};

}  // namespace laconv::k7_backward
