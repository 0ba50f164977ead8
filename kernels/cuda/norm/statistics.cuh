// Mean and variance of every channel, by parts that are joined without cancellation (Chan, Golub and LeVeque 1983): a
// mean and the sum of squares around it for a few rows, a thread, a block, and at last over all slices in double.
#pragma once
#include "lines.cuh"

namespace laconv {

struct StatisticsParameters {
  const void* x;
  float* partials;  // (slices, 2, channels): mean, sum of squares around it
  float* totals;    // (2 channels + 1): means, variances, rows
  float lowest;     // what is below counts as this
  Tiles tiles;
};

// Takes `theirs` (mean, squares around it) in; share = their count / both, weight = own count * share.
__device__ __forceinline__ void take_in(float& mean, float& squares, float their_mean, float their_squares,
                                        float weight, float share) {
  const float apart = their_mean - mean;
  mean = fmaf(apart, share, mean);
  squares = fmaf(apart * apart, weight, squares + their_squares);
}

template <class T, int V>
__global__ void __launch_bounds__(THREADS, 4) norm_statistics(const StatisticsParameters parameters) {
  const Tiles& tiles = parameters.tiles;
  const auto number = [&](T loaded) { return at_least(parameters.lowest, widen(loaded)); };
  for (int64_t tile = blockIdx.x; tile < tiles.slices * tiles.bands; tile += gridDim.x) {
    const Place place = place_of<V>(tiles, tile);
    float mean[V] = {}, squares[V] = {}, count = 0.f;
    if (place.owns) {
      const T* const source = static_cast<const T*>(parameters.x) + place.first;
      int row = place.line;
      for (; row + (ROWS_AT_ONCE - 1) * tiles.lines < place.rows; row += ROWS_AT_ONCE * tiles.lines) {
        Vector<T, V> loaded[ROWS_AT_ONCE];
#pragma unroll
        for (int r = 0; r < ROWS_AT_ONCE; ++r)
          loaded[r] = load_constant<Vector<T, V>>(source + (row + r * tiles.lines) * int64_t(tiles.channels));
        const float share = float(ROWS_AT_ONCE) / (count + float(ROWS_AT_ONCE));
#pragma unroll
        for (int v = 0; v < V; ++v) {
          float sum = 0.f, around = 0.f;
#pragma unroll
          for (int r = 0; r < ROWS_AT_ONCE; ++r) sum += number(loaded[r].number[v]);
          const float middle = sum * (1.f / ROWS_AT_ONCE);
#pragma unroll
          for (int r = 0; r < ROWS_AT_ONCE; ++r) {
            const float apart = number(loaded[r].number[v]) - middle;
            around = fmaf(apart, apart, around);
          }
          take_in(mean[v], squares[v], middle, around, count * share, share);
        }
        count += float(ROWS_AT_ONCE);
      }
      for (; row < place.rows; row += tiles.lines) {
        const Vector<T, V> loaded = load_constant<Vector<T, V>>(source + row * int64_t(tiles.channels));
        const float share = 1.f / (count + 1.f);
#pragma unroll
        for (int v = 0; v < V; ++v)
          take_in(mean[v], squares[v], number(loaded.number[v]), 0.f, count * share, share);
        count += 1.f;
      }
    }
    join_lines<V>(tiles, place.line, mean, squares, count, [&](int v, float a, float b, float weight, float share) {
      take_in(mean[v], squares[v], a, b, weight, share);
    });
    if (place.owns && place.line == 0) {
      float* const partial = parameters.partials + 2 * place.slice * tiles.channels + place.channel;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        partial[v] = mean[v];
        partial[tiles.channels + v] = squares[v];
      }
    }
  }
}

// T, the map's type, has no part in it but that every unit has its own.
template <class T>
__global__ void __launch_bounds__(THREADS, 4) norm_statistics_total(const StatisticsParameters parameters) {
  const Tiles& tiles = parameters.tiles;
  const int channels = tiles.channels;
  const int own = int(threadIdx.x) / FINAL_CHANNELS;
  for (int64_t group = blockIdx.x; group < divided_up(channels, FINAL_CHANNELS); group += gridDim.x) {
    const int64_t channel = group * FINAL_CHANNELS + int(threadIdx.x) % FINAL_CHANNELS;
    const float* const partial = parameters.partials + channel;
    const int64_t slices = channel < channels ? tiles.slices : 0;
    const auto rows_of = [&](int64_t slice) {
      return double(min(tiles.rows_a_slice, tiles.rows - slice * tiles.rows_a_slice));
    };
    double sum = 0.0, squares = 0.0;
    for (int64_t slice = own; slice < slices; slice += FINAL_THREADS)
      sum += rows_of(slice) * double(partial[2 * slice * channels]);
    const double mean = tiles.rows ? sum_over_threads(sum) / double(tiles.rows) : 0.0;
    for (int64_t slice = own; slice < slices; slice += FINAL_THREADS) {
      const double apart = double(partial[2 * slice * channels]) - mean;
      squares += double(partial[(2 * slice + 1) * channels]) + rows_of(slice) * apart * apart;
    }
    const double var = tiles.rows ? sum_over_threads(squares) / double(tiles.rows) : 0.0;
    if (channel < channels && own == 0) {
      parameters.totals[channel] = float(mean);
      parameters.totals[channels + channel] = float(var);
    }
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) parameters.totals[2 * int64_t(channels)] = float(tiles.rows);
}

template <class T, int V> int statistics_by(const laconv_norm_args& args, void* stream) {
  const Tiles tiles = tiles_of<V>(args);
  const StatisticsParameters parameters{args.x, args.workspace, args.totals, args.relu_before ? 0.f : -INFINITY, tiles};
  const int code = launch(norm_statistics<T, V>, tiles.slices * tiles.bands, LINES_BYTES<V>, stream, parameters);
  if (code) return code;
  return launch(norm_statistics_total<T>, divided_up(args.channels, FINAL_CHANNELS), FINAL_BYTES, stream, parameters);
}

template <class T> int statistics_any(const laconv_norm_args& args, void* stream) {
  if (!fits(args)) return LACONV_BAD_SIZE;
  return whole_vectors<T>(args) ? statistics_by<T, NUMBERS_IN_16_BYTES<T>>(args, stream)
                                : statistics_by<T, 1>(args, stream);
}

}  // namespace laconv
