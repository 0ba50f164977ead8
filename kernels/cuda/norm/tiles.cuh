// How a map (rows, channels) is shared out: blocks own a slice of the rows and a band of the channels. The shares follow
// from the sizes alone, never from the chip, so that sums have one order everywhere.
//
// A thread owns a column, V neighbouring channels, in every `lines`-th row of its slice, so that what belongs to its
// channels (mean, scale, ...) is made once a slice; the lines of a block are summed up through shared memory.
#pragma once
#include <math.h>

#include "../device.cuh"
#include "norm.h"

namespace laconv {

constexpr int SLICES = 528;      // of all bands together: four blocks for each of 132 processors
constexpr int WIDEST_BAND = 16;  // columns: 256 bytes of a row, eight whole sectors
constexpr int ROWS_AT_ONCE = 4;  // loads of a thread that are under way together
constexpr int64_t MOST_CHANNELS = 1 << 27;

struct Tiles {
  int64_t rows, rows_a_slice, slices;
  int channels, columns, bands, lines;  // columns of a band, lines of a block
};

template <int V> int64_t bands_of(int64_t channels) { return divided_up(divided_up(channels, V), WIDEST_BAND); }
template <int V> int64_t most_slices(int64_t channels) {
  const int64_t share = SLICES / bands_of<V>(channels);
  return share > 1 ? share : 1;
}

template <int V> Tiles tiles_of(const laconv_norm_args& args) {
  Tiles tiles{};
  tiles.rows = args.rows;
  tiles.channels = int(args.channels);
  tiles.bands = int(bands_of<V>(args.channels));
  tiles.columns = int(divided_up(divided_up(args.channels, V), tiles.bands));
  tiles.lines = THREADS / tiles.columns;
  tiles.rows_a_slice = divided_up(divided_up(args.rows, most_slices<V>(args.channels)), tiles.lines) * tiles.lines;
  tiles.slices = args.rows ? divided_up(args.rows, tiles.rows_a_slice) : 0;
  return tiles;
}

inline bool fits(const laconv_norm_args& args) {
  return args.rows >= 0 && args.channels >= 1 && args.channels <= MOST_CHANNELS &&
         args.rows <= INT64_MAX / 4 / args.channels;
}

// A thread's place in one tile.
struct Place {
  int channel;     // the first of its column
  int line;        // its first row in the slice
  int rows;        // of the slice
  int64_t first;   // element of its channel in the first row of the slice
  int64_t slice;
  bool owns;       // whether there is a column for it
};

template <int V> __device__ __forceinline__ Place place_of(const Tiles& tiles, int64_t tile) {
  Place place;
  place.slice = int64_t(uint64_t(tile) / unsigned(tiles.bands));
  const int band = int(tile - place.slice * tiles.bands);
  place.line = int(threadIdx.x) / tiles.columns;
  place.channel = (band * tiles.columns + int(threadIdx.x) - place.line * tiles.columns) * V;
  place.owns = place.line < tiles.lines && place.channel < tiles.channels;
  const int64_t begin = place.slice * tiles.rows_a_slice;
  place.rows = int(min(tiles.rows_a_slice, tiles.rows - begin));
  place.first = begin * tiles.channels + place.channel;
  return place;
}

// What a thread knows of its channels.
template <int V> struct Channels {
  float number[V];

  __device__ __forceinline__ void read(const float* from, int channel) {
#pragma unroll
    for (int v = 0; v < V; ++v) number[v] = from[channel + v];
  }
};

// 1 / sqrt(var + eps); the quotient and the root are rounded to nearest on every chip.
__device__ __forceinline__ float inverse_deviation(float var, float eps) { return 1.f / sqrtf(var + eps); }

// BN(x). In words of its own because the backward pass decides by its sign, to the bit.
__device__ __forceinline__ float normalised(float x, float mean, float scale, float bias) {
  return fmaf(x - mean, scale, bias);
}

// The ReLU with a slope below zero; NaN stays NaN, and with slope 0 infinity is nothing.
__device__ __forceinline__ float leaky(float number, float slope) {
  return number < 0.f ? (slope == 0.f ? 0.f : number * slope) : number;
}

// NaN stays NaN.
__device__ __forceinline__ float at_least(float lowest, float number) { return number < lowest ? lowest : number; }

// Floats that the partial sums of both reductions need, by vectors or number by number.
template <class T> int64_t workspace_of(int64_t channels) {
  if (channels < 1) return 0;
  const int64_t by_vectors = most_slices<NUMBERS_IN_16_BYTES<T>>(channels), one_by_one = most_slices<1>(channels);
  return 2 * channels * (by_vectors > one_by_one ? by_vectors : one_by_one);
}

// Takes maps of 16-byte vectors where sizes and addresses allow it, else number by number.
template <class T> bool whole_vectors(const laconv_norm_args& args) {
  const void* const maps[] = {args.x, args.beside, args.out, args.grad, args.result, args.masked};
  bool whole = args.channels % NUMBERS_IN_16_BYTES<T> == 0;
  for (const void* map : maps) whole = whole && aligned(map, 16);
  return whole;
}

}  // namespace laconv
