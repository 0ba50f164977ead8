// The gradient of the filters as in grad_filters.cuh, written in padded rows (layout.cuh): the zeros behind a row are
// part of the result, so that sums over all of its numbers can follow.
#pragma once
#include "layout.cuh"
#include "strips.cuh"

namespace laconv {

struct GradFilterRowsParameters {
  const void* grad;
  const void* x;
  void* result;
  Shape shape;
  int64_t items;  // kernel rows of all strips and groups
};

// A thread makes one kernel row for one strip and group: a piece of memory for each pixel. Neighbouring threads own
// neighbouring rows, whose pieces follow one another.
template <class T, int K, int V>
__global__ void __launch_bounds__(THREADS, V > 4 ? 3 : 4) grad_filter_rows(const GradFilterRowsParameters parameters) {
  using Sum = Wide<T>;
  using Channels = Packed<T, V>;
  constexpr int ROW = row_length(K), REACH = K / 2, COLUMNS = K + PIXELS - 1;
  using Row = FilterRow<T, ROW>;
  const Shape& shape = parameters.shape;
  const int vectors = shape.channels / V, group_vectors = vectors / shape.groups;  // of a pixel, of a group

  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.items;
       item += int64_t(gridDim.x) * THREADS) {
    const int64_t strip_group = int64_t(uint64_t(item) / unsigned(K));
    const int row = int(item - strip_group * K);
    const int64_t index = int64_t(uint64_t(strip_group) / unsigned(shape.groups));
    const int group = int(strip_group - index * shape.groups);
    const Strip strip = strip_at(index, shape);
    const int last = shape.width - 1, left = strip.x - REACH;
    const bool row_inside = unsigned(strip.y + row - REACH) < unsigned(shape.height);

    // Pixels beyond an end of the row are read as its end: their sums belong to taps outside or to nobody.
    int above_offset[PIXELS], source_offset[COLUMNS];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) above_offset[p] = (min(strip.x + p, last) - strip.x) * vectors;
#pragma unroll
    for (int column = 0; column < COLUMNS; ++column)
      source_offset[column] = (max(0, min(left + column, last)) - strip.x) * vectors;

    Sum sum[PIXELS][ROW];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p)
#pragma unroll
      for (int tap = 0; tap < ROW; ++tap) sum[p][tap] = 0;

    const int64_t own = (strip.row * shape.width + strip.x) * vectors + group * group_vectors;
    const Channels* above_at = static_cast<const Channels*>(parameters.grad) + own;
    const Channels* source_at =
        static_cast<const Channels*>(parameters.x) + own + (row - REACH) * int64_t(shape.width) * vectors;
    for (int member = 0; row_inside && member < group_vectors; ++member, ++above_at, ++source_at) {
      Sum above[PIXELS][V];
#pragma unroll
      for (int p = 0; p < PIXELS; ++p) load_constant<Channels>(above_at + above_offset[p]).widen_to(above[p]);
#pragma unroll
      for (int column = 0; column < COLUMNS; ++column) {
        Sum neighbour[V];
        load_constant<Channels>(source_at + source_offset[column]).widen_to(neighbour);
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
          if (column < p || column >= p + K) continue;
#pragma unroll
          for (int v = 0; v < V; ++v) sum[p][column - p] += above[p][v] * neighbour[v];
        }
      }
    }

    Row* const result = static_cast<Row*>(parameters.result) + (strip.row * shape.width + strip.x) * shape.groups * K +
                        group * K + row;
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
      if (strip.x + p > last) break;
#pragma unroll
      for (int tap = 0; tap < K; ++tap)
        if (unsigned(left + p + tap) > unsigned(last)) sum[p][tap] = 0;
#pragma unroll
      for (int i = 0; i < Row::PIECES; ++i) {
        Packed<T, Row::PIECE> piece;
        piece.narrow_from(sum[p] + i * Row::PIECE);
        store((result + int64_t(p) * shape.groups * K)->piece + i, piece);
      }
    }
  }
}

template <class T, int K, int V> int launch_grad_filter_rows(GradFilterRowsParameters parameters, void* stream) {
  parameters.items = parameters.shape.strips * parameters.shape.groups * K;
  return launch(grad_filter_rows<T, K, V>, divided_up(parameters.items, THREADS), 0, stream, parameters);
}

template <class T, int K> int grad_filter_rows_any(const laconv_conv_args& args, void* stream) {
  GradFilterRowsParameters parameters{args.grad, args.x, args.result, {}, 0};
  const int wrong = shape_of_rows<K>(args, parameters.shape);
  if (wrong) return wrong;

  constexpr int LONG = NUMBERS_IN_16_BYTES<T>, SHORT = 4;
  const auto fit = [&](int numbers) {
    return holds_vectors(parameters.shape, numbers) && aligned(args.grad, numbers * int(sizeof(T))) &&
           aligned(args.x, numbers * int(sizeof(T)));
  };
  if (!aligned(args.result, 16)) return LACONV_BAD_LAYOUT;
  if (fit(LONG)) return launch_grad_filter_rows<T, K, LONG>(parameters, stream);
  return fit(SHORT) ? launch_grad_filter_rows<T, K, SHORT>(parameters, stream) : LACONV_BAD_LAYOUT;
}

}  // namespace laconv
