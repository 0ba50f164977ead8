// The upper half of a float32: what is stored where that is the type; all arithmetic is in float32.

#pragma once

#include <cstdint>
#include <cstring>

namespace laconv {

// To the nearest number of 16 bits, in the upper half; between two, to the even one. `Bits`: one float32 or a vector. A
// NaN stays one: those that come of such numbers, or of none, have nothing in the lower half that could be carried.
template <typename Bits>
inline Bits rounded(Bits bits) {
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

struct Bfloat16 {
  std::uint16_t half;

  Bfloat16() = default;
  explicit Bfloat16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    half = static_cast<std::uint16_t>(rounded(bits) >> 16);
  }
  explicit operator float() const {
    const std::uint32_t bits = std::uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
};

}  // namespace laconv
