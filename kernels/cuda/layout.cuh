// Padded rows, a second order of a pixel's filters: (group, kernel row, ROW) with the K filters of a kernel row first and
// zeros behind them, so that a row is loaded in pieces of up to 16 bytes. kernels/filter_layout.py says the same in
// Python.
#pragma once
#include "strips.cuh"

namespace laconv {

// Of the kernel sizes that have code of their own; 0 for the others, which know no padded rows.
constexpr __host__ __device__ int row_length(int kernel_size) {
  return kernel_size == 3 ? 4 : kernel_size == 5 || kernel_size == 7 ? 8 : 0;
}

// With more, 32 bits would not hold how far apart in memory pixels of one row lie.
constexpr int LARGEST_PADDED_CHANNELS = 1 << 20;

template <class T, int ROW> struct FilterRow {
  static constexpr int PIECE = ROW < NUMBERS_IN_16_BYTES<T> ? ROW : NUMBERS_IN_16_BYTES<T>, PIECES = ROW / PIECE;
  Packed<T, PIECE> piece[PIECES];
};

// 0, or what does not fit.
template <int K> int shape_of_rows(const laconv_conv_args& args, Shape& shape) {
  const int wrong = shape_of(args, shape);
  if (wrong) return wrong;
  return args.kernel_size == K && shape.channels <= LARGEST_PADDED_CHANNELS ? 0 : LACONV_BAD_LAYOUT;
}

// Whether so many neighbouring channels always belong to one group.
inline bool holds_vectors(const Shape& shape, int numbers) {
  return !shape.interleaved && shape.channels_a_group() % numbers == 0;
}

}  // namespace laconv
