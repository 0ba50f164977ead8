// The gradient of x of k = 3 (lanes: k3.cuh): every pixel hands the gradient of the result, times its filters, to the
// nine pixels that its taps reach. A warp walks down a strip of 16 columns, rows q and q + 8 of its products being
// columns 2 q and 2 q + 1, of which the 14 inner ones get all that reaches them: half of what goes sideways stays in
// its lane, the rest is handed over once a row (8 exchanges). Filters of a row are made once; three rows of results
// grow in registers.
//
// Pixels outside of the picture have a gradient of zero and take the condition of the nearest pixel inside: where that
// is not finite they spoil results that it reaches itself.
#pragma once
#include "k3_condition.cuh"

namespace laconv {
namespace k3 {

constexpr int INNER_COLUMNS = COLUMNS - 2;

struct GradXParameters {
  const void *grad, *cond, *weight, *bias;
  void* result;
  Dropout dropout;
  Strips strips;
  uint32_t zero;  // always; see `Condition::load`
};

// The lane's four channels of one row of results, in the columns that its two pixels reach: one more on either side,
// which belong to the neighbouring lanes.
struct TargetRow {
  float number[PIXELS + 2][MEMBERS];
};

template <class T, bool DROP>
__global__ void __launch_bounds__(THREADS, DROP ? 2 : 3) grad_x(const GradXParameters parameters) {
  const int lane = threadIdx.x % LANES, q = lane / 4, t = lane % 4;
  const Strips& strips = parameters.strips;
  Bias& bias = *reinterpret_cast<Bias*>(shared_memory());
  bias.fill<T>(parameters.bias);
  __syncthreads();
  Weights<T> weights;
  weights.load(parameters.weight, q, t);

  for (uint32_t index = blockIdx.x * WARPS + threadIdx.x / LANES; index < strips.count; index += gridDim.x * WARPS) {
    const Strip strip = strips.at(index);
    const int column = strip.column - 1 + 2 * q;
    const bool inside[PIXELS] = {column >= 0 && column < strips.width, column + 1 < strips.width};
    const bool own[PIXELS] = {inside[0] && q > 0, inside[1] && q < 7};
    const int first_row = max(strip.begin - 1, 0);  // rows from here to strip.end reach the strip
    Condition<T, Prologue::NONE> condition(parameters.cond, strip.image, first_row, strips, column, t);
    constexpr int BYTES = CHANNELS * int(sizeof(T));
    const int row_bytes = strips.width * BYTES;
    const int64_t first = (strip.image * strips.height + first_row) * strips.width + column;
    const char* above = static_cast<const char*>(parameters.grad) + first * BYTES + 8 * t;
    char* result = static_cast<char*>(parameters.result) + (first - strips.width) * BYTES + 8 * t;  // row y - 1
    uint32_t pixel_number = unsigned(first_row * strips.width + column);
    Key key{};
    if (DROP) key = load_constant<Key>(parameters.dropout.keys + strip.image);

    TargetRow rows[3] = {};  // y - 1, y and y + 1
    for (int y = first_row; y <= strip.end; ++y) {
      const bool row_inside = y < strips.height;  // the last row of the picture is completed by an empty one
      float gradient[PIXELS][MEMBERS];
#pragma unroll
      for (int pixel = 0; pixel < PIXELS; ++pixel) {
        const bool wanted = row_inside && inside[pixel];
        widen_four<T>(gradient[pixel], wanted ? load_constant<Words2>(above + pixel * BYTES) : zeros<uint32_t, 2>());
      }
      Pixels pixels;
      condition.load(pixels, parameters.zero);
      if (y + 1 < strips.height) condition.advance(y);
      Bits128 drawn[PIXELS];
      if (DROP) {
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) drawn[i] = filter_bits(key, pixel_number + unsigned(i), unsigned(t), 0);
      }

#pragma unroll
      for (int tile = 0; tile < TILES; ++tile) {
        float filters[2 * PIXELS];
        make_filters<T>(filters, pixels, weights, bias, tile, t);
#pragma unroll
        for (int tap = 2 * tile; tap < min(2 * tile + 2, TAPS); ++tap)
#pragma unroll
          for (int pixel = 0; pixel < PIXELS; ++pixel) {
            float filter = filters[2 * pixel + tap % 2];
            if (DROP) filter = dropped(filter, drawn[pixel], tap, parameters.dropout);
            float* const target = rows[tap / 3].number[pixel + tap % 3];
#pragma unroll
            for (int member = 0; member < MEMBERS; ++member) target[member] += filter * gradient[pixel][member];
          }
      }

      if (y > strip.begin) {  // row y - 1 is complete
        float sum[PIXELS][MEMBERS];
#pragma unroll
        for (int member = 0; member < MEMBERS; ++member) {
          const auto at = [&](int i) { return rows[0].number[i][member]; };
          sum[0][member] = at(1) + shuffled(at(3), lane - 4);
          sum[1][member] = at(2) + shuffled(at(0), lane + 4);
        }
        const float scale = DROP ? parameters.dropout.scale : 1.f;
#pragma unroll
        for (int pixel = 0; pixel < PIXELS; ++pixel)
          if (own[pixel]) store(result + pixel * BYTES, narrow_four<T>(sum[pixel], scale));
      }
      rows[0] = rows[1];
      rows[1] = rows[2];
      rows[2] = {};
      above += row_bytes;
      result += row_bytes;
      pixel_number += unsigned(strips.width);
    }
  }
}

template <class T, bool DROP> int launch_grad_x(const laconv_fused_args& args, void* stream) {
  GradXParameters parameters{args.grad, args.cond, args.weight, args.bias, args.result, dropout_of(args), {}, 0};
  const int wrong = cut(args, INNER_COLUMNS, 1, parameters.strips);
  return wrong ? wrong : launch_strips(grad_x<T, DROP>, DROP ? 2 : 3, int(sizeof(Bias)), parameters, stream);
}

template <class T> int grad_x_any(const laconv_fused_args& args, void* stream) {
  if (args.packing) return LACONV_NO_FUSED_KERNEL;
  const int wrong = check(args, 1, {args.grad, args.cond, args.weight, args.result});
  if (wrong) return wrong;
  return args.keys ? launch_grad_x<T, true>(args, stream) : launch_grad_x<T, false>(args, stream);
}

}  // namespace k3
}  // namespace laconv
