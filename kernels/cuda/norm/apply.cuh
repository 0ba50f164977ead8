// The normalised map, what is added to it and the ReLU, in one pass: out = relu?(beside + BN(x)).
#pragma once
#include "tiles.cuh"

namespace laconv {

struct ApplyParameters {
  const void* x;
  const void* beside;
  void* result;
  const float* mean;
  const float* var;
  const float* weight;
  const float* bias;
  float eps;
  bool relu;
  Tiles tiles;
};

// Rows from the last to the first: the statistics were read in the other order, and what they read last is still in the
// second-level cache.
template <class T, int V, bool BESIDE>
__global__ void __launch_bounds__(THREADS, 4) norm_apply(const ApplyParameters parameters) {
  const Tiles& tiles = parameters.tiles;
  const float lowest = parameters.relu ? 0.f : -INFINITY;
  for (int64_t tile = blockIdx.x; tile < tiles.slices * tiles.bands; tile += gridDim.x) {
    const Place place = place_of<V>(tiles, tile);
    if (!place.owns) continue;
    Channels<V> mean, scale, bias;
    mean.read(parameters.mean, place.channel);
    bias.read(parameters.bias, place.channel);
#pragma unroll
    for (int v = 0; v < V; ++v)
      scale.number[v] =
          parameters.weight[place.channel + v] * inverse_deviation(parameters.var[place.channel + v], parameters.eps);
    const T* const source = static_cast<const T*>(parameters.x) + place.first;
    const T* const beside = static_cast<const T*>(parameters.beside) + place.first;
    T* const target = static_cast<T*>(parameters.result) + place.first;

    for (int row = place.rows - 1 - place.line; row >= 0; row -= ROWS_AT_ONCE * tiles.lines) {
      Vector<T, V> loaded[ROWS_AT_ONCE], added[ROWS_AT_ONCE];
#pragma unroll
      for (int r = 0; r < ROWS_AT_ONCE; ++r) {
        const int64_t place_in_map = (row - r * tiles.lines) * int64_t(tiles.channels);
        if (row - r * tiles.lines < 0) continue;
        loaded[r] = load_constant<Vector<T, V>>(source + place_in_map);
        if (BESIDE) added[r] = load_constant<Vector<T, V>>(beside + place_in_map);
      }
#pragma unroll
      for (int r = 0; r < ROWS_AT_ONCE; ++r) {
        if (row - r * tiles.lines < 0) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          float out = normalised(widen(loaded[r].number[v]), mean.number[v], scale.number[v], bias.number[v]);
          if (BESIDE) out += widen(added[r].number[v]);
          narrow(out < lowest ? lowest : out, loaded[r].number[v]);  // NaN stays NaN
        }
        store(target + (row - r * tiles.lines) * int64_t(tiles.channels), loaded[r]);
      }
    }
  }
}

template <class T, int V> int apply_by(const laconv_norm_args& args, void* stream) {
  const Tiles tiles = tiles_of<V>(args);
  const ApplyParameters parameters{args.x,      args.beside, args.result,     args.mean,      args.var,
                                   args.weight, args.bias,   float(args.eps), args.relu != 0, tiles};
  const int64_t blocks = tiles.slices * tiles.bands;
  return args.beside ? launch(norm_apply<T, V, true>, blocks, 0, stream, parameters)
                     : launch(norm_apply<T, V, false>, blocks, 0, stream, parameters);
}

template <class T> int apply_any(const laconv_norm_args& args, void* stream) {
  if (!fits(args)) return LACONV_BAD_SIZE;
  return whole_vectors<T>(args) ? apply_by<T, NUMBERS_IN_16_BYTES<T>>(args, stream) : apply_by<T, 1>(args, stream);
}

}  // namespace laconv
