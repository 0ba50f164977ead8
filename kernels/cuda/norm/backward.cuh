// The gradients of relu?(beside + BN(x)). With g the gradient where the ReLU let through, mean and var of all processes:
//     totals = sum g, sum g (x - mean) / sqrt(var + eps)                    a pass, then an exchange between processes
//     grad_x = weight / sqrt(var + eps) (g - (totals_0 + (x - mean) / sqrt(var + eps) totals_1) / count)      a pass
// g itself is the gradient of `beside`. Where there is one, the first pass writes g, and the second reads it in place of
// the gradient; where there is none, both decide by the sign of BN(x), which they compute as the forward pass did.
// Of a map that lies packed, relu(BN(relu(x))), all of this with relu(x) for x, and grad_x only where x is positive.
#pragma once
#include "lines.cuh"
#include "packed.cuh"

namespace laconv {

// By the sign of BN(x) computed again, of the forward result, or of BN(relu(x)), where x lies packed.
enum class Relu { NONE, AGAIN, BY_RESULT, PACKED };

struct ReduceParameters {
  const void* grad;
  const void* x;
  const void* out;
  void* masked;
  const float* mean;
  const float* var;
  const float* weight;
  const float* bias;
  float eps, slope;
  float* partials;  // (slices, 2, channels): sum g, sum g (x - mean)
  float* totals;    // (2, channels)
  Tiles tiles;
  Packing packing;  // Relu::PACKED
};

// What decides by the sign of BN(x); nothing where nothing is to be decided.
template <int V, bool AGAIN> struct Gate {
  Channels<V> scale, bias;

  __device__ __forceinline__ void read(const float* weight, const float* var, const float* biases, float eps,
                                       int channel) {
    if (!AGAIN) return;
    bias.read(biases, channel);
#pragma unroll
    for (int v = 0; v < V; ++v) scale.number[v] = weight[channel + v] * inverse_deviation(var[channel + v], eps);
  }
  __device__ __forceinline__ bool shuts(int v, float x, float mean) const {
    return AGAIN && normalised(x, mean, scale.number[v], bias.number[v]) <= 0.f;
  }
};

template <class T, int V, Relu RELU>
__global__ void __launch_bounds__(THREADS, 4) norm_backward_reduce(const ReduceParameters parameters) {
  constexpr bool BY_RESULT = RELU == Relu::BY_RESULT, PACKED = RELU == Relu::PACKED;
  const Tiles& tiles = parameters.tiles;
  for (int64_t tile = blockIdx.x; tile < tiles.slices * tiles.bands; tile += gridDim.x) {
    const Place place = place_of<V>(tiles, tile);
    float sum[V] = {}, with_x[V] = {}, weight = 0.f;
    if (place.owns) {
      Channels<V> mean;
      Gate<V, RELU == Relu::AGAIN || PACKED> gate;
      mean.read(parameters.mean, place.channel);
      gate.read(parameters.weight, parameters.var, parameters.bias, parameters.eps, place.channel);
      const T* const above = static_cast<const T*>(parameters.grad);
      const T* const source = static_cast<const T*>(parameters.x) + place.first;
      const PlainRows<PACKED> plain(parameters.packing, tiles, place);
      const T* const result = static_cast<const T*>(parameters.out) + place.first;
      T* const masked = static_cast<T*>(parameters.masked) + place.first;
      for (int row = place.line; row < place.rows; row += ROWS_AT_ONCE * tiles.lines) {
        Vector<T, V> grads[ROWS_AT_ONCE], loaded[ROWS_AT_ONCE], results[ROWS_AT_ONCE];
#pragma unroll
        for (int r = 0; r < ROWS_AT_ONCE; ++r) {
          if (row + r * tiles.lines >= place.rows) continue;
          const int64_t place_in_map = (row + r * tiles.lines) * int64_t(tiles.channels);
          grads[r] = load_constant<Vector<T, V>>(above + plain.element(row + r * tiles.lines));
          loaded[r] = load_constant<Vector<T, V>>(source + place_in_map);
          if (BY_RESULT) results[r] = load_constant<Vector<T, V>>(result + place_in_map);
        }
#pragma unroll
        for (int r = 0; r < ROWS_AT_ONCE; ++r) {
          if (row + r * tiles.lines >= place.rows) continue;
#pragma unroll
          for (int v = 0; v < V; ++v) {
            float x = widen(loaded[r].number[v]);
            if (PACKED) x = at_least(0.f, x);
            float grad = widen(grads[r].number[v]);
            const bool shut = BY_RESULT ? widen(results[r].number[v]) <= 0.f : gate.shuts(v, x, mean.number[v]);
            if (shut) grad *= parameters.slope;
            sum[v] += grad;
            with_x[v] = fmaf(grad, x - mean.number[v], with_x[v]);
            if (BY_RESULT) narrow(grad, grads[r].number[v]);
          }
          if (BY_RESULT) store(masked + (row + r * tiles.lines) * int64_t(tiles.channels), grads[r]);
        }
      }
    }
    join_lines<V>(tiles, place.line, sum, with_x, weight, [&](int v, float a, float b, float, float) {
      sum[v] += a;
      with_x[v] += b;
    });
    if (place.owns && place.line == 0) {
      float* const partial = parameters.partials + 2 * place.slice * tiles.channels + place.channel;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        partial[v] = sum[v];
        partial[tiles.channels + v] = with_x[v];
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(THREADS, 4) norm_backward_total(const ReduceParameters parameters) {
  const Tiles& tiles = parameters.tiles;
  const int channels = tiles.channels;
  const int own = int(threadIdx.x) / FINAL_CHANNELS;
  for (int64_t group = blockIdx.x; group < divided_up(channels, FINAL_CHANNELS); group += gridDim.x) {
    const int64_t channel = group * FINAL_CHANNELS + int(threadIdx.x) % FINAL_CHANNELS;
    const int64_t slices = channel < channels ? tiles.slices : 0;
    double sum = 0.0, with_x = 0.0;
    for (int64_t slice = own; slice < slices; slice += FINAL_THREADS) {
      sum += double(parameters.partials[2 * slice * channels + channel]);
      with_x += double(parameters.partials[(2 * slice + 1) * channels + channel]);
    }
    sum = sum_over_threads(sum);
    with_x = sum_over_threads(with_x);
    if (channel < channels && own == 0) {
      parameters.totals[channel] = float(sum);
      parameters.totals[channels + channel] =
          float(with_x * double(inverse_deviation(parameters.var[channel], parameters.eps)));
    }
  }
}

struct BackwardParameters {
  const void* grad;
  const void* x;
  void* result;
  const float* mean;
  const float* var;
  const float* weight;
  const float* bias;
  const float* sums;
  const float* count;
  float eps, slope;
  Tiles tiles;
  Packing packing;  // Relu::PACKED
};

// From the last row to the first, as `norm_apply`.
template <class T, int V, Relu RELU>
__global__ void __launch_bounds__(THREADS, 4) norm_backward_apply(const BackwardParameters parameters) {
  constexpr bool PACKED = RELU == Relu::PACKED;
  const Tiles& tiles = parameters.tiles;
  for (int64_t tile = blockIdx.x; tile < tiles.slices * tiles.bands; tile += gridDim.x) {
    const Place place = place_of<V>(tiles, tile);
    if (!place.owns) continue;
    // grad_x = scale g + slope (x - mean) + level
    Channels<V> mean, scale, slope, level;
    Gate<V, RELU == Relu::AGAIN || PACKED> gate;
    mean.read(parameters.mean, place.channel);
    gate.read(parameters.weight, parameters.var, parameters.bias, parameters.eps, place.channel);
    const float share = 1.f / *parameters.count;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int channel = place.channel + v;
      const float inverse = inverse_deviation(parameters.var[channel], parameters.eps);
      scale.number[v] = parameters.weight[channel] * inverse;
      level.number[v] = -scale.number[v] * parameters.sums[channel] * share;
      slope.number[v] = -scale.number[v] * inverse * parameters.sums[tiles.channels + channel] * share;
    }
    const T* const above = static_cast<const T*>(parameters.grad);
    const T* const source = static_cast<const T*>(parameters.x) + place.first;
    const PlainRows<PACKED> plain(parameters.packing, tiles, place);
    T* const target = static_cast<T*>(parameters.result) + place.first;
    for (int row = place.rows - 1 - place.line; row >= 0; row -= ROWS_AT_ONCE * tiles.lines) {
      Vector<T, V> grads[ROWS_AT_ONCE], loaded[ROWS_AT_ONCE];
#pragma unroll
      for (int r = 0; r < ROWS_AT_ONCE; ++r) {
        if (row - r * tiles.lines < 0) continue;
        const int64_t place_in_map = (row - r * tiles.lines) * int64_t(tiles.channels);
        grads[r] = load_constant<Vector<T, V>>(above + plain.element(row - r * tiles.lines));
        loaded[r] = load_constant<Vector<T, V>>(source + place_in_map);
      }
#pragma unroll
      for (int r = 0; r < ROWS_AT_ONCE; ++r) {
        if (row - r * tiles.lines < 0) continue;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const float before = widen(loaded[r].number[v]), x = PACKED ? at_least(0.f, before) : before;
          float grad = widen(grads[r].number[v]);
          if (gate.shuts(v, x, mean.number[v])) grad *= parameters.slope;
          const float constant = fmaf(x - mean.number[v], slope.number[v], level.number[v]);
          const float found = fmaf(grad, scale.number[v], constant);
          narrow(PACKED && before <= 0.f ? 0.f : found, grads[r].number[v]);
        }
        store(target + (row - r * tiles.lines) * int64_t(tiles.channels), grads[r]);
      }
    }
  }
}

template <class T, int V> int backward_reduce_by(const laconv_norm_args& args, void* stream) {
  const Tiles tiles = tiles_of<V>(args);
  const ReduceParameters parameters{args.grad, args.x,    args.out,        args.masked,    args.mean,   args.var,
                                    args.weight, args.bias, float(args.eps), float(args.slope), args.workspace, args.totals, tiles,
                                    packing_of(args)};
  const int64_t blocks = tiles.slices * tiles.bands;
  const auto reduce = args.packing  ? norm_backward_reduce<T, V, Relu::PACKED>
                      : !args.relu ? norm_backward_reduce<T, V, Relu::NONE>
                      : args.out   ? norm_backward_reduce<T, V, Relu::BY_RESULT>
                                   : norm_backward_reduce<T, V, Relu::AGAIN>;
  const int code = launch(reduce, blocks, LINES_BYTES<V>, stream, parameters);
  if (code) return code;
  return launch(norm_backward_total<T>, divided_up(args.channels, FINAL_CHANNELS), FINAL_BYTES, stream, parameters);
}

template <class T> int backward_reduce_any(const laconv_norm_args& args, void* stream) {
  if (!fits(args) || !packing_fits(args)) return LACONV_BAD_SIZE;
  return whole_vectors<T>(args) ? backward_reduce_by<T, NUMBERS_IN_16_BYTES<T>>(args, stream)
                                : backward_reduce_by<T, 1>(args, stream);
}

template <class T, int V> int backward_apply_by(const laconv_norm_args& args, void* stream) {
  const Tiles tiles = tiles_of<V>(args);
  const BackwardParameters parameters{args.grad, args.x,    args.result, args.mean,       args.var, args.weight,
                                      args.bias, args.sums, args.count,  float(args.eps), float(args.slope), tiles,    packing_of(args)};
  const auto apply = args.packing ? norm_backward_apply<T, V, Relu::PACKED>
                     : args.relu  ? norm_backward_apply<T, V, Relu::AGAIN>
                                  : norm_backward_apply<T, V, Relu::NONE>;
  return launch(apply, tiles.slices * tiles.bands, 0, stream, parameters);
}

template <class T> int backward_apply_any(const laconv_norm_args& args, void* stream) {
  if (!fits(args) || !packing_fits(args)) return LACONV_BAD_SIZE;
  return whole_vectors<T>(args) ? backward_apply_by<T, NUMBERS_IN_16_BYTES<T>>(args, stream)
                                : backward_apply_by<T, 1>(args, stream);
}

}  // namespace laconv
