// Drops values of filters as `kernels/dropout.py` says: a value is zero where the hash of its place under the image's
// key is below `threshold`, else multiplied by `scale`.

#pragma once

#include <cstdint>

#include "shape.h"
#include "team.h"

namespace laconv {

inline std::uint32_t mixed(std::uint32_t h) {
  h = (h ^ (h >> 16)) * 0x7feb352du;
  h = (h ^ (h >> 15)) * 0x846ca68bu;
  return h ^ (h >> 16);
}

inline bool drop(const Planes<float>& filters, Index images, Index planes, Index pixels, const std::uint64_t* keys,
                 std::uint32_t threshold, float scale, Index threads) {
  return run(images * planes, std::min(threads, 1 + images * planes * pixels / kShare), [&] {
    return [&](Index index) {
      const std::uint64_t key = keys[index / planes];
      const auto low = static_cast<std::uint32_t>(key), high = static_cast<std::uint32_t>(key >> 32);
      const auto first = static_cast<std::uint32_t>(index % planes * pixels);
      float* values = filters.at(index / planes, index % planes);
      for (Index i = 0; i < pixels; ++i) {
        const std::uint32_t hash = mixed(mixed((first + static_cast<std::uint32_t>(i)) ^ low) ^ high);
        values[i] = hash < threshold ? 0.0f : values[i] * scale;
      }
    };
  });
}

}  // namespace laconv
