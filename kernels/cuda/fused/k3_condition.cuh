// How the kernels of k = 3 that walk down strips load the condition of a lane's two pixels, and what becomes of it.
#pragma once
#include "k3.cuh"

namespace laconv {
namespace k3 {

// What becomes of the condition when it is loaded.
enum class Prologue {
  NONE,
  // It is the packed output of the convolution before: cells of 8 x 8 pixels, row by row, each pixel's channels
  // together; relu(scale * relu(cond) + shift), in float, rounded as PyTorch rounds it.
  PACKED
};
constexpr int PACKING = 8;

// Scale and shift of the prologue in shared memory: 8 of each, for the 16 bytes that a lane loads, with room behind
// them so that the four lanes that read at once meet different banks.
struct Affine {
  static constexpr int STRIDE = 20;
  float numbers[CONDITION / 8][STRIDE];

  __device__ __forceinline__ void fill(const float* scale, const float* shift) {
    if (threadIdx.x < CONDITION) {
      float* const eight = numbers[threadIdx.x / 8];
      store(eight + threadIdx.x % 8, load_constant<float>(scale + threadIdx.x));
      store(eight + 8 + threadIdx.x % 8, load_constant<float>(shift + threadIdx.x));
    }
  }
};

// Where a lane finds the condition of its two pixels, row by row.
template <class T, Prologue PROLOGUE> class Condition {
 public:
  __device__ __forceinline__ Condition(const void* cond, int64_t image, int y, const Strips& strips, int column,
                                       int t) {
    constexpr bool PACKED = PROLOGUE == Prologue::PACKED;
    constexpr int BYTES = CONDITION * int(sizeof(T)), SIDE = PACKED ? PACKING : 1;
    const int cells_across = (strips.width + SIDE - 1) / SIDE, cells_down = (strips.height + SIDE - 1) / SIDE;
    const uint32_t row_of_cells = unsigned(cells_across) * SIDE * SIDE;  // in pixels
    const auto pixel = [&](int x, int y) {
      return unsigned(y / SIDE) * row_of_cells + unsigned(y % SIDE * SIDE + x / SIDE * SIDE * SIDE + x % SIDE);
    };
    const char* const first = static_cast<const char*>(cond) + image * cells_down * row_of_cells * BYTES + 16 * t;
    const int last = strips.width - 1;
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) place_[i] = first + uint64_t(pixel(max(0, min(column + i, last)), y)) * BYTES;
    within_ = SIDE * BYTES;
    between_ = (row_of_cells - (SIDE - 1) * SIDE) * BYTES;
  }

  // From row y to the next.
  __device__ __forceinline__ void advance(int y) {
    const uint32_t step = PROLOGUE == Prologue::PACKED && y % PACKING != PACKING - 1 ? within_ : between_;
#pragma unroll
    for (int pixel = 0; pixel < PIXELS; ++pixel) place_[pixel] += step;
  }

  // `zero` is zero, which the compiler does not know: 16 bytes arrive in four neighbouring registers, a product wants
  // words of two pixels in four neighbouring registers, and the OR gives each word a place of its own. Without it the
  // compiler copies all of them for every one of the five tiles. The prologue's arithmetic does as much.
  __device__ __forceinline__ void load(Pixels& pixels, uint32_t zero, const Affine* affine = nullptr, int t = 0) const {
    Words4 found[PIXELS][2];
#pragma unroll
    for (int pixel = 0; pixel < PIXELS; ++pixel)
#pragma unroll
      for (int part = 0; part < 2; ++part) found[pixel][part] = load_constant<Words4>(place_[pixel] + 64 * part);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      Floats4 scale[2], shift[2];
      if (PROLOGUE == Prologue::PACKED) {
        const float* const eight = affine->numbers[4 * part + t];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          scale[i] = laconv::load<Floats4>(eight + 4 * i);
          shift[i] = laconv::load<Floats4>(eight + 8 + 4 * i);
        }
      }
#pragma unroll
      for (int pixel = 0; pixel < PIXELS; ++pixel) {
        Words4 words = found[pixel][part];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          uint32_t& word = words.number[i];
          if (PROLOGUE == Prologue::PACKED) {
            const float* const factor = scale[i / 2].number + 2 * (i % 2);
            const float* const summand = shift[i / 2].number + 2 * (i % 2);
            word = relu_pair(word, T{});
            const float low = lower(word, T{}) * factor[0] + summand[0];
            const float high = upper(word, T{}) * factor[1] + summand[1];
            word = packed_relu(low, high, T{});
          } else {
            word |= zero;
          }
        }
        pixels.set(part, pixel, words);
      }
    }
  }

 private:
  const char* place_[PIXELS];
  uint32_t within_, between_;  // bytes from a row to the next: of one cell of the packing, and of the next
};

}  // namespace k3
}  // namespace laconv
