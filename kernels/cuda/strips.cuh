// The work is cut into strips: up to PIXELS neighbours of one row of one image, in the order of memory. A thread that
// owns a strip reads each input pixel once for all outputs that it serves.
#pragma once
#include "device.cuh"

namespace laconv {

constexpr int PIXELS = 4;
constexpr int LARGEST_CHANNELS = 1 << 27;  // offsets of up to 15 pixels of a row fit into 32 bits

struct Shape {
  int64_t rows;    // batch * height
  int64_t strips;  // of all rows
  int strips_a_row;
  int height, width, channels, groups, kernel_size;
  bool interleaved;

  __host__ __device__ int64_t pixels() const { return rows * width; }
  __host__ __device__ int filters_a_pixel() const { return kernel_size * kernel_size * groups; }
  __host__ __device__ int channels_a_group() const { return channels / groups; }
};

struct Strip {
  int64_t row;  // of all images: image * height + y
  int y;        // in its image
  int x;        // of the first pixel
};

// Unsigned division: of two 64-bit numbers below 2^32 the compiler's code makes one fast 32-bit division.
__device__ __forceinline__ Strip strip_at(int64_t index, const Shape& shape) {
  const uint64_t row = uint64_t(index) / unsigned(shape.strips_a_row);
  const int x = int(uint64_t(index) - row * unsigned(shape.strips_a_row)) * PIXELS;
  return {int64_t(row), int(row % unsigned(shape.height)), x};
}

__device__ __forceinline__ int64_t first_pixel(int64_t strip, const Shape& shape) {
  if (strip == shape.strips) return shape.pixels();
  const Strip at = strip_at(strip, shape);
  return at.row * shape.width + at.x;
}

// 0, or what does not fit; an empty batch or image has no strips.
inline int shape_of(const laconv_conv_args& args, Shape& shape) {
  constexpr int64_t most = 0x7fffffff;
  if (args.kernel_size < 1 || args.kernel_size % 2 == 0 || args.kernel_size > 0x7fff) return LACONV_BAD_KERNEL_SIZE;
  for (const int64_t side : {args.batch, args.height, args.width, args.channels, args.groups})
    if (side < 0 || side > most) return LACONV_BAD_SIZE;
  if (args.channels > LARGEST_CHANNELS) return LACONV_BAD_SIZE;
  if (args.groups < 1 || args.channels % args.groups) return LACONV_BAD_SIZE;
  if (args.kernel_size * args.kernel_size > most / args.groups) return LACONV_BAD_SIZE;
  shape.rows = args.batch * args.height;
  shape.strips_a_row = int(divided_up(args.width, PIXELS));
  shape.strips = shape.rows * shape.strips_a_row;
  shape.height = int(args.height);
  shape.width = int(args.width);
  shape.channels = int(args.channels);
  shape.groups = int(args.groups);
  shape.kernel_size = int(args.kernel_size);
  shape.interleaved = args.interleaved != 0;
  return 0;
}

}  // namespace laconv
