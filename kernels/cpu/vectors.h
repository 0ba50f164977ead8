// Vectors of the compiler's own kind (GCC, Clang), and copies between pixels and channels that use them.

#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "shape.h"

namespace laconv {

template <int Lanes>
struct Vector {
  typedef float type __attribute__((vector_size(Lanes * sizeof(float))));
};

template <int Lanes>
inline typename Vector<Lanes>::type load(const float* from) {
  typename Vector<Lanes>::type value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <int Lanes>
inline void store(float* to, typename Vector<Lanes>::type value) {
  std::memcpy(to, &value, sizeof(value));
}

// Calls work(w) for vectors [w, w + Lanes) that cover a row of at least so many; the last may overlap the one before.
template <int Lanes, typename Work>
inline void along(Index width, Work work) {
  for (Index w = 0; w < width; w += Lanes) work(std::min(w, width - Lanes));
}

// Calls work(first, their number as a constant) for blocks that cover n of something.
template <typename Work>
inline void blocks(Index n, Work work) {
  Index i = 0;
  for (; i + 8 <= n; i += 8) work(i, std::integral_constant<int, 8>());
  if (n & 4) work(i, std::integral_constant<int, 4>()), i += 4;
  if (n & 2) work(i, std::integral_constant<int, 2>()), i += 2;
  if (n & 1) work(i, std::integral_constant<int, 1>());
}

// A copy of a short row: a call of memcpy would cost more than the row.
inline void copy(const float* from, float* to, Index width) {
  if (width >= 8)
    along<8>(width, [&](Index w) { store<8>(to + w, load<8>(from + w)); });
  else
    for (Index w = 0; w < width; ++w) to[w] = from[w];
}

#if defined(__clang__) || __GNUC__ >= 12
#define LACONV_PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int Picked __attribute__((vector_size(16)));
#define LACONV_PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, Picked{i, j, k, l})
#endif

// to[c][r] = from[r][c]; distances between rows in floats.
inline void transpose(const float* from, Index from_row, float* to, Index to_row, Index rows, Index columns) {
  Index r = 0;
  for (; r + 4 <= rows; r += 4) {
    Index c = 0;
    for (; c + 4 <= columns; c += 4) {
      const float* source = from + r * from_row + c;
      const auto a0 = load<4>(source), a1 = load<4>(source + from_row);
      const auto a2 = load<4>(source + 2 * from_row), a3 = load<4>(source + 3 * from_row);
      const auto b0 = LACONV_PICK(a0, a1, 0, 4, 1, 5), b1 = LACONV_PICK(a0, a1, 2, 6, 3, 7);
      const auto b2 = LACONV_PICK(a2, a3, 0, 4, 1, 5), b3 = LACONV_PICK(a2, a3, 2, 6, 3, 7);
      float* target = to + c * to_row + r;
      store<4>(target, LACONV_PICK(b0, b2, 0, 1, 4, 5));
      store<4>(target + to_row, LACONV_PICK(b0, b2, 2, 3, 6, 7));
      store<4>(target + 2 * to_row, LACONV_PICK(b1, b3, 0, 1, 4, 5));
      store<4>(target + 3 * to_row, LACONV_PICK(b1, b3, 2, 3, 6, 7));
    }
    for (; c < columns; ++c)
      for (Index i = r; i < r + 4; ++i) to[c * to_row + i] = from[i * from_row + c];
  }
  for (; r < rows; ++r)
    for (Index c = 0; c < columns; ++c) to[c * to_row + r] = from[r * from_row + c];
}

#undef LACONV_PICK

}  // namespace laconv
