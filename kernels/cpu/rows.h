// Dynamic convolution with vectors along a row of pixels.
//
// With filters in planes (one plane a tap and group) all three sums of `dynamic_conv.cpp` are multiply-adds of rows
// that lie contiguously: one load of filters serves up to eight channels, whose sums stay in registers. A task is
// (image, a few groups, block of rows): it copies its rows of x and grad into scratch that stays in the cache, zeros
// left and right of each row, so that the inner loops know no borders.

#pragma once

#include <vector>

#include "shape.h"
#include "vectors.h"

namespace laconv {

constexpr Index kScratch = 1 << 16;  // floats of one copied map: half of a common second-level cache

// The rows that the taps of row y reach: y + first .. y + last lie inside the image.
struct Reach {
  Index first, last;

  Reach(const Shape& s, Index y) : first(std::max(-s.reach(), -y)), last(std::min(s.reach(), s.height - 1 - y)) {}
  Index count() const { return last - first + 1; }
};

struct Block {
  Index image, group, groups, first, last;  // rows [first, last) of groups [group, group + groups)
};

struct Blocks {
  Index groups, height, together, sets, rows, row_blocks, count, copied;

  explicit Blocks(const Shape& s) : groups(s.groups), height(s.height) {
    // Groups narrower than a cache line are taken together, or channels-last images would be read once a group.
    together = s.interleaved ? 1 : std::clamp<Index>(kLine / s.per_group(), 1, s.groups);
    sets = (s.groups + together - 1) / together;
    const Index fitting = kScratch / (together * s.per_group() * s.pitch()) - 2 * s.reach();
    rows = std::min(std::max<Index>(fitting, 8), s.height);
    row_blocks = (s.height + rows - 1) / rows;
    count = s.batch * sets * row_blocks;
    copied = std::min(s.height, rows + 2 * s.reach());
  }

  Block place(Index index) const {
    const Index first = index % row_blocks * rows, set = index / row_blocks % sets, group = set * together;
    return {index / row_blocks / sets, group, std::min(together, groups - group), first, std::min(first + rows, height)};
  }
};

// A copy of some rows of a few groups, with zeros at both sides of each row.
class Rows {
 public:
  Rows(const Shape& s, const Blocks& cut)
      : s_(s), plane_(cut.copied * s.pitch()), data_(cut.together * s.per_group() * plane_ + kWidest) {}

  // The rows that the taps of `at` reach.
  template <typename T>
  void copy(const Images<const T>& from, const Block& at) {
    first_ = std::max<Index>(0, at.first - s_.reach());
    group_ = at.group;
    const Index last = std::min(s_.height, at.last + s_.reach()), count = at.groups * s_.per_group();
    for (Index y = first_; y < last; ++y) {
      float* target = data_.data() + (y - first_) * s_.pitch() + s_.side();
      if (from.channel == 1 && !s_.interleaved) {
        transpose(from.at(at.image, s_.channel(at.group, 0), y), from.pixel, target, plane_, s_.width, count);
        continue;
      }
      for (Index i = 0; i < count; ++i, target += plane_) {
        const T* source = from.at(at.image, s_.channel(at.group + i / s_.per_group(), i % s_.per_group()), y);
        if (from.pixel == 1)
          laconv::copy(source, target, s_.width);
        else
          for (Index w = 0; w < s_.width; ++w) target[w] = float(source[w * from.pixel]);
      }
    }
  }

  // Pixel 0 of a row; `side` floats before and behind the row may be read, and a vector further for nothing.
  const float* row(Index group, Index i, Index y) const {
    return data_.data() + ((group - group_) * s_.per_group() + i) * plane_ + (y - first_) * s_.pitch() + s_.side();
  }
  Index plane() const { return plane_; }

 private:
  const Shape& s_;
  Index plane_, first_ = 0, group_ = 0;
  std::vector<float> data_;
};

// One row of a few groups' channels on its way to the result.
class Row {
 public:
  Row(const Shape& s, const Blocks& cut) : s_(s), data_(cut.together * s.per_group() * s.width) {}

  float* at(const Block& block, Index group, Index i) {
    return data_.data() + ((group - block.group) * s_.per_group() + i) * s_.width;
  }
  template <typename T>
  void write(const Images<T>& to, const Block& block, Index y) const {
    const Index count = block.groups * s_.per_group();
    const float* source = data_.data();
    if (to.channel == 1 && !s_.interleaved) {
      transpose(source, s_.width, to.at(block.image, s_.channel(block.group, 0), y), to.pixel, count, s_.width);
      return;
    }
    for (Index i = 0; i < count; ++i, source += s_.width) {
      T* target = to.at(block.image, s_.channel(block.group + i / s_.per_group(), i % s_.per_group()), y);
      if (to.pixel == 1)
        copy(source, target, s_.width);
      else
        for (Index w = 0; w < s_.width; ++w) target[w * to.pixel] = T(source[w]);
    }
  }

 private:
  const Shape& s_;
  std::vector<float> data_;
};

// out[ch] = sum over rows r and taps t of filters[r, t] * x[ch, r, t]: forward and grad_x are both this sum. `ahead`:
// how far away the filters lie that are wanted next; a cache can not foresee that of so many planes.
template <int Lanes, int Channels, int Taps, typename T>
inline void accumulate(typename Vector<Lanes>::type* sums, const T* filters, Index filter_tap, Index ahead,
                       const float* x, Index x_plane) {
  typename Vector<Lanes>::type filter[Taps];
  for (int t = 0; t < Taps; ++t) {
    if (ahead) __builtin_prefetch(filters + t * filter_tap + ahead);
    filter[t] = load<Lanes>(filters + t * filter_tap);
  }
  for (int i = 0; i < Channels; ++i)
    windows<Lanes>(x + i * x_plane, std::make_integer_sequence<int, Taps>(),
                   [&](auto t, auto pixels) { sums[i] += filter[t()] * pixels; });
}

template <int Lanes, int Channels, typename T>
inline void accumulate(float* out, Index out_plane, const T* filters, Index filter_row, Index filter_tap, Index ahead,
                       const float* x, Index x_row, Index x_plane, Index rows, Index taps) {
  typename Vector<Lanes>::type sums[Channels] = {};
  tap_blocks(taps, [&](Index t, auto count) {
    for (Index r = 0; r < rows; ++r)
      accumulate<Lanes, Channels, count()>(sums, filters + r * filter_row + t * filter_tap, filter_tap, ahead,
                                           x + r * x_row + t, x_plane);
  });
  for (int i = 0; i < Channels; ++i) store<Lanes>(out + i * out_plane, sums[i]);
}

// out[r, t] = sum over channels of grad[ch] * x[ch, r, t], of channels so few that registers hold all grad. `ahead` as
// above.
template <int Lanes, int Channels, typename T>
inline void correlate_few(T* out, Index out_row, Index out_tap, Index ahead, const float* grad, Index grad_plane,
                          const float* x, Index x_row, Index x_plane, Index rows, Index taps) {
  typename Vector<Lanes>::type upper[Channels];
  for (int i = 0; i < Channels; ++i) upper[i] = load<Lanes>(grad + i * grad_plane);
  for (Index r = 0; r < rows; ++r)
    for (Index t = 0; t < taps; ++t) {
      T* target = out + r * out_row + t * out_tap;
      __builtin_prefetch(target + ahead, 1);
      const float* pixel = x + r * x_row + t;
      typename Vector<Lanes>::type sum = {};
      for (int i = 0; i < Channels; ++i) sum += upper[i] * load<Lanes>(pixel + i * x_plane);
      store<Lanes>(target, sum);
    }
}

// The same of any number of channels: registers hold the sums of some taps.
template <int Lanes, int Rows, int Taps, typename T>
inline void correlate(T* out, Index out_row, Index out_tap, Index ahead, const float* grad, Index grad_plane,
                      const float* x, Index x_row, Index x_plane, Index channels) {
  typename Vector<Lanes>::type sums[Rows][Taps] = {};
  for (int r = 0; r < Rows; ++r)
    for (int t = 0; t < Taps; ++t) __builtin_prefetch(out + r * out_row + t * out_tap + ahead, 1);
  for (Index i = 0; i < channels; ++i) {
    const auto upper = load<Lanes>(grad + i * grad_plane);
    for (int r = 0; r < Rows; ++r)
      for (int t = 0; t < Taps; ++t) sums[r][t] += upper * load<Lanes>(x + i * x_plane + r * x_row + t);
  }
  for (int r = 0; r < Rows; ++r)
    for (int t = 0; t < Taps; ++t) store<Lanes>(out + r * out_row + t * out_tap, sums[r][t]);
}

template <typename T, int Lanes>
class RowsForward {
 public:
  using Tasks = Blocks;

  RowsForward(const Shape& s, const Blocks& cut, const ForwardArguments<T>& all)
      : s_(s), all_(all), x_(s, cut), row_(s, cut) {}

  void operator()(const Block& at) {
    x_.copy(all_.x, at);
    for (Index y = at.first; y < at.last; ++y) {
      for (Index group = at.group; group < at.group + at.groups; ++group) one_row(at, group, y);
      row_.write(all_.out, at, y);
    }
  }

 private:
  void one_row(const Block& at, Index group, Index y) {
    const Reach down(s_, y);
    const Index tap = s_.groups * all_.filters.plane;
    const T* filters = all_.filters.at(at.image, group) + y * s_.width +
                       ((down.first + s_.reach()) * s_.kernel + s_.reach() - s_.side()) * tap;
    along<Lanes>(s_.width, [&](Index w, auto lanes) {
      blocks(s_.per_group(), [&](Index i, auto channels) {
        accumulate<lanes(), channels()>(
            row_.at(at, group, i) + w, s_.width, filters + w, s_.kernel * tap, tap, i ? 0 : s_.width,
            x_.row(group, i, y + down.first) + w - s_.side(), s_.pitch(), x_.plane(), down.count(), s_.taps());
      });
    });
  }

  const Shape& s_;
  const ForwardArguments<T>& all_;
  Rows x_;
  Row row_;
};

template <typename T, int Lanes>
class RowsBackward {
 public:
  using Tasks = Blocks;

  RowsBackward(const Shape& s, const Blocks& cut, const BackwardArguments<T>& all)
      : s_(s), all_(all), grad_(s, cut), x_(s, cut), row_(s, cut), filters_(s.kernel * s.kernel * s.pitch()) {}

  void operator()(const Block& at) {
    grad_.copy(all_.grad, at);
    if (all_.grad_filters.data) x_.copy(all_.x, at);
    for (Index y = at.first; y < at.last; ++y) {
      for (Index group = at.group; group < at.group + at.groups; ++group) {
        if (all_.grad_filters.data) to_filters(at.image, group, y);
        if (all_.grad_x.data) to_x(at, group, y);
      }
      if (all_.grad_x.data) row_.write(all_.grad_x, at, y);
    }
  }

 private:
  void to_filters(Index image, Index group, Index y) {
    const Reach down(s_, y);
    const Index tap = s_.groups * all_.grad_filters.plane;
    T* out = all_.grad_filters.at(image, group) + y * s_.width;
    for (Index t = 0; t < s_.kernel * s_.kernel; ++t) {
      const Index dy = t / s_.kernel - s_.reach(), dx = t % s_.kernel - s_.reach();
      if (dy < down.first || dy > down.last || dx < -s_.side() || dx > s_.side())
        std::fill_n(out + t * tap, s_.width, T(0.0f));
    }
    out += ((down.first + s_.reach()) * s_.kernel + s_.reach() - s_.side()) * tap;
    const bool few = is_block(s_.per_group());
    along<Lanes>(s_.width, [&](Index w, auto lanes) {
      const float* grad = grad_.row(group, 0, y) + w;
      const float* x = x_.row(group, 0, y + down.first) + w - s_.side();
      if (few)
        blocks(s_.per_group(), [&](Index, auto channels) {
          correlate_few<lanes(), channels()>(out + w, s_.kernel * tap, tap, s_.width, grad, grad_.plane(), x,
                                             s_.pitch(), x_.plane(), down.count(), s_.taps());
        });
      else
        row_pairs(down.count(), [&](Index r, auto rows) {
          tap_blocks(s_.taps(), [&](Index t, auto taps) {
            correlate<lanes(), rows(), taps()>(out + w + (r * s_.kernel + t) * tap, s_.kernel * tap, tap, s_.width,
                                               grad, grad_.plane(), x + r * s_.pitch() + t, s_.pitch(), x_.plane(),
                                               s_.per_group());
          });
        });
    });
  }

  // Row q of grad_x takes filters and grad at q - t: the filters get zeros at the sides like grad.
  void to_x(const Block& at, Index group, Index q) {
    const Reach to(s_, q);  // it takes from row q + dy by the tap -dy
    const Index tap = s_.groups * all_.filters.plane;
    const T* from = all_.filters.at(at.image, group);
    float* target = filters_.data() + s_.side();
    for (Index dy = to.first; dy <= to.last; ++dy)
      for (Index dx = -s_.side(); dx <= s_.side(); ++dx, target += s_.pitch()) {
        const T* row = from + ((s_.reach() - dy) * s_.kernel + s_.reach() - dx) * tap + (q + dy) * s_.width;
        for (Index w = 0; w < s_.width; w += kLine) __builtin_prefetch(row + s_.width + w);
        copy(row, target, s_.width);
      }
    along<Lanes>(s_.width, [&](Index w, auto lanes) {
      blocks(s_.per_group(), [&](Index i, auto channels) {
        accumulate<lanes(), channels()>(
            row_.at(at, group, i) + w, s_.width, filters_.data() + w, s_.taps() * s_.pitch(), s_.pitch() + 1, 0,
            grad_.row(group, i, q + to.first) + w - s_.side(), s_.pitch(), grad_.plane(), to.count(), s_.taps());
      });
    });
  }

  const Shape& s_;
  const BackwardArguments<T>& all_;
  Rows grad_, x_;
  Row row_;
  std::vector<float> filters_;  // of one row of grad_x: (rows, taps of a row, pitch)
};

}  // namespace laconv
