// The forward result of k = 3 (lanes: k3.cuh). A warp walks down a strip of 16 columns: rows q and q + 8 of its
// products are columns 2 q and 2 q + 1. A step makes one row: 4 loads of 16 bytes of the condition, 4 of 8 bytes of the
// next row of x (three rows stay in registers, widened), 20 products, 72 multiplications, 2 stores of 8 bytes.
//
// Columns right of the picture take the condition of its last column and are not stored. Taps outside of the picture
// meet zeros, so a weight or bias that is not finite spoils also the border pixels where its tap lies outside.
#pragma once
#include "k3_condition.cuh"

namespace laconv {
namespace k3 {

struct ForwardParameters {
  const void *x, *cond, *weight, *bias;
  void* result;
  const float *scale, *shift;  // Prologue::PACKED
  Dropout dropout;
  Strips strips;
  uint32_t zero;  // always; see `Condition::load`
};

struct ForwardShared {
  Bias bias;
  Affine affine;  // Prologue::PACKED
};

// The lane's four channels of one row of x, in the columns that its two pixels reach: one more on either side.
struct SourceRow {
  float number[PIXELS + 2][MEMBERS];
};

template <class T, bool DROP, Prologue PROLOGUE>
__global__ void __launch_bounds__(THREADS, 2) forward(const ForwardParameters parameters) {
  const int lane = threadIdx.x % LANES, q = lane / 4, t = lane % 4;
  const Strips& strips = parameters.strips;
  ForwardShared& shared = *reinterpret_cast<ForwardShared*>(shared_memory());
  shared.bias.fill<T>(parameters.bias);
  if (PROLOGUE == Prologue::PACKED) shared.affine.fill(parameters.scale, parameters.shift);
  __syncthreads();
  Weights<T> weights;
  weights.load(parameters.weight, q, t);

  for (uint32_t index = blockIdx.x * WARPS + threadIdx.x / LANES; index < strips.count; index += gridDim.x * WARPS) {
    const Strip strip = strips.at(index);
    const int column = strip.column + 2 * q;
    const bool inside[PIXELS + 2] = {column > 0 && column <= strips.width, column < strips.width,
                                     column + 1 < strips.width, column + 2 < strips.width};
    Condition<T, PROLOGUE> condition(parameters.cond, strip.image, strip.begin, strips, column, t);
    const int64_t first = (strip.image * strips.height + strip.begin) * strips.width + column;
    constexpr int BYTES = CHANNELS * int(sizeof(T));
    const int row_bytes = strips.width * BYTES;
    const char* source = static_cast<const char*>(parameters.x) + (first - strips.width) * BYTES + 8 * t;
    char* result = static_cast<char*>(parameters.result) + first * BYTES + 8 * t;
    uint32_t pixel_number = unsigned(strip.begin * strips.width + column);
    Key key{};
    if (DROP) key = load_constant<Key>(parameters.dropout.keys + strip.image);

    const auto load_row = [&](SourceRow& row, bool row_inside) {
#pragma unroll
      for (int i = 0; i < PIXELS + 2; ++i) {
        const bool wanted = row_inside && inside[i];
        widen_four<T>(row.number[i], wanted ? load_constant<Words2>(source + (i - 1) * BYTES) : zeros<uint32_t, 2>());
      }
      source += row_bytes;
    };

    // Rows y - 1, y and y + 1, in turn: three steps are unrolled so that which is where is known to the compiler.
    SourceRow rows[3];
    load_row(rows[0], strip.begin > 0);
    load_row(rows[1], true);
    for (int three = strip.begin; three < strip.end; three += 3) {
#pragma unroll
      for (int turn = 0; turn < 3; ++turn) {
        const int y = three + turn;
        if (y >= strip.end) break;
        load_row(rows[(turn + 2) % 3], y + 1 < strips.height);
        Pixels pixels;
        condition.load(pixels, parameters.zero, &shared.affine, t);
        condition.advance(y);
        Bits128 drawn[PIXELS];
        if (DROP) {
#pragma unroll
          for (int i = 0; i < PIXELS; ++i) drawn[i] = filter_bits(key, pixel_number + unsigned(i), unsigned(t), 0);
        }

        float sum[PIXELS][MEMBERS] = {};
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
          float filters[2 * PIXELS];
          make_filters<T>(filters, pixels, weights, shared.bias, tile, t);
#pragma unroll
          for (int tap = 2 * tile; tap < min(2 * tile + 2, TAPS); ++tap)
#pragma unroll
            for (int pixel = 0; pixel < PIXELS; ++pixel) {
              float filter = filters[2 * pixel + tap % 2];
              if (DROP) filter = dropped(filter, drawn[pixel], tap, parameters.dropout);
              const float* const neighbour = rows[(turn + tap / 3) % 3].number[pixel + tap % 3];
#pragma unroll
              for (int member = 0; member < MEMBERS; ++member) sum[pixel][member] += filter * neighbour[member];
            }
        }

        const float scale = DROP ? parameters.dropout.scale : 1.f;
#pragma unroll
        for (int pixel = 0; pixel < PIXELS; ++pixel)
          if (inside[1 + pixel]) store(result + pixel * BYTES, narrow_four<T>(sum[pixel], scale));
        result += row_bytes;
        pixel_number += unsigned(strips.width);
      }
    }
  }
}

template <class T, bool DROP, Prologue PROLOGUE> int launch_forward(const laconv_fused_args& args, void* stream) {
  ForwardParameters parameters{args.x,     args.cond,  args.weight,      args.bias, args.result,
                               args.scale, args.shift, dropout_of(args), {},        0};
  const int wrong = cut(args, COLUMNS, 1, parameters.strips);
  return wrong ? wrong : launch_strips(forward<T, DROP, PROLOGUE>, 2, int(sizeof(ForwardShared)), parameters, stream);
}

template <class T> int forward_any(const laconv_fused_args& args, void* stream) {
  const bool packed = args.packing != 0;
  if (packed && (args.packing != PACKING || !args.scale || !args.shift)) return LACONV_NO_FUSED_KERNEL;
  const int wrong = check(args, packed ? PACKING : 1, {args.x, args.cond, args.weight, args.result});
  if (wrong) return wrong;
  if (packed)
    return args.keys ? launch_forward<T, true, Prologue::PACKED>(args, stream)
                     : launch_forward<T, false, Prologue::PACKED>(args, stream);
  return args.keys ? launch_forward<T, true, Prologue::NONE>(args, stream)
                   : launch_forward<T, false, Prologue::NONE>(args, stream);
}

}  // namespace k3
}  // namespace laconv
