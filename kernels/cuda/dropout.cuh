// Dropout on its own, by the rule of mask.cuh: of filters (images, pixels, k * k * groups) and of any other tensor.
#pragma once
#include "layout.cuh"
#include "mask.cuh"

namespace laconv {

template <class T> __device__ __forceinline__ T dropped(T value, uint32_t byte, const MaskRule& rule) {
  return narrowed<T>(byte < rule.threshold ? Wide<T>(0) : widen(value) * Wide<T>(rule.scale));
}

struct ElementParameters {
  const void* source;
  void* result;
  int64_t elements, counters, items;  // elements and counters of an image, counters of all images
  MaskRule rule;
};

template <class T, bool WHOLE>  // WHOLE: an image's counters all have 16 elements, which can be loaded at once
__global__ void __launch_bounds__(THREADS) drop_elements(const ElementParameters parameters) {
  constexpr int LONG = NUMBERS_IN_16_BYTES<T>;
  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.items;
       item += int64_t(gridDim.x) * THREADS) {
    const int64_t image = int64_t(uint64_t(item) / uint64_t(parameters.counters));
    const int64_t counter = item - image * parameters.counters, element = counter * MASK_BYTES;
    const Bits128 bits = element_bits(mask_key(parameters.rule, image), uint64_t(counter));
    const T* const source = static_cast<const T*>(parameters.source) + image * parameters.elements + element;
    T* const result = static_cast<T*>(parameters.result) + image * parameters.elements + element;
    if (WHOLE) {
#pragma unroll
      for (int first = 0; first < MASK_BYTES; first += LONG) {
        Vector<T, LONG> vector = load<Vector<T, LONG>>(source + first);
#pragma unroll
        for (int v = 0; v < LONG; ++v)
          vector.number[v] = dropped(vector.number[v], bits.byte(first + v), parameters.rule);
        store(result + first, vector);
      }
    } else {
#pragma unroll
      for (int i = 0; i < MASK_BYTES; ++i)
        if (element + i < parameters.elements) result[i] = dropped(source[i], bits.byte(i), parameters.rule);
    }
  }
}

struct FilterParameters {
  const void* source;
  void* result;
  int64_t pixels, total;  // of an image, of all
  int filters;            // values a pixel
  int kernel_size, groups, tile;
  int row;  // numbers of a padded row; 0: filters lie in the order (tap, group)
  MaskRule rule;

  __device__ __forceinline__ int place(int group, int tap) const {
    if (!row) return tap * groups + group;
    return (group * kernel_size + tap / kernel_size) * row + tap % kernel_size;
  }
};

// A byte a value of a tile of pixels in shared memory: a counter's values lie `groups` apart, and written one by one
// they would waste most of every memory transaction.
__device__ __forceinline__ void tile_bytes(const FilterParameters& parameters, int64_t start, int pixels,
                                           uint8_t* bytes) {
  const int k = parameters.kernel_size, groups = parameters.groups, blocks = mask_blocks(k);
  const int64_t image = start / parameters.pixels;
  const uint32_t before = uint32_t(start - image * parameters.pixels);
  for (int task = threadIdx.x; task < pixels * blocks * groups; task += THREADS) {
    const int group = task % groups, block = task / groups % blocks, pixel = task / groups / blocks;
    const uint32_t images = (before + uint32_t(pixel)) / uint32_t(parameters.pixels);  // a tile may reach further ones
    const uint32_t place = before + uint32_t(pixel) - images * uint32_t(parameters.pixels);
    const Bits128 bits = filter_bits(mask_key(parameters.rule, image + images), place, group, block);
    uint8_t* const own = bytes + pixel * parameters.filters;
#pragma unroll
    for (int i = 0; i < MASK_BYTES; ++i) {
      const int tap = mask_tap(k, block, i);
      if (tap >= 0) own[parameters.place(group, tap)] = uint8_t(bits.byte(i));
    }
  }
}

// V values at once, which then begin at multiples of their size: a tile is a multiple of 16 pixels.
template <class T, int V> __global__ void __launch_bounds__(THREADS) drop_filters(const FilterParameters parameters) {
  uint8_t* const bytes = reinterpret_cast<uint8_t*>(shared_memory());
  for (int64_t start = int64_t(blockIdx.x) * parameters.tile; start < parameters.total;
       start += int64_t(gridDim.x) * parameters.tile) {
    const int64_t left = parameters.total - start;
    const int pixels = int(left < parameters.tile ? left : parameters.tile);
    tile_bytes(parameters, start, pixels, bytes);
    __syncthreads();
    const T* const source = static_cast<const T*>(parameters.source) + start * parameters.filters;
    T* const result = static_cast<T*>(parameters.result) + start * parameters.filters;
    const int values = pixels * parameters.filters, whole = values / V * V;
    for (int i = int(threadIdx.x) * V; i < whole; i += THREADS * V) {
      Vector<T, V> vector = load<Vector<T, V>>(source + i);
#pragma unroll
      for (int v = 0; v < V; ++v) vector.number[v] = dropped(vector.number[v], bytes[i + v], parameters.rule);
      store(result + i, vector);
    }
    for (int i = whole + int(threadIdx.x); i < values; i += THREADS)
      result[i] = dropped(source[i], bytes[i], parameters.rule);
    __syncthreads();  // all have read the bytes
  }
}

// Where the bytes of few pixels would not fit: a counter a value.
template <class T> __global__ void __launch_bounds__(THREADS) drop_wide_filters(const FilterParameters parameters) {
  const int k = parameters.kernel_size;
  for (int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x; i < parameters.total * parameters.filters;
       i += int64_t(gridDim.x) * THREADS) {
    const int64_t pixel = i / parameters.filters, image = pixel / parameters.pixels;
    const int filter = int(i - pixel * parameters.filters), row = parameters.row;
    const int group = row ? filter / (k * row) : filter % parameters.groups;
    const int dy = row ? filter / row % k : filter / parameters.groups / k;
    const int dx = row ? filter % row : filter / parameters.groups % k;  // beyond k the filler of a row: no place is its own
    const Bits128 bits = filter_bits(mask_key(parameters.rule, image), uint32_t(pixel - image * parameters.pixels),
                                     group, mask_block(k, dy, dx));
    uint32_t byte = 0;
#pragma unroll
    for (int place = 0; place < MASK_BYTES; ++place)  // an index that is known keeps the words in registers
      if (place == mask_place(k, dy, dx)) byte = bits.byte(place);
    static_cast<T*>(parameters.result)[i] =
        dropped(static_cast<const T*>(parameters.source)[i], byte, parameters.rule);
  }
}

constexpr int LARGEST_TILE = 16384;  // bytes of shared memory: 80 pixels of 7 x 7 taps and 4 groups, 16 of 16
constexpr int TILE_STEP = 16;       // pixels: then a tile begins at a multiple of 16 values

template <class T> int drop_elements_any(const laconv_dropout_args& args, void* stream) {
  if (args.images < 0 || args.elements < 0) return LACONV_BAD_SIZE;
  if (args.threshold < 1 || args.threshold > 255) return LACONV_BAD_THRESHOLD;
  const int64_t counters = divided_up(args.elements, MASK_BYTES);
  const MaskRule rule{args.keys, uint32_t(args.threshold), 256.0 / double(256 - args.threshold)};
  const ElementParameters parameters{args.source, args.result, args.elements, counters, counters * args.images, rule};
  const bool whole = args.elements % MASK_BYTES == 0 && aligned(args.source, 16) && aligned(args.result, 16);
  return launch(whole ? drop_elements<T, true> : drop_elements<T, false>, divided_up(parameters.items, THREADS), 0,
                stream, parameters);
}

template <class T> int drop_filters_any(const laconv_dropout_args& args, void* stream) {
  if (args.kernel_size < 1 || args.kernel_size % 2 == 0 || args.kernel_size > 32767) return LACONV_BAD_KERNEL_SIZE;
  if (args.images < 0 || args.elements < 0 || args.groups < 1 || args.groups > INT32_MAX) return LACONV_BAD_SIZE;
  const int row = args.padded ? row_length(int(args.kernel_size)) : 0;
  if (args.padded && !row) return LACONV_BAD_LAYOUT;
  const int64_t filters = args.kernel_size * args.groups * (row ? row : args.kernel_size);
  const int64_t pixels = args.elements / filters;
  if (filters > INT32_MAX || args.elements % filters || pixels > INT32_MAX) return LACONV_BAD_SIZE;
  if (args.threshold < 1 || args.threshold > 255) return LACONV_BAD_THRESHOLD;
  const MaskRule rule{args.keys, uint32_t(args.threshold), 256.0 / double(256 - args.threshold)};
  const int64_t fitting = LARGEST_TILE / filters / TILE_STEP * TILE_STEP;
  const FilterParameters parameters{args.source, args.result, pixels, pixels * args.images, int(filters),
                                    int(args.kernel_size), int(args.groups), int(fitting), row, rule};
  if (!fitting)
    return launch(drop_wide_filters<T>, divided_up(parameters.total * filters, THREADS), 0, stream, parameters);
  const bool whole = aligned(args.source, 16) && aligned(args.result, 16);
  return launch(whole ? drop_filters<T, NUMBERS_IN_16_BYTES<T>> : drop_filters<T, 1>,
                divided_up(parameters.total, fitting), int(fitting * filters), stream, parameters);
}

}  // namespace laconv
