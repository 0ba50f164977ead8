// The normalised map, what is added to it and the ReLU, in one pass: out = relu?(beside + BN(x)); of a map that lies
// packed relu(BN(relu(x))), pixel by pixel.
#pragma once
#include "packed.cuh"

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
  float slope;  // below zero; 1: no ReLU
  Tiles tiles;
  Packing packing;  // Source::PACKED
};

enum class Source { PLAIN, PLAIN_AND_BESIDE, PACKED };

// Rows from the last to the first: the statistics were read in the other order, and what they read last is still in the
// second-level cache.
template <class T, int V, Source SOURCE>
__global__ void __launch_bounds__(THREADS, 4) norm_apply(const ApplyParameters parameters) {
  constexpr bool BESIDE = SOURCE == Source::PLAIN_AND_BESIDE, PACKED = SOURCE == Source::PACKED;
  const Tiles& tiles = parameters.tiles;
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
    T* const target = static_cast<T*>(parameters.result);
    const PlainRows<PACKED> plain(parameters.packing, tiles, place);

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
          float x = widen(loaded[r].number[v]);
          if (PACKED) x = at_least(0.f, x);
          float out = normalised(x, mean.number[v], scale.number[v], bias.number[v]);
          if (BESIDE) out += widen(added[r].number[v]);
          narrow(leaky(out, parameters.slope), loaded[r].number[v]);
        }
        store(target + plain.element(row - r * tiles.lines), loaded[r]);
      }
    }
  }
}

template <class T, int V> int apply_by(const laconv_norm_args& args, void* stream) {
  const Tiles tiles = tiles_of<V>(args);
  const ApplyParameters parameters{args.x,      args.beside, args.result,     args.mean,      args.var,
                                   args.weight, args.bias,   float(args.eps), args.relu ? float(args.slope) : 1.f, tiles,           packing_of(args)};
  const int64_t blocks = tiles.slices * tiles.bands;
  const auto apply = args.packing  ? norm_apply<T, V, Source::PACKED>
                     : args.beside ? norm_apply<T, V, Source::PLAIN_AND_BESIDE>
                                   : norm_apply<T, V, Source::PLAIN>;
  return launch(apply, blocks, 0, stream, parameters);
}

template <class T> int apply_any(const laconv_norm_args& args, void* stream) {
  if (!fits(args) || !packing_fits(args)) return LACONV_BAD_SIZE;
  return whole_vectors<T>(args) ? apply_by<T, NUMBERS_IN_16_BYTES<T>>(args, stream) : apply_by<T, 1>(args, stream);
}

}  // namespace laconv
