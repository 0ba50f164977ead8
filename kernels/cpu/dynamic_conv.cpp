// Dynamic convolution on the CPU in float32 (v2 Eq. 2), with vectors along a row of pixels.
//
//   out[ch, p]              = sum_t  filters[t, group(ch), p] * x[ch, p + t]
//   grad_x[ch, q]           = sum_t  filters[t, group(ch), q - t] * grad[ch, q - t]
//   grad_filters[t, gr, p]  = sum_{ch of gr}  grad[ch, p] * x[ch, p + t]
//
// With filters in planes (one plane a tap and group) all three are multiply-adds of rows that lie contiguously: nothing
// is shuffled, and one load of filters serves up to eight channels, whose sums stay in registers. A task is (picture, a
// few groups, block of rows): it copies its rows of x and grad into scratch that stays in the cache, zeros left and
// right of each row, so that the inner loops know no borders. Every number is computed by one task in one order: results
// do not depend on the number of threads. No header of PyTorch is used.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using Index = std::int64_t;

constexpr Index kScratch = 1 << 16;  // floats of one copied map: half of a common second-level cache
constexpr Index kLine = 16;          // floats of a cache line
constexpr Index kShare = 1 << 20;    // multiply-adds that are worth a thread: to start one costs a tenth of that

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

struct Shape {
  Index batch, channels, height, width, kernel, groups;
  bool interleaved;

  explicit Shape(const Index* s)
      : batch(s[0]), channels(s[1]), height(s[2]), width(s[3]), kernel(s[4]), groups(s[5]), interleaved(s[6]) {}

  Index per_group() const { return channels / groups; }
  Index reach() const { return kernel / 2; }
  Index side() const { return std::min(reach(), width - 1); }  // farther taps meet no pixel of the picture
  Index pitch() const { return width + 2 * side(); }
  Index taps() const { return 2 * side() + 1; }  // of a row
  Index channel(Index group, Index i) const { return interleaved ? i * groups + group : group * per_group() + i; }
};

template <typename T>
struct Pictures {  // any strides, in elements
  T* data;
  Index image, channel, row, pixel;

  Pictures(T* data, const Index* s) : data(data), image(s[0]), channel(s[1]), row(s[2]), pixel(s[3]) {}
  T* at(Index b, Index ch, Index y) const { return data + b * image + ch * channel + y * row; }
};

template <typename T>
struct Planes {  // rows and pixels of a plane contiguous
  T* data;
  Index image, plane;

  Planes(T* data, const Index* s) : data(data), image(s[0]), plane(s[1]) {}
  T* at(Index b, Index group) const { return data + b * image + group * plane; }
};

// The rows that the taps of row y reach: y + first .. y + last lie inside the picture.
struct Reach {
  Index first, last;

  Reach(const Shape& s, Index y) : first(std::max(-s.reach(), -y)), last(std::min(s.reach(), s.height - 1 - y)) {}
  Index count() const { return last - first + 1; }
};

struct Place {
  Index image, group, groups, first, last;  // rows [first, last) of groups [group, group + groups)
};

// How the work is cut into tasks.
struct Tasks {
  Index together, sets, rows, row_blocks, count, copied;

  explicit Tasks(const Shape& s) {
    // Groups narrower than a cache line are taken together, or channels-last pictures would be read once a group.
    together = s.interleaved ? 1 : std::clamp<Index>(kLine / s.per_group(), 1, s.groups);
    sets = (s.groups + together - 1) / together;
    const Index fitting = kScratch / (together * s.per_group() * s.pitch()) - 2 * s.reach();
    rows = std::min(std::max<Index>(fitting, 8), s.height);
    row_blocks = (s.height + rows - 1) / rows;
    count = s.batch * sets * row_blocks;
    copied = std::min(s.height, rows + 2 * s.reach());
  }

  Place place(const Shape& s, Index index) const {
    const Index first = index % row_blocks * rows, set = index / row_blocks % sets, group = set * together;
    return {index / row_blocks / sets, group, std::min(together, s.groups - group), first,
            std::min(first + rows, s.height)};
  }
};

// A copy of some rows of a few groups, with zeros at both sides of each row.
class Rows {
 public:
  Rows(const Shape& s, const Tasks& tasks)
      : s_(s), plane_(tasks.copied * s.pitch()), data_(tasks.together * s.per_group() * plane_) {}

  // The rows that the taps of `at` reach.
  void copy(const Pictures<const float>& from, const Place& at) {
    first_ = std::max<Index>(0, at.first - s_.reach());
    group_ = at.group;
    const Index last = std::min(s_.height, at.last + s_.reach());
    for (Index y = first_; y < last; ++y)
      for (Index group = at.group; group < at.group + at.groups; ++group)
        for (Index i = 0; i < s_.per_group(); ++i) {
          const float* source = from.at(at.image, s_.channel(group, i), y);
          float* target = data_.data() + place(group, i, y);
          if (from.pixel == 1)
            std::memcpy(target, source, s_.width * sizeof(float));
          else
            for (Index w = 0; w < s_.width; ++w) target[w] = source[w * from.pixel];
        }
  }

  // Pixel 0 of a row; `side` floats before and behind the row may be read.
  const float* row(Index group, Index i, Index y) const {
    return data_.data() + place(group, i, y);
  }
  Index plane() const { return plane_; }

 private:
  Index place(Index group, Index i, Index y) const {
    return ((group - group_) * s_.per_group() + i) * plane_ + (y - first_) * s_.pitch() + s_.side();
  }

  const Shape& s_;
  Index plane_, first_ = 0, group_ = 0;
  std::vector<float> data_;
};

// One row of a group's channels on its way to the result.
class Row {
 public:
  explicit Row(const Shape& s) : s_(s), data_(s.per_group() * s.width) {}

  float* at(Index i) { return data_.data() + i * s_.width; }
  void write(const Pictures<float>& to, Index image, Index group, Index y) const {
    for (Index i = 0; i < s_.per_group(); ++i) {
      const float* source = data_.data() + i * s_.width;
      float* target = to.at(image, s_.channel(group, i), y);
      if (to.pixel == 1)
        std::memcpy(target, source, s_.width * sizeof(float));
      else
        for (Index w = 0; w < s_.width; ++w) target[w * to.pixel] = source[w];
    }
  }

 private:
  const Shape& s_;
  std::vector<float> data_;
};

// Calls work(w) for vectors [w, w + Lanes) that cover a row; the last may overlap the one before.
template <int Lanes, typename Work>
inline void along(Index width, Work work) {
  for (Index w = 0; w < width; w += Lanes) work(std::min(w, width - Lanes));
}

// Calls work(first channel, their number as a constant) for blocks that cover n channels.
template <typename Work>
inline void blocks(Index n, Work work) {
  Index i = 0;
  for (; i + 8 <= n; i += 8) work(i, std::integral_constant<int, 8>());
  if (n & 4) work(i, std::integral_constant<int, 4>()), i += 4;
  if (n & 2) work(i, std::integral_constant<int, 2>()), i += 2;
  if (n & 1) work(i, std::integral_constant<int, 1>());
}

// out[ch] = sum over rows r and taps t of filters[r, t] * x[ch, r, t]: forward and grad_x are both this sum.
template <int Lanes, int Channels>
inline void accumulate(float* out, Index out_plane, const float* filters, Index filter_row, Index filter_tap,
                       const float* x, Index x_row, Index x_plane, Index rows, Index taps) {
  typename Vector<Lanes>::type sums[Channels] = {};
  for (Index r = 0; r < rows; ++r)
    for (Index t = 0; t < taps; ++t) {
      const auto filter = load<Lanes>(filters + r * filter_row + t * filter_tap);
      const float* pixel = x + r * x_row + t;
      for (int i = 0; i < Channels; ++i) sums[i] += filter * load<Lanes>(pixel + i * x_plane);
    }
  for (int i = 0; i < Channels; ++i) store<Lanes>(out + i * out_plane, sums[i]);
}

// out[r, t] = (out[r, t] where `add`) + sum over channels of grad[ch] * x[ch, r, t].
template <int Lanes, int Channels>
inline void correlate(float* out, Index out_row, Index out_tap, const float* grad, Index grad_plane, const float* x,
                      Index x_row, Index x_plane, Index rows, Index taps, bool add) {
  typename Vector<Lanes>::type upper[Channels];
  for (int i = 0; i < Channels; ++i) upper[i] = load<Lanes>(grad + i * grad_plane);
  for (Index r = 0; r < rows; ++r)
    for (Index t = 0; t < taps; ++t) {
      float* target = out + r * out_row + t * out_tap;
      const float* pixel = x + r * x_row + t;
      typename Vector<Lanes>::type sum = {};
      if (add) sum = load<Lanes>(target);
      for (int i = 0; i < Channels; ++i) sum += upper[i] * load<Lanes>(pixel + i * x_plane);
      store<Lanes>(target, sum);
    }
}

struct ForwardArguments {
  Pictures<const float> x;
  Planes<const float> filters;
  Pictures<float> out;
};

template <int Lanes>
class Forward {
 public:
  Forward(const Shape& s, const Tasks& tasks, const ForwardArguments& all) : s_(s), all_(all), x_(s, tasks), row_(s) {}

  void operator()(const Place& at) {
    x_.copy(all_.x, at);
    for (Index group = at.group; group < at.group + at.groups; ++group)
      for (Index y = at.first; y < at.last; ++y) one_row(at.image, group, y);
  }

 private:
  void one_row(Index image, Index group, Index y) {
    const Reach down(s_, y);
    const Index tap = s_.groups * all_.filters.plane;
    const float* filters = all_.filters.at(image, group) + y * s_.width +
                           ((down.first + s_.reach()) * s_.kernel + s_.reach() - s_.side()) * tap;
    along<Lanes>(s_.width, [&](Index w) {
      blocks(s_.per_group(), [&](Index i, auto channels) {
        accumulate<Lanes, channels()>(row_.at(i) + w, s_.width, filters + w, s_.kernel * tap, tap,
                                      x_.row(group, i, y + down.first) + w - s_.side(), s_.pitch(), x_.plane(),
                                      down.count(), s_.taps());
      });
    });
    row_.write(all_.out, image, group, y);
  }

  const Shape& s_;
  const ForwardArguments& all_;
  Rows x_;
  Row row_;
};

struct BackwardArguments {
  Pictures<const float> grad, x;
  Planes<const float> filters;
  Pictures<float> grad_x;
  Planes<float> grad_filters;
};

template <int Lanes>
class Backward {
 public:
  Backward(const Shape& s, const Tasks& tasks, const BackwardArguments& all)
      : s_(s), all_(all), grad_(s, tasks), x_(s, tasks), row_(s), filters_(s.kernel * s.kernel * s.pitch()) {}

  void operator()(const Place& at) {
    grad_.copy(all_.grad, at);
    x_.copy(all_.x, at);
    for (Index group = at.group; group < at.group + at.groups; ++group)
      for (Index y = at.first; y < at.last; ++y) {
        to_filters(at.image, group, y);
        to_x(at.image, group, y);
      }
  }

 private:
  void to_filters(Index image, Index group, Index y) {
    const Reach down(s_, y);
    const Index tap = s_.groups * all_.grad_filters.plane;
    float* out = all_.grad_filters.at(image, group) + y * s_.width;
    for (Index t = 0; t < s_.kernel * s_.kernel; ++t) {
      const Index dy = t / s_.kernel - s_.reach(), dx = t % s_.kernel - s_.reach();
      if (dy < down.first || dy > down.last || dx < -s_.side() || dx > s_.side())
        std::fill_n(out + t * tap, s_.width, 0.0f);
    }
    out += ((down.first + s_.reach()) * s_.kernel + s_.reach() - s_.side()) * tap;
    along<Lanes>(s_.width, [&](Index w) {
      blocks(s_.per_group(), [&](Index i, auto channels) {
        correlate<Lanes, channels()>(out + w, s_.kernel * tap, tap, grad_.row(group, i, y) + w, grad_.plane(),
                                     x_.row(group, i, y + down.first) + w - s_.side(), s_.pitch(), x_.plane(),
                                     down.count(), s_.taps(), i > 0);
      });
    });
  }

  // Row q of grad_x takes filters and grad at q - t: the filters get zeros at the sides like grad.
  void to_x(Index image, Index group, Index q) {
    const Reach to(s_, q);  // it takes from row q + dy by the tap -dy
    const Index tap = s_.groups * all_.filters.plane;
    const float* from = all_.filters.at(image, group);
    float* target = filters_.data() + s_.side();
    for (Index dy = to.first; dy <= to.last; ++dy)
      for (Index dx = -s_.side(); dx <= s_.side(); ++dx, target += s_.pitch())
        std::memcpy(target, from + ((s_.reach() - dy) * s_.kernel + s_.reach() - dx) * tap + (q + dy) * s_.width,
                    s_.width * sizeof(float));
    along<Lanes>(s_.width, [&](Index w) {
      blocks(s_.per_group(), [&](Index i, auto channels) {
        accumulate<Lanes, channels()>(row_.at(i) + w, s_.width, filters_.data() + w, s_.taps() * s_.pitch(),
                                      s_.pitch() + 1, grad_.row(group, i, q + to.first) + w - s_.side(), s_.pitch(),
                                      grad_.plane(), to.count(), s_.taps());
      });
    });
    row_.write(all_.grad_x, image, group, q);
  }

  const Shape& s_;
  const BackwardArguments& all_;
  Rows grad_, x_;
  Row row_;
  std::vector<float> filters_;  // of one row of grad_x: (rows, taps of a row, pitch)
};

// Runs work(index) for all indices below `count` on `threads` threads, this one included; `make` gives each thread its
// own work. False where memory ran out.
template <typename Make>
bool run(Index count, Index threads, Make make) {
  std::atomic<Index> next{0};
  std::atomic<bool> failed{false};
  const auto thread = [&] {
    try {
      auto work = make();
      for (Index index; (index = next++) < count;) work(index);
    } catch (const std::exception&) {
      failed = true;
    }
  };
  std::vector<std::thread> others;
  try {
    for (Index i = 1; i < std::min(threads, count); ++i) others.emplace_back(thread);
  } catch (const std::exception&) {
    // The threads that could be started do it all.
  }
  thread();
  for (auto& other : others) other.join();
  return !failed;
}

template <typename Work, typename Arguments>
int start(const Shape& s, const Arguments& all, Index threads) {
  const Tasks tasks(s);
  const Index macs = s.batch * s.channels * s.height * s.width * s.kernel * s.kernel;
  const bool done = run(tasks.count, std::min(threads, 1 + macs / kShare), [&] {
    return [&s, &tasks, work = Work(s, tasks, all)](Index index) mutable { work(tasks.place(s, index)); };
  });
  return done ? 0 : 1;
}

template <template <int> class Work, typename Arguments>
int by_width(const Shape& s, const Arguments& all, Index threads) {
  if (s.width >= 8) return start<Work<8>>(s, all, threads);
  if (s.width >= 4) return start<Work<4>>(s, all, threads);
  return start<Work<1>>(s, all, threads);
}

inline std::uint32_t mixed(std::uint32_t h) {
  h = (h ^ (h >> 16)) * 0x7feb352du;
  h = (h ^ (h >> 15)) * 0x846ca68bu;
  return h ^ (h >> 16);
}

}  // namespace

// All return 0, or 1 where memory ran out. shape: batch, channels, height, width, kernel, groups, interleaved; strides
// of pictures: image, channel, row, pixel; strides of filters: image, plane.

extern "C" int laconv_cpu_forward(const Index* shape, const float* x, const Index* x_strides, const float* filters,
                                  const Index* filter_strides, float* out, const Index* out_strides, Index threads) {
  const ForwardArguments all{{x, x_strides}, {filters, filter_strides}, {out, out_strides}};
  return by_width<Forward>(Shape(shape), all, threads);
}

extern "C" int laconv_cpu_backward(const Index* shape, const float* grad, const Index* grad_strides, const float* x,
                                   const Index* x_strides, const float* filters, const Index* filter_strides,
                                   float* grad_x, const Index* grad_x_strides, float* grad_filters,
                                   const Index* grad_filter_strides, Index threads) {
  const BackwardArguments all{{grad, grad_strides},
                              {x, x_strides},
                              {filters, filter_strides},
                              {grad_x, grad_x_strides},
                              {grad_filters, grad_filter_strides}};
  return by_width<Backward>(Shape(shape), all, threads);
}

// Drops values of filters as `kernels.dropout` says: a value is zero where the hash of its place under the picture's
// key is below `threshold`, else multiplied by `scale`.
extern "C" int laconv_cpu_dropout(float* filters, const Index* filter_strides, Index images, Index planes, Index pixels,
                                  const std::uint64_t* keys, std::uint32_t threshold, float scale, Index threads) {
  const Planes<float> all(filters, filter_strides);
  const bool done = run(images * planes, std::min(threads, 1 + images * planes * pixels / kShare), [&] {
    return [&](Index index) {
      const std::uint64_t key = keys[index / planes];
      const auto low = static_cast<std::uint32_t>(key), high = static_cast<std::uint32_t>(key >> 32);
      const auto first = static_cast<std::uint32_t>(index % planes * pixels);
      float* values = all.at(index / planes, index % planes);
      for (Index i = 0; i < pixels; ++i) {
        const std::uint32_t hash = mixed(mixed((first + static_cast<std::uint32_t>(i)) ^ low) ^ high);
        values[i] = hash < threshold ? 0.0f : values[i] * scale;
      }
    };
  });
  return done ? 0 : 1;
}
