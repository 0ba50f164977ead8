// Philox4x32-7 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") for many counters at once.

#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "shape.h"

namespace laconv {

// 64-bit lanes whose upper halves are of no account: the product of the lower halves is one instruction on x86.
#ifdef __AVX512F__
constexpr int kHalves = 8;
#else
constexpr int kHalves = 4;
#endif
constexpr int kCounters = 2 * kHalves;  // of one call of `philox`
typedef std::uint64_t Halves __attribute__((vector_size(8 * kHalves)));

inline Halves product(Halves a, std::uint64_t b) {
#if defined(__AVX512F__)
  return (Halves)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(static_cast<long long>(b)));
#elif defined(__AVX2__)
  return (Halves)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(static_cast<long long>(b)));
#else
  return (a & 0xffffffffu) * b;
#endif
}

struct Counters {  // (first + lane, one, two, three)
  std::uint32_t first, one, two, three;
};

// The four words of kCounters counters, word w of lane i at words[w * pitch + i], the bits of `flipped` turned in each.
inline void philox(const Counters& at, std::uint64_t key, std::uint32_t* words, Index pitch, std::uint32_t flipped) {
  Halves result[2][4];
  for (int odd = 0; odd < 2; ++odd) {  // every other lane
    Halves c0{}, c1 = Halves{} + at.one, c2 = Halves{} + at.two, c3 = Halves{} + at.three;
    for (int i = 0; i < kHalves; ++i) c0[i] = at.first + static_cast<std::uint32_t>(2 * i + odd);
    auto key0 = static_cast<std::uint32_t>(key), key1 = static_cast<std::uint32_t>(key >> 32);
    for (int round = 0; round < 7; ++round) {
      const Halves p = product(c0, 0xD2511F53u), s = product(c2, 0xCD9E8D57u);
      c0 = (s >> 32) ^ c1 ^ key0;
      c1 = s;
      c2 = (p >> 32) ^ c3 ^ key1;
      c3 = p;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    result[odd][0] = c0, result[odd][1] = c1, result[odd][2] = c2, result[odd][3] = c3;
  }
  for (int w = 0; w < 4; ++w) {
    const Halves both = ((result[0][w] & 0xffffffffu) | (result[1][w] << 32)) ^ (flipped * 0x100000001u);
    std::memcpy(words + w * pitch, &both, sizeof both);  // little endian, as all that this is compiled for
  }
}

}  // namespace laconv
