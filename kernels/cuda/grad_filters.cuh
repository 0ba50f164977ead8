// The gradient of the filters: grad_filters[p, t, group] = sum over the group's channels of grad[p] * x[p + offset(t)],
// zero where the tap leaves the image. Every result has one owner that sums in the order of the channels.
#pragma once
#include "strips.cuh"

namespace laconv {

struct GradFiltersParameters {
  const void* grad;
  const void* x;
  void* result;
  Shape shape;
  int64_t blocks;
  int strips_a_block;
  bool staged;  // collect a block's results in shared memory
};

// A thread makes a run of taps for one strip and group: a row of the kernel where its size K is known, else (K = 0) one
// tap. Neighbouring threads own neighbouring groups, whose results stand far apart; the results of a block are one piece
// of memory, so they are collected and written together.
template <class T, int K, int V>
__global__ void __launch_bounds__(THREADS, 4) grad_filters(const GradFiltersParameters parameters) {
  using Sum = Wide<T>;
  constexpr int RUN = K ? K : 1;
  const Shape& shape = parameters.shape;
  const T* const grad = static_cast<const T*>(parameters.grad);
  const T* const source = static_cast<const T*>(parameters.x);
  const int k = K ? K : shape.kernel_size;
  const int reach = k / 2;
  const unsigned runs = k * k / RUN;
  const int64_t pixel_filters = shape.filters_a_pixel();
  const int members = shape.channels_a_group();
  const int stride = shape.interleaved ? shape.groups : 1;  // from a channel of the group to the next

  for (int64_t block = blockIdx.x; block < parameters.blocks; block += gridDim.x) {
    const int64_t begin = block * parameters.strips_a_block;
    const int64_t end = min(begin + parameters.strips_a_block, shape.strips);
    const int64_t begin_pixel = first_pixel(begin, shape);
    T* const target = static_cast<T*>(parameters.result) + begin_pixel * pixel_filters;
    T* const collected = parameters.staged ? reinterpret_cast<T*>(shared_memory()) : target;

    const int64_t items = (end - begin) * runs * shape.groups;
    for (int64_t item = threadIdx.x; item < items; item += THREADS) {
      const uint64_t strip_run = uint64_t(item) / unsigned(shape.groups);
      const int group = int(item - strip_run * shape.groups);
      const int64_t index = int64_t(strip_run / runs);
      const int first_tap = int(strip_run - index * runs) * RUN;
      const Strip strip = strip_at(begin + index, shape);
      const int last = shape.width - 1;
      const int tap_row = first_tap / k;
      const int source_y = strip.y + tap_row - reach;
      const bool row_inside = source_y >= 0 && source_y < shape.height;
      const int left = strip.x + first_tap % k - reach;  // where the first tap of the first pixel looks
      const int64_t own_row = strip.row * shape.width;
      const int64_t source_row = own_row + (tap_row - reach) * int64_t(shape.width);

      // Pixels beyond an end of the row are read as its end: their sums belong to taps outside or to nobody.
      unsigned above_offset[PIXELS], source_offset[RUN + PIXELS - 1];
      const int left_inside = max(0, min(left, last));
#pragma unroll
      for (int p = 0; p < PIXELS; ++p) above_offset[p] = (min(strip.x + p, last) - strip.x) * shape.channels;
#pragma unroll
      for (int column = 0; column < RUN + PIXELS - 1; ++column)
        source_offset[column] = (max(0, min(left + column, last)) - left_inside) * shape.channels;

      Sum sum[PIXELS][RUN];
#pragma unroll
      for (int p = 0; p < PIXELS; ++p)
#pragma unroll
        for (int tap = 0; tap < RUN; ++tap) sum[p][tap] = 0;

      const int first_channel = shape.interleaved ? group : group * members;
      const T* const above_at = grad + (own_row + strip.x) * shape.channels + first_channel;
      const T* const source_at = source + (source_row + left_inside) * shape.channels + first_channel;
      for (int member = 0; row_inside && member < members; member += V) {
        const unsigned at = member * stride;
        Vector<T, V> above[PIXELS];
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) above[p] = load_constant<Vector<T, V>>(above_at + (above_offset[p] + at));
#pragma unroll
        for (int column = 0; column < RUN + PIXELS - 1; ++column) {
          const Vector<T, V> neighbour = load_constant<Vector<T, V>>(source_at + (source_offset[column] + at));
#pragma unroll
          for (int p = 0; p < PIXELS; ++p) {
            if (column < p || column >= p + RUN) continue;
#pragma unroll
            for (int v = 0; v < V; ++v)
              sum[p][column - p] += widen(above[p].number[v]) * widen(neighbour.number[v]);
          }
        }
      }

#pragma unroll
      for (int p = 0; p < PIXELS; ++p) {
        if (strip.x + p >= shape.width) break;
        T* const place = collected + (own_row + strip.x + p - begin_pixel) * pixel_filters +
                         first_tap * int64_t(shape.groups) + group;
#pragma unroll
        for (int tap = 0; tap < RUN; ++tap) {
          const bool inside = row_inside && left + p + tap >= 0 && left + p + tap < shape.width;
          place[int64_t(tap) * shape.groups] = narrowed<T>(inside ? sum[p][tap] : Sum(0));
        }
      }
    }

    if (parameters.staged) {
      __syncthreads();
      constexpr int LONG = NUMBERS_IN_16_BYTES<T>;
      using Piece = Vector<T, LONG>;
      const int numbers = int((first_pixel(end, shape) - begin_pixel) * pixel_filters);
      const int pieces = reinterpret_cast<uintptr_t>(target) % sizeof(Piece) == 0 ? numbers / LONG : 0;
      for (int piece = threadIdx.x; piece < pieces; piece += THREADS)
        store(target + int64_t(piece) * LONG, load<Piece>(collected + piece * LONG));
      for (int number = pieces * LONG + threadIdx.x; number < numbers; number += THREADS)
        target[number] = collected[number];
      __syncthreads();
    }
  }
}

template <class T, int K, int V> int launch_grad_filters(GradFiltersParameters parameters, void* stream) {
  constexpr int64_t MOST_SHARED = 48 << 10;  // what every chip gives without being asked
  const Shape& shape = parameters.shape;
  const int64_t items_a_strip = int64_t(shape.kernel_size) * shape.kernel_size / (K ? K : 1) * shape.groups;
  parameters.strips_a_block = items_a_strip < THREADS ? int(THREADS / items_a_strip) : 1;
  parameters.blocks = divided_up(shape.strips, parameters.strips_a_block);
  const int64_t bytes = int64_t(parameters.strips_a_block) * PIXELS * shape.filters_a_pixel() * int(sizeof(T));
  parameters.staged = bytes <= MOST_SHARED;
  return launch(grad_filters<T, K, V>, parameters.blocks, parameters.staged ? int(bytes) : 0, stream, parameters);
}

template <class T, int K> int grad_filters_any(const laconv_conv_args& args, void* stream) {
  GradFiltersParameters parameters{args.grad, args.x, args.result, {}, 0, 0, false};
  const int wrong = shape_of(args, parameters.shape);
  if (wrong) return wrong;

  // More than four numbers at once would leave no registers for the sums.
  constexpr int V = NUMBERS_IN_16_BYTES<T> < 4 ? NUMBERS_IN_16_BYTES<T> : 4;
  constexpr int BYTES = V * int(sizeof(T));
  const bool together = !parameters.shape.interleaved && parameters.shape.channels_a_group() % V == 0 &&
                        aligned(args.x, BYTES) && aligned(args.grad, BYTES);
  return together ? launch_grad_filters<T, K, V>(parameters, stream) : launch_grad_filters<T, K, 1>(parameters, stream);
}

}  // namespace laconv
