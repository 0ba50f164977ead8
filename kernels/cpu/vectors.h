// Vectors of the compiler's own kind (GCC, Clang), and copies between pixels and channels that use them.
//
// Vectors hold float32; numbers in memory are float32 or bfloat16 and become the other as they are loaded and stored.

#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "bfloat16.h"
#include "shape.h"

namespace laconv {

#ifdef __AVX512F__
constexpr int kWidest = 16;  // lanes of the widest vector
#else
constexpr int kWidest = 8;
#endif

template <int Lanes>
struct Vector {
  typedef float type __attribute__((vector_size(Lanes * sizeof(float))));
  typedef std::uint32_t bits __attribute__((vector_size(Lanes * sizeof(float))));
  typedef std::int32_t places __attribute__((vector_size(Lanes * sizeof(float))));
  typedef std::uint16_t halves __attribute__((vector_size(Lanes * sizeof(Bfloat16))));
};

template <int Lanes>
inline typename Vector<Lanes>::type load(const float* from) {
  typename Vector<Lanes>::type value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <int Lanes>
inline typename Vector<Lanes>::type load(const Bfloat16* from) {
  typename Vector<Lanes>::halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  const auto bits = __builtin_convertvector(halves, typename Vector<Lanes>::bits) << 16;
  typename Vector<Lanes>::type value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <int Lanes>
inline void store(float* to, typename Vector<Lanes>::type value) {
  std::memcpy(to, &value, sizeof(value));
}

template <int Lanes>
inline void store(Bfloat16* to, typename Vector<Lanes>::type value) {
  typename Vector<Lanes>::bits bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto halves = __builtin_convertvector(rounded(bits) >> 16, typename Vector<Lanes>::halves);
  std::memcpy(static_cast<void*>(to), &halves, sizeof(halves));
}

#if defined(__clang__) || __GNUC__ >= 12
#define LACONV_PICK(lanes, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LACONV_PICK(lanes, a, b, ...) __builtin_shuffle(a, b, typename Vector<lanes>::places{__VA_ARGS__})
#endif

template <int Lanes, int Shift, int... Lane>
inline typename Vector<Lanes>::type shifted(typename Vector<Lanes>::type a, typename Vector<Lanes>::type b,
                                            std::integer_sequence<int, Lane...>) {
  return LACONV_PICK(Lanes, a, b, (Shift + Lane)...);
}

// Calls work(t as a constant, the vector that lies t behind `from`) for all T, which count from 0. Many that overlap
// are picked out of two loads where one instruction does so: most of them would cross a line of the cache, which takes
// twice as long. Up to 2 * Lanes numbers are read.
template <int Lanes, int... T, typename Work>
inline void windows(const float* from, std::integer_sequence<int, T...>, Work work) {
#ifdef __AVX512VL__
  if constexpr (Lanes >= 8 && sizeof...(T) > 4 && sizeof...(T) <= Lanes) {
    const auto a = load<Lanes>(from), b = load<Lanes>(from + Lanes);
    const auto lanes = std::make_integer_sequence<int, Lanes>();
    (work(std::integral_constant<int, T>(), shifted<Lanes, T>(a, b, lanes)), ...);
    return;
  }
#endif
  (work(std::integral_constant<int, T>(), load<Lanes>(from + T)), ...);
}

// Calls work(w, lanes as a constant) for vectors [w, w + lanes) that cover a row of at least `Lanes`; the last may
// overlap the one before. The widest are halved at the row's end where that covers it.
template <int Lanes, typename Work>
inline void along(Index width, Work work) {
  Index w = 0;
  if constexpr (Lanes > 8) {
    for (; w + Lanes <= width; w += Lanes) work(w, std::integral_constant<int, Lanes>());
    if (width - w > Lanes / 2)
      work(width - Lanes, std::integral_constant<int, Lanes>());
    else if (w < width)
      work(width - Lanes / 2, std::integral_constant<int, Lanes / 2>());
  } else {
    for (; w < width; w += Lanes) work(std::min(w, width - Lanes), std::integral_constant<int, Lanes>());
  }
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

// Whether n of something is one of these blocks.
inline bool is_block(Index n) { return n == 1 || n == 2 || n == 4 || n == 8; }

// Calls work(first, their number as a constant) for the taps of a kernel's row: all at once for the common sizes.
template <typename Work>
inline void tap_blocks(Index taps, Work work) {
  if (taps == 7)
    work(Index{0}, std::integral_constant<int, 7>());
  else if (taps == 5)
    work(Index{0}, std::integral_constant<int, 5>());
  else if (taps == 3)
    work(Index{0}, std::integral_constant<int, 3>());
  else
    blocks(taps, work);
}

// The same for a kernel's rows, as many at once as there are registers for the sums of their taps.
template <typename Work>
inline void row_pairs(Index rows, Work work) {
  Index r = 0;
#ifdef __AVX512F__
  for (; r + 2 <= rows; r += 2) work(r, std::integral_constant<int, 2>());
#endif
  for (; r < rows; ++r) work(r, std::integral_constant<int, 1>());
}

// A copy of a short row: a call of memcpy would cost more than the row.
template <typename From, typename To>
inline void copy(const From* from, To* to, Index width) {
  if (width >= 8)
    along<8>(width, [&](Index w, auto lanes) { store<lanes()>(to + w, load<lanes()>(from + w)); });
  else
    for (Index w = 0; w < width; ++w) to[w] = To(float(from[w]));
}

// to[c][r] = from[r][c]; distances between rows in numbers.
template <typename From, typename To>
inline void transpose(const From* from, Index from_row, To* to, Index to_row, Index rows, Index columns) {
  Index r = 0;
  for (; r + 4 <= rows; r += 4) {
    Index c = 0;
    for (; c + 4 <= columns; c += 4) {
      const From* source = from + r * from_row + c;
      const auto a0 = load<4>(source), a1 = load<4>(source + from_row);
      const auto a2 = load<4>(source + 2 * from_row), a3 = load<4>(source + 3 * from_row);
      const auto b0 = LACONV_PICK(4, a0, a1, 0, 4, 1, 5), b1 = LACONV_PICK(4, a0, a1, 2, 6, 3, 7);
      const auto b2 = LACONV_PICK(4, a2, a3, 0, 4, 1, 5), b3 = LACONV_PICK(4, a2, a3, 2, 6, 3, 7);
      To* target = to + c * to_row + r;
      store<4>(target, LACONV_PICK(4, b0, b2, 0, 1, 4, 5));
      store<4>(target + to_row, LACONV_PICK(4, b0, b2, 2, 3, 6, 7));
      store<4>(target + 2 * to_row, LACONV_PICK(4, b1, b3, 0, 1, 4, 5));
      store<4>(target + 3 * to_row, LACONV_PICK(4, b1, b3, 2, 3, 6, 7));
    }
    for (; c < columns; ++c)
      for (Index i = r; i < r + 4; ++i) to[c * to_row + i] = To(float(from[i * from_row + c]));
  }
  for (; r < rows; ++r)
    for (Index c = 0; c < columns; ++c) to[c * to_row + r] = To(float(from[r * from_row + c]));
}

#undef LACONV_PICK

}  // namespace laconv
