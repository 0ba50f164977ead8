// The MLP of 64, 128 and 256 channels. A block's pixels lie in shared memory, and so do the matrices, or the slab of 32 hidden
// channels of them that is in use, the next one on its way. All lie as in device memory, W1 by hidden channels and W2 by
// channels, and serve every product: what one wants turned is turned as it is loaded (ldmatrix). Rows are 16 bytes apart
// from a multiple of 128 (W2's slabs 80 from each other), so that 8 rows lie in different banks.
#pragma once
#include "hidden.cuh"

namespace laconv {
namespace mlp {
namespace wide {

constexpr int WARPS = 8, BLOCK = WARPS * LANES;
constexpr int SLAB = 32;  // hidden channels
constexpr int GAP = 16;   // bytes behind a row

template <int NUMBERS> constexpr int PITCH_OF = 2 * NUMBERS + GAP;

template <int CHANNELS> struct Shape {
  static constexpr int HIDDEN = TIMES * CHANNELS, STEPS = CHANNELS / 16;
  static constexpr int PITCH = PITCH_OF<CHANNELS>, SLAB_PITCH = PITCH_OF<SLAB>;
  static constexpr int SLAB_BYTES = SLAB * PITCH + CHANNELS * SLAB_PITCH;  // of W1, then of W2
};

// Asks for ROWS rows of COLUMNS numbers, APART numbers from each other in device memory; zeros behind `there` of them.
template <int ROWS, int COLUMNS, int APART, class T>
__device__ __forceinline__ void copy_rows(char* shared, const T* source, int64_t there = ROWS) {
  constexpr int PIECES = COLUMNS / 8, AT_ONCE = BLOCK / PIECES;
  static_assert(BLOCK % PIECES == 0 && ROWS % AT_ONCE == 0, "each thread copies as many pieces");
  const int first = int(threadIdx.x) / PIECES, piece = int(threadIdx.x) % PIECES;
  shared += first * PITCH_OF<COLUMNS> + 16 * piece;
  source += first * APART + 8 * piece;
#pragma unroll
  for (int row = 0; row < ROWS; row += AT_ONCE)
    copy_16(shared + row * PITCH_OF<COLUMNS>, source + row * APART, first + row < there);
}

// A slab of both matrices, as one group of copies.
template <int CHANNELS, class T>
__device__ __forceinline__ void copy_slab(char* shared, const void* w1, const void* w2, int slab) {
  using S = Shape<CHANNELS>;
  if (slab < S::HIDDEN / SLAB) {
    copy_rows<SLAB, CHANNELS, CHANNELS>(shared, static_cast<const T*>(w1) + slab * SLAB * CHANNELS);
    copy_rows<CHANNELS, SLAB, S::HIDDEN>(shared + SLAB * S::PITCH, static_cast<const T*>(w2) + slab * SLAB);
  }
  end_group_of_copies();
}

// Where the lane's row of four 8 x 8 matrices begins, which stand in a square: beside each other are matrices 0, 1 (first
// and second 8 columns), below them 2, 3. With DOWN matrices 0, 1 stand below each other and 2, 3 beside them.
template <bool DOWN> __device__ __forceinline__ int square(int pitch) {
  const int lane = int(threadIdx.x) % LANES, matrix = lane / 8;
  const int below = DOWN ? matrix % 2 : matrix / 2, beside = DOWN ? matrix / 2 : matrix % 2;
  return (8 * below + lane % 8) * pitch + 16 * beside;
}

// 16 rows of pixels as left operands, by 16 channels: in registers, if there is room for all, else where they are.
template <int CHANNELS> struct Rows16 {
  static constexpr bool HELD = CHANNELS <= 128;
  const char* mine;
  uint32_t words[HELD ? CHANNELS / 16 : 1][4];

  __device__ __forceinline__ explicit Rows16(const char* rows) : mine(rows + square<true>(Shape<CHANNELS>::PITCH)) {
#pragma unroll
    for (int step = 0; HELD && step < CHANNELS / 16; ++step) load_matrices_4<false>(words[step], mine + 32 * step);
  }
  // rows * right over all channels, for 16 hidden channels whose right operands `load(words, step)` gives.
  template <class T, class Load>
  __device__ __forceinline__ void multiply_by(float (&sums)[2][4], const Load& load, T) const {
#pragma unroll(HELD ? CHANNELS / 16 : 4)  // registers are full where not all of it is held
    for (int step = 0; step < CHANNELS / 16; ++step) {
      uint32_t left[4], right[4];
      if (!HELD) load_matrices_4<false>(left, mine + 32 * step);
      load(right, step);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        multiply(sums[half], HELD ? words[step] : left, right + 2 * half, sums[half], T{});
    }
  }
};

// Of 16 pixels, by 8 channels, on top of `beside`, if there is that; through the warp's own 16 rows of shared memory, for
// whole pieces of 16 bytes.
template <int CHANNELS, class T>
__device__ __forceinline__ void store_pixels(void* map, char* rows, int64_t first, int64_t pixels,
                                             const float (&sums)[CHANNELS / 8][4], const void* beside = nullptr) {
  constexpr int PITCH = Shape<CHANNELS>::PITCH, PIECES = CHANNELS / 8;
  const int lane = int(threadIdx.x) % LANES;
  synchronize_warp();
#pragma unroll
  for (int block = 0; block < CHANNELS / 8; ++block)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      store(rows + (lane / 4 + 8 * half) * PITCH + 16 * block + 4 * (lane % 4),
            packed(sums[block][2 * half], sums[block][2 * half + 1], T{}));
  synchronize_warp();
#pragma unroll
  for (int i = lane; i < 16 * PIECES; i += LANES) {
    const int row = i / PIECES, piece = i % PIECES;
    const int64_t place = (first + row) * CHANNELS + 8 * piece;
    if (first + row >= pixels) continue;
    Words4 words = load<Words4>(rows + row * PITCH + 16 * piece);
    if (beside) {
      const Words4 added = load_constant<Words4>(static_cast<const T*>(beside) + place);
#pragma unroll
      for (int word = 0; word < 4; ++word) words.number[word] = pair_sum(words.number[word], added.number[word], T{});
    }
    store(static_cast<T*>(map) + place, words);
  }
}

// Whether a block of the current device may have so much shared memory.
inline int check_shared(int bytes) {
  Device device;
  if (const int failed = current_device(device)) return failed;
  return bytes > device.shared_memory ? LACONV_NO_FUSED_KERNEL : 0;
}

}  // namespace wide
}  // namespace mlp
}  // namespace laconv
