// The sums of gather.cuh with filters that lie in padded rows (layout.cuh): a kernel row of a pixel and group is loaded
// and widened as whole words. With filters that lie one by one, two thirds of the instructions only fetched them.
//
// Neighbours outside of the image count as zeros, as in PyTorch's own padding: an infinite filter of such a tap makes
// the result NaN here, where gather.cuh leaves that tap out.
#pragma once
#include "gather.cuh"
#include "layout.cuh"

namespace laconv {

template <class T, int V> __device__ __forceinline__ Packed<T, V> packed_zeros() {
  Packed<T, V> packed;
#pragma unroll
  for (int i = 0; i < Packed<T, V>::UNITS; ++i) packed.unit[i] = {};
  return packed;
}

// Of a row, and where not `inside` zeros instead. Numbers that nobody uses are not loaded.
template <class T, int ROW>
__device__ __forceinline__ void load_row(const FilterRow<T, ROW>* row, bool inside, Wide<T>* wide) {
  constexpr int PIECE = FilterRow<T, ROW>::PIECE;
#pragma unroll
  for (int i = 0; i < FilterRow<T, ROW>::PIECES; ++i)
    (inside ? load_constant<Packed<T, PIECE>>(row->piece + i) : packed_zeros<T, PIECE>()).widen_to(wide + i * PIECE);
}

// An address so many bytes further.
template <class P> __device__ __forceinline__ const P* moved(const P* address, int bytes) {
  return reinterpret_cast<const P*>(reinterpret_cast<const char*>(address) + bytes);
}

// A thread makes V channels of one strip. More than three blocks a processor would leave too few registers for the
// loads that should be under way.
template <class T, int K, int V, Direction D>
__global__ void __launch_bounds__(THREADS, 3) gather_rows(const GatherParameters parameters) {
  using Sum = Wide<T>;
  constexpr int ROW = row_length(K), REACH = K / 2;
  using Row = FilterRow<T, ROW>;
  using Channels = Packed<T, V>;
  const Shape& shape = parameters.shape;
  const int groups = shape.groups;
  const int vectors = shape.channels / V, group_vectors = vectors / groups;  // of a pixel, of a group
  // From a pixel to the next. By way of 64 bits: else the compiler multiplies first and shifts in every place.
  const int channels_bytes = int(vectors * sizeof(Channels)), filters_bytes = int(groups * K * sizeof(Row));

  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.items;
       item += int64_t(gridDim.x) * THREADS) {
    const int64_t index = int64_t(uint64_t(item) / unsigned(vectors));
    const int vector = int(item - index * vectors);
    const Strip strip = strip_at(index, shape);
    const int last = shape.width - 1;
    const Row* const filters = static_cast<const Row*>(parameters.filters) + vector / group_vectors * K;

    Sum sum[PIXELS][V];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v) sum[p][v] = 0;

    const Row* own[PIXELS];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p)
      // The last strip of a row may end early: what it owns beyond is computed from its last pixel and not stored.
      own[p] = filters + (strip.row * shape.width + min(strip.x + p, last)) * groups * K;

    for (int row = 0; row < K; ++row) {
      const int y = strip.y + row - REACH;
      if (unsigned(y) >= unsigned(shape.height)) continue;
      const int64_t source_pixel = (strip.row + row - REACH) * shape.width + strip.x;
      const Channels* const source = static_cast<const Channels*>(parameters.source) + source_pixel * vectors + vector;
      const Row* const source_filters = filters + source_pixel * groups * K + (K - 1 - row);

      Sum filter[PIXELS][ROW];
      if (D == Direction::FORWARD) {
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) load_row<T, ROW>(own[p] + row, true, filter[p]);
      }
#pragma unroll
      for (int column = 0; column < K + PIXELS - 1; ++column) {
        const int x = strip.x + column - REACH;
        const bool inside = unsigned(x) < unsigned(shape.width);
        Sum neighbour[V], reversed[ROW];
        (inside ? load_constant<Channels>(moved(source, (column - REACH) * channels_bytes)) : packed_zeros<T, V>())
            .widen_to(neighbour);
        if (D == Direction::GRAD_X)
          load_row<T, ROW>(moved(source_filters, (column - REACH) * filters_bytes), inside, reversed);
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
          if (column < p || column >= p + K) continue;
          const Sum factor = D == Direction::FORWARD ? filter[p][column - p] : reversed[K - 1 - (column - p)];
#pragma unroll
          for (int v = 0; v < V; ++v) sum[p][v] += neighbour[v] * factor;
        }
      }
    }

    Channels* const result =
        static_cast<Channels*>(parameters.result) + (strip.row * shape.width + strip.x) * vectors + vector;
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
      if (strip.x + p > last) break;
      Channels own_result;
      own_result.narrow_from(sum[p]);
      store(result + int64_t(p) * vectors, own_result);
    }
  }
}

template <class T, int K, int V, Direction D>
int launch_gather_rows(GatherParameters parameters, void* stream) {
  parameters.items = parameters.shape.strips * (parameters.shape.channels / V);
  return launch(gather_rows<T, K, V, D>, divided_up(parameters.items, THREADS), 0, stream, parameters);
}

template <class T, int K, Direction D>
int gather_rows_any(const void* source, const laconv_conv_args& args, void* stream) {
  GatherParameters parameters{source, args.filters, args.result, {}, 0};
  const int wrong = shape_of_rows<K>(args, parameters.shape);
  if (wrong) return wrong;

  constexpr int LONG = NUMBERS_IN_16_BYTES<T>, SHORT = 4;
  const auto fit = [&](int numbers) {
    return holds_vectors(parameters.shape, numbers) && aligned(source, numbers * int(sizeof(T))) &&
           aligned(args.result, numbers * int(sizeof(T)));
  };
  if (!aligned(args.filters, 16)) return LACONV_BAD_LAYOUT;
  if (fit(LONG)) return launch_gather_rows<T, K, LONG, D>(parameters, stream);
  return fit(SHORT) ? launch_gather_rows<T, K, SHORT, D>(parameters, stream) : LACONV_BAD_LAYOUT;
}

}  // namespace laconv
