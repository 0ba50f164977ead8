// Dropout whose mask is a function of (seed, image, element of the image) alone, in place.
#pragma once
#include "philox.cuh"

namespace laconv {

// One call of the generator serves eight elements, 16 bits each: fewer bits would bend a keep rate of 0.9 by 0.2 %,
// more would make the generator the slowest part.
constexpr int OCTET = 8;

// The masks of elements 8 * octet to 8 * octet + 7 of an image: element i is dropped where its 16 bits are below the
// threshold.
struct OctetMask {
  Bits128 bits;
  uint32_t threshold;

  __host__ __device__ __forceinline__ bool drops(int i) const {
    return ((bits.word[i / 2] >> (16 * (i % 2))) & 0xffffu) < threshold;
  }
};

__host__ __device__ __forceinline__ OctetMask octet_mask(uint64_t seed, uint64_t image, uint64_t octet,
                                                         uint32_t threshold) {
  const Bits128 place{{uint32_t(octet), uint32_t(octet >> 32), uint32_t(image), uint32_t(image >> 32)}};
  return {philox(place, uint32_t(seed), uint32_t(seed >> 32)), threshold};
}

struct DropoutParameters {
  void* values;
  int64_t elements, octets, items;  // elements and octets of an image, octets of all images
  int64_t first_image;
  const int64_t* seed_address;
  int64_t seed;
  uint32_t threshold;
  double scale;
};

template <class T, bool WHOLE>  // WHOLE: an image is a number of octets that can be loaded at once
__global__ void __launch_bounds__(THREADS) dropout(const DropoutParameters parameters) {
  constexpr int LONG = NUMBERS_IN_16_BYTES<T>;
  const uint64_t seed = uint64_t(parameters.seed_address ? *parameters.seed_address : parameters.seed);
  const Wide<T> scale = Wide<T>(parameters.scale);
  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.items;
       item += int64_t(gridDim.x) * THREADS) {
    const int64_t image = int64_t(uint64_t(item) / uint64_t(parameters.octets));
    const int64_t octet = item - image * parameters.octets;
    const uint64_t number = uint64_t(parameters.first_image + image);
    const OctetMask mask = octet_mask(seed, number, uint64_t(octet), parameters.threshold);
    T* const values = static_cast<T*>(parameters.values) + image * parameters.elements + octet * OCTET;
    const auto scaled = [&](int i, T value) { return narrowed<T>(mask.drops(i) ? Wide<T>(0) : widen(value) * scale); };
    if (WHOLE) {
#pragma unroll
      for (int first = 0; first < OCTET; first += LONG) {
        Vector<T, LONG> vector = load<Vector<T, LONG>>(values + first);
#pragma unroll
        for (int v = 0; v < LONG; ++v) vector.number[v] = scaled(first + v, vector.number[v]);
        store(values + first, vector);
      }
    } else {
#pragma unroll
      for (int i = 0; i < OCTET; ++i)
        if (octet * OCTET + i < parameters.elements) values[i] = scaled(i, values[i]);
    }
  }
}

template <class T> int dropout_any(const laconv_dropout_args& args, void* stream) {
  if (args.images < 0 || args.elements < 0 || !(args.p >= 0.0 && args.p < 1.0)) return LACONV_BAD_SIZE;
  const int64_t octets = divided_up(args.elements, OCTET);
  const DropoutParameters parameters{args.values,       args.elements, octets,    octets * args.images,
                                     args.first_image,  args.seed_address, args.seed, uint32_t(args.p * 65536.0 + 0.5),
                                     1.0 / (1.0 - args.p)};
  const int64_t blocks = divided_up(parameters.items, THREADS);
  const bool whole = args.elements % OCTET == 0 && aligned(args.values, 16);
  return launch(whole ? dropout<T, true> : dropout<T, false>, blocks, 0, stream, parameters);
}

}  // namespace laconv
