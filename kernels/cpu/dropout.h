// Dropout by the rule of `kernels/dropout.py`: the same bits. A value is kept, times `scale`, where its byte of the
// generator's output is at least `threshold`, else zero.

#pragma once

#include <type_traits>
#include <vector>

#include "bfloat16.h"
#include "philox.h"
#include "shape.h"
#include "team.h"

namespace laconv {

constexpr Index kBytes = 16;    // of one counter
constexpr std::uint32_t kHighest = 0x80808080u;  // bit of each byte of a word
constexpr Index kAtOnce = 256;  // counters whose words are held at once, in the first cache

struct Dropout {
  const std::uint64_t* keys;  // one an image
  std::uint32_t threshold;
  float scale;

  // Value i by draw(i): a byte whose highest bit is turned, at the top of a word whose other bits may be anything. So a
  // comparison of signed numbers serves, the only one that all vectors have. No condition but on bits, and pointers
  // that nothing else goes by: or the compiler would move the product behind the condition and make no vectors of it.
  template <typename T, typename Draw>
  void apply(const T* from, T* to, Index count, Draw draw) const {
    using Bits = std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>;
    const auto least = static_cast<std::int32_t>((threshold << 24) ^ 0x80000000u);
    const float by = scale;
#pragma GCC ivdep
    for (Index i = 0; i < count; ++i) {
      const T scaled(float(from[i]) * by);
      Bits bits;
      std::memcpy(&bits, &scaled, sizeof bits);
      bits &= static_cast<std::int32_t>(draw(i)) >= least ? ~0u : 0u;
      std::memcpy(static_cast<void*>(to + i), &bits, sizeof bits);
    }
  }
};

// In place on filters in planes, tap * groups + group. A task is an image, a group and a block of taps.
template <typename T>
class FilterDropout {
 public:
  FilterDropout(const Planes<T>& filters, Index kernel, Index groups, Index pixels, const Dropout& rule)
      : filters_(filters), kernel_(kernel), groups_(groups), pixels_(pixels), rule_(rule), words_(4 * kAtOnce) {}

  static Index blocks(Index kernel) { return kernel <= 3 ? 1 : (kernel + 1) / 2 * ((kernel + 7) / 8); }

  void operator()(Index index) {
    const Index block = index % blocks(kernel_), group = index / blocks(kernel_) % groups_;
    const Index image = index / blocks(kernel_) / groups_;
    for (Index first = 0; first < pixels_; first += kAtOnce) {
      const Index count = std::min(kAtOnce, pixels_ - first);
      for (Index i = 0; i < count; i += kCounters) {
        const Counters at{static_cast<std::uint32_t>(first + i), static_cast<std::uint32_t>(group),
                          static_cast<std::uint32_t>(block), 0};
        philox(at, rule_.keys[image], words_.data() + i, kAtOnce, kHighest);
      }
      for (Index byte = 0; byte < kBytes; ++byte) {
        const Index tap = tap_of(block, byte);
        if (tap < 0) continue;
        T* values = filters_.at(image, tap * groups_ + group) + first;
        const std::uint32_t* words = words_.data() + byte / 4 * kAtOnce;
        const auto shift = static_cast<std::uint32_t>(24 - 8 * (byte % 4));
        rule_.apply(values, values, count, [=](Index i) { return words[i] << shift; });
      }
    }
  }

 private:
  // The tap that a byte of a block is for, or -1.
  Index tap_of(Index block, Index byte) const {
    if (kernel_ <= 3) return byte < kernel_ * kernel_ ? byte : -1;
    const Index across = (kernel_ + 1) / 2;
    const Index dy = block / across * 8 + byte / 2, dx = block % across * 2 + byte % 2;
    return dy < kernel_ && dx < kernel_ ? dy * kernel_ + dx : -1;
  }

  const Planes<T>& filters_;
  Index kernel_, groups_, pixels_;
  const Dropout& rule_;
  std::vector<std::uint32_t> words_;
};

template <typename T>
bool drop_filters(const Planes<T>& filters, Index images, Index kernel, Index groups, Index pixels,
                  const Dropout& rule, Index threads) {
  const Index values = images * kernel * kernel * groups * pixels;
  return run(images * groups * FilterDropout<T>::blocks(kernel), std::min(threads, 1 + values / kShare),
             [&] { return FilterDropout<T>(filters, kernel, groups, pixels, rule); });
}

// Of any tensor, (images, elements) in a row: element e has byte e % 16 of counter (e / 16, its upper half, 0, 1).
class ElementDropout {
 public:
  ElementDropout(const float* from, float* to, Index elements, const Dropout& rule)
      : from_(from), to_(to), elements_(elements), rule_(rule), words_(4 * kAtOnce), rows_(4 * kAtOnce) {}

  static Index parts(Index elements) { return (elements + kBytes * kAtOnce - 1) / (kBytes * kAtOnce); }

  void operator()(Index index) {
    const Index image = index / parts(elements_), first = index % parts(elements_) * kAtOnce;
    const Index count = std::min(kBytes * kAtOnce, elements_ - kBytes * first);
    for (Index i = 0; i < kAtOnce && kBytes * i < count; i += kCounters) {
      // A part holds a power of two of counters, so the lower half never carries within it.
      const Counters at{static_cast<std::uint32_t>(first + i), static_cast<std::uint32_t>((first + i) >> 32), 0, 1};
      philox(at, rule_.keys[image], words_.data() + i, kAtOnce, kHighest);
    }
    transpose(words_.data(), rows_.data());
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(rows_.data());  // little endian
    const Index start = image * elements_ + kBytes * first;
    rule_.apply(from_ + start, to_ + start, count, [=](Index i) { return std::uint32_t{bytes[i]} << 24; });
  }

 private:
  static void transpose(const std::uint32_t* words, std::uint32_t* rows) {
    for (Index i = 0; i < kAtOnce; ++i)
      for (Index w = 0; w < 4; ++w) rows[4 * i + w] = words[w * kAtOnce + i];
  }

  const float* from_;
  float* to_;
  Index elements_;
  const Dropout& rule_;
  std::vector<std::uint32_t> words_, rows_;  // by word, by counter
};

inline bool drop_elements(const float* from, float* to, Index images, Index elements, const Dropout& rule,
                          Index threads) {
  return run(images * ElementDropout::parts(elements), std::min(threads, 1 + images * elements / kShare),
             [&] { return ElementDropout(from, to, elements, rule); });
}

}  // namespace laconv
