// The forward result and the gradient of x: each is a sum over the taps of source pixels times filters,
//     out[p]    = sum_t filters[p, t] * x[p + offset(t)]
//     grad_x[q] = sum_t filters[q - offset(t), t] * grad[q - offset(t)]
// The second walks over the same neighbours as the first, with the filters taken from the neighbour and the taps
// reversed. Every result has one owner that sums in the order of the taps: no atomics, the same bits on every run.
#pragma once
#include "strips.cuh"

namespace laconv {

enum class Direction { FORWARD, GRAD_X };
// The filters of a thread's V channels: one value for all, or V neighbouring values (interleaved groups).
enum class Filters { ONE, EACH };

struct GatherParameters {
  const void* source;  // x or grad
  const void* filters;
  void* result;
  Shape shape;
  int64_t items;  // strips times vectors of channels
};

// A thread makes V channels of one strip. K is the kernel size, or 0: known only when it runs. The compiler has as many
// loads under way as registers allow; with more than two or three blocks a processor it would spill some.
template <class T, int K, int V, Filters F, Direction D>
__global__ void __launch_bounds__(THREADS, F == Filters::EACH ? 2 : 3) gather(const GatherParameters parameters) {
  using Sum = Wide<T>;
  using Offset = typename Select<K != 0, int, int64_t>::type;
  constexpr int FILTERS = F == Filters::ONE ? 1 : V;
  const Shape& shape = parameters.shape;
  const T* const source = static_cast<const T*>(parameters.source);
  const T* const filters = static_cast<const T*>(parameters.filters);
  const int k = K ? K : shape.kernel_size;
  const int reach = k / 2;
  const int64_t pixel_filters = shape.filters_a_pixel();
  const unsigned vectors = shape.channels / V;

  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.items;
       item += int64_t(gridDim.x) * THREADS) {
    const int64_t index = int64_t(uint64_t(item) / vectors);
    const int channel = int(item - index * vectors) * V;
    const int group = shape.interleaved ? channel % shape.groups : channel / shape.channels_a_group();
    const Strip strip = strip_at(index, shape);

    Sum sum[PIXELS][V];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p)
#pragma unroll
      for (int v = 0; v < V; ++v) sum[p][v] = 0;

    // Steps within a kernel of known size fit into 32 bits, which saves registers.
    const Offset channels = shape.channels, groups = shape.groups;
    const int last = shape.width - 1;
    const T* own_filters[PIXELS];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p)
      // The last strip of a row may end early: what it owns beyond is computed from its last pixel and not stored.
      own_filters[p] = filters + (strip.row * shape.width + min(strip.x + p, last)) * pixel_filters + group;

    for (int row = 0; row < k; ++row) {
      const int y = strip.y + row - reach;
      if (y < 0 || y >= shape.height) continue;
      const int64_t source_pixel = (strip.row + row - reach) * shape.width + strip.x;
      const T* const source_row = source + source_pixel * shape.channels + channel;
      const T* const source_filters = filters + source_pixel * pixel_filters + group;
      const int tap_row = D == Direction::FORWARD ? row : k - 1 - row;
      const int64_t tap_offset = int64_t(tap_row) * k * shape.groups;

#pragma unroll(K ? K + PIXELS - 1 : 1)
      for (int column = 0; column < k + PIXELS - 1; ++column) {
        const int x = strip.x + column - reach;
        const bool inside = x >= 0 && x <= last;
        const Vector<T, V> neighbour =
            inside ? load_constant<Vector<T, V>>(source_row + (column - reach) * channels) : zeros<T, V>();
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
          if (column < p || column >= p + k) continue;
          const T* const pixel =
              D == Direction::FORWARD ? own_filters[p] : source_filters + (column - reach) * pixel_filters;
          const Offset tap_column = D == Direction::FORWARD ? column - p : k - 1 - (column - p);
          // Outside of the image both factors are zero: a filter there may be infinite.
          const Vector<T, FILTERS> filter =
              inside ? load_constant<Vector<T, FILTERS>>(pixel + tap_offset + tap_column * groups) : zeros<T, FILTERS>();
#pragma unroll
          for (int v = 0; v < V; ++v)
            sum[p][v] += widen(neighbour.number[v]) * widen(filter.number[F == Filters::ONE ? 0 : v]);
        }
      }
    }

    const int64_t first = strip.row * shape.width + strip.x;
    T* const result = static_cast<T*>(parameters.result) + first * shape.channels + channel;
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
      if (strip.x + p >= shape.width) break;
      Vector<T, V> own;
#pragma unroll
      for (int v = 0; v < V; ++v) own.number[v] = narrowed<T>(sum[p][v]);
      store(result + int64_t(p) * shape.channels, own);
    }
  }
}

template <class T, int K, int V, Filters F, Direction D> int launch_gather(GatherParameters parameters, void* stream) {
  parameters.items = parameters.shape.strips * (parameters.shape.channels / V);
  return launch(gather<T, K, V, F, D>, divided_up(parameters.items, THREADS), 0, stream, parameters);
}

template <class T, int K, Direction D>
int gather_any(const void* source, const laconv_conv_args& args, void* stream) {
  GatherParameters parameters{source, args.filters, args.result, {}, 0};
  const int wrong = shape_of(args, parameters.shape);
  if (wrong) return wrong;

  constexpr int LONG = NUMBERS_IN_16_BYTES<T>, SHORT = LONG < 4 ? LONG : 4;
  const Shape& shape = parameters.shape;
  const auto fit = [&](int numbers, int together) {
    const int bytes = numbers * int(sizeof(T));
    return together % numbers == 0 && aligned(source, bytes) && aligned(args.result, bytes);
  };
  if (shape.interleaved) {
    if (fit(SHORT, shape.groups) && aligned(args.filters, SHORT * int(sizeof(T))))
      return launch_gather<T, K, SHORT, Filters::EACH, D>(parameters, stream);
  } else {
    if (fit(LONG, shape.channels_a_group())) return launch_gather<T, K, LONG, Filters::ONE, D>(parameters, stream);
    if (fit(SHORT, shape.channels_a_group())) return launch_gather<T, K, SHORT, Filters::ONE, D>(parameters, stream);
  }
  // One channel at a time: rare, so every kernel size takes the same code.
  return launch_gather<T, 0, 1, Filters::ONE, D>(parameters, stream);
}

}  // namespace laconv
