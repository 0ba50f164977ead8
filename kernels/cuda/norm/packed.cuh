// A map that lies packed, (batch, cells down, cells across, side, side, channels): cells of side x side pixels, row by
// row, and the pixels of each row by row. Where its rows of channels stand in the plain map (batch, height, width,
// channels), and what becomes of its numbers: relu comes before the batch norm.
#pragma once
#include "tiles.cuh"

namespace laconv {

struct Packing {
  unsigned side, width, band;  // of a cell and of a picture in pixels; pixels of a row of cells, whose places change
};

inline Packing packing_of(const laconv_norm_args& args) {
  const unsigned side = unsigned(args.packing), width = side * unsigned(args.cells);
  return {side, width, side * width};
}

// Whether 32 bits count the pixels of a row of cells, and the map is made of such rows.
inline bool packing_fits(const laconv_norm_args& args) {
  constexpr int64_t MOST = 1 << 15, LARGEST_BAND = 0x7fffffff;
  if (args.packing == 0) return true;
  if (args.packing < 0 || args.packing > MOST || !args.relu || args.slope != 0 || args.beside || args.out) return false;
  if (args.cells < 1 || args.cells > LARGEST_BAND / (args.packing * args.packing)) return false;
  return args.rows % (args.packing * args.packing * args.cells) == 0;
}

// The elements of the plain map that belong to rows of one slice of x.
template <bool PACKED> class PlainRows {
 public:
  __device__ __forceinline__ PlainRows(const Packing& packing, const Tiles& tiles, const Place& place)
      : packing_(packing), first_(place.first), channels_(tiles.channels) {
    if (!PACKED) return;
    const int64_t begin = place.slice * tiles.rows_a_slice;
    const int64_t bands = int64_t(uint64_t(begin) / packing.band);
    skipped_ = unsigned(begin - bands * packing.band);
    first_ = bands * packing.band * tiles.channels + place.channel;
  }

  // Of `row` of the slice.
  __device__ __forceinline__ int64_t element(int row) const {
    if (!PACKED) return first_ + row * int64_t(channels_);
    const unsigned pixel = skipped_ + unsigned(row), area = packing_.side * packing_.side;
    const unsigned band = pixel / packing_.band, in_band = pixel - band * packing_.band;
    const unsigned cell = in_band / area, in_cell = in_band - cell * area;
    const unsigned y = in_cell / packing_.side, x = in_cell - y * packing_.side;
    const unsigned place = y * packing_.width + cell * packing_.side + x;
    return first_ + (int64_t(band) * packing_.band + place) * channels_;
  }

 private:
  const Packing& packing_;
  int64_t first_;
  unsigned skipped_ = 0;  // pixels of the first row of cells that belong to slices before
  int channels_;
};

}  // namespace laconv
