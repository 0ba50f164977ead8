// What the fused kernels of k = 3 share: stage 1 of the network, 4 groups of 4 channels, a condition of 64 channels.
//
// Nothing moves between lanes. A warp makes the filters of 16 pixels as one product, pixels times condition by
// condition times filters, and chooses freely which pixel a row of it is, which filter a column and which channel a
// step of the sum:
//     rows q and q + 8   two pixels of the lanes (q, t), q = lane / 4, t = lane % 4
//     column n of tile j tap 2 j + n % 2 of group n / 2 (the tenth tap does not exist: its weights are zero)
// so lane (q, t), to whom rows q and q + 8 of columns 2 t and 2 t + 1 belong, ends with all nine taps of group t of its
// two pixels, next to that group's four channels, which it loads itself: 8 bytes a pixel.
//     steps of the sum   step 2 p + i takes from lane t channels 32 p + 8 t + 4 i to + 3
// so what lane t gives to two steps is 16 bytes that lie together, in the condition and in the weight.
#pragma once
#include <initializer_list>

#include "warp.cuh"

namespace laconv {
namespace k3 {

constexpr int CHANNELS = 16, GROUPS = 4, MEMBERS = 4, CONDITION = 64, TAPS = 9;
constexpr int PIXELS = 2;  // of a lane
constexpr int STEPS = CONDITION / 16;
constexpr int TILES = (TAPS + 1) / 2;
constexpr int WARPS = THREADS / LANES;
constexpr int COLUMNS = 16;  // of a strip: one product's rows

// A warp's part of the work: a strip of columns, walked down.
struct Strip {
  int64_t image;
  int column, begin, end;  // rows `begin` to `end` - 1
};

struct Strips {
  int height, width;  // of the picture
  int columns, rows;  // from a strip to the next
  int across, down;   // strips of a picture
  uint32_t count;     // of all pictures

  __device__ __forceinline__ Strip at(uint32_t index) const {
    const uint32_t row = index / unsigned(across), image = row / unsigned(down);
    const int begin = int(row - image * unsigned(down)) * rows;
    return {int64_t(image), int(index - row * unsigned(across)) * columns, begin, min(begin + rows, height)};
  }
};

// Warps that run at the same time on the chip this was planned for (132 processors, two blocks each), and how many
// strips each is to walk down at least: the round that ends only partly filled is then at most one of five.
constexpr int64_t WARPS_AT_ONCE = 132 * 2 * WARPS, ROUNDS = 4;
// Shorter strips would read more than a quarter of x twice, two rows of it a strip.
constexpr int64_t FEWEST_ROWS = 8;

// How long a strip is, where so many lie beside each other in all pictures: as long as there are enough of them, and
// those of a picture equally long. Sums over pixels are made strip by strip, so it follows from the sizes alone and
// never from the chip, that bits agree on all of them.
inline int rows_of_strips(int64_t beside_each_other, int64_t height) {
  const int64_t wanted = divided_up(ROUNDS * WARPS_AT_ONCE, max(beside_each_other, int64_t(1)));
  const int64_t down = max(int64_t(1), min(wanted, height / FEWEST_ROWS));
  return int(divided_up(height, down));
}

// The strips of all pictures, `columns` apart, whose rows are walked `together` at a time; 0, or LACONV_NO_FUSED_KERNEL
// where there are more than 32 bits number.
inline int cut(const laconv_fused_args& args, int columns, int together, Strips& strips) {
  const int64_t across = divided_up(args.width, columns);
  const int rows = int(divided_up(rows_of_strips(args.batch * across, args.height), together)) * together;
  const int down = int(divided_up(args.height, max(rows, 1)));
  strips = {int(args.height), int(args.width), columns, rows, int(across), down, 0};
  const int64_t a_picture = across * down;
  if (a_picture > 0 && args.batch > 0x7fffffff / a_picture) return LACONV_NO_FUSED_KERNEL;
  strips.count = uint32_t(args.batch * a_picture);
  return 0;
}

// As many blocks as run at once, each of whose warps takes strip after strip: the weight is loaded once a warp.
template <class P>
int launch_strips(void (*kernel)(P), int blocks_a_processor, int shared_bytes, const P& parameters, void* stream) {
  if (parameters.strips.count == 0) return 0;
  Device device;
  const int failed = current_device(device);
  if (failed) return failed;
  const int64_t blocks = divided_up(parameters.strips.count, WARPS);
  return launch(kernel, min(blocks, int64_t(blocks_a_processor) * device.processors), shared_bytes, stream, parameters);
}

// 0, or why these kernels do not serve; `packing`: pictures of the condition are filled up to multiples of it.
inline int check(const laconv_fused_args& args, int packing, std::initializer_list<const void*> addresses) {
  constexpr int64_t MOST = 0x7fffffff, LARGEST_PICTURE = 1 << 30;  // numbers; steps between rows have 32 bits
  for (const int64_t side : {args.batch, args.height, args.width, args.threshold})
    if (side < 0 || side > MOST) return LACONV_BAD_SIZE;
  if (args.threshold > 255) return LACONV_BAD_SIZE;
  if (args.kernel_size != 3 || args.channels != CHANNELS || args.groups != GROUPS || args.condition != CONDITION)
    return LACONV_NO_FUSED_KERNEL;
  const int64_t high = divided_up(args.height, packing) * packing, wide = divided_up(args.width, packing) * packing;
  if (wide && high > LARGEST_PICTURE / CONDITION / wide) return LACONV_NO_FUSED_KERNEL;
  for (const void* address : addresses)
    if (!aligned(address, 16)) return LACONV_NO_FUSED_KERNEL;
  return aligned(args.keys, 8) ? 0 : LACONV_NO_FUSED_KERNEL;
}

// Dropout by the rule of mask.cuh.
struct Dropout {
  const Key* keys;  // one an image
  uint32_t threshold;
  float scale;  // of what is kept
};

inline Dropout dropout_of(const laconv_fused_args& args) {
  return {reinterpret_cast<const Key*>(args.keys), uint32_t(args.threshold), 256.f / float(256 - args.threshold)};
}

// Zero where the byte of this tap says so. A dropped value is zero whatever it was, NaN too.
__device__ __forceinline__ float dropped(float filter, const Bits128& drawn, int tap, const Dropout& dropout) {
  return drawn.byte(tap) >= dropout.threshold ? filter : 0.f;
}

// The weight as right-hand operands of the product, in registers of every warp.
template <class T> struct Weights {
  uint32_t word[STEPS][TILES][2];

  __device__ __forceinline__ void load(const void* weight, int q, int t) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
      const int tap = 2 * tile + q % 2, group = q / 2;
      const T* const row = static_cast<const T*>(weight) + (tap * GROUPS + group) * CONDITION + 8 * t;
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const Words4 found = tap < TAPS ? load_constant<Words4>(row + 32 * part) : zeros<uint32_t, 4>();
#pragma unroll
        for (int i = 0; i < 4; ++i) word[2 * part + i / 2][tile][i % 2] = found.number[i];
      }
    }
  }
};

// The bias as it stands in the first left-hand summand of every tile, {even tap, odd tap} of group t for both pixels:
// 16 bytes a tile and group in shared memory, read by all lanes of one t together.
struct Bias {
  float quad[TILES][GROUPS][2 * PIXELS];

  template <class T> __device__ __forceinline__ void fill(const void* bias) {
    constexpr int NUMBERS = TILES * GROUPS * 2 * PIXELS;
    if (threadIdx.x < NUMBERS) {
      const int number = threadIdx.x, tap = 2 * (number / 16) + number % 2, group = number / 4 % 4;
      float value = 0;
      if (bias && tap < TAPS) value = widen(load_constant<T>(static_cast<const T*>(bias) + tap * GROUPS + group));
      store(&quad[0][0][0] + number, value);
    }
  }
};

// Both pixels' channels of the condition as left-hand operands: 16 bytes of each, two steps, at a time.
struct Pixels {
  uint32_t word[STEPS][4];

  __device__ __forceinline__ void set(int part, int pixel, const Words4& words) {
#pragma unroll
    for (int i = 0; i < 4; ++i) word[2 * part + i / 2][2 * (i % 2) + pixel] = words.number[i];
  }
};

// filters[2 * pixel + i] = tap 2 * tile + i of group t, before dropout.
template <class T>
__device__ __forceinline__ void make_filters(float* filters, const Pixels& pixels, const Weights<T>& weights,
                                             const Bias& bias, int tile, int t) {
  const Floats4 summand = load<Floats4>(bias.quad[tile][t]);
  multiply(filters, pixels.word[0], weights.word[0][tile], summand.number, T{});
#pragma unroll
  for (int step = 1; step < STEPS; ++step) multiply(filters, pixels.word[step], weights.word[step][tile], filters, T{});
}

// Four channels, 8 bytes.
template <class T> __device__ __forceinline__ void widen_four(float* wide, const Words2& words) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    wide[2 * i] = lower(words.number[i], T{});
    wide[2 * i + 1] = upper(words.number[i], T{});
  }
}
template <class T> __device__ __forceinline__ Words2 narrow_four(const float* wide, float scale) {
  return {{packed(wide[0] * scale, wide[1] * scale, T{}), packed(wide[2] * scale, wide[3] * scale, T{})}};
}

}  // namespace k3
}  // namespace laconv
