// Dynamic convolution of maps so small that every pixel's kernel covers all of them.
//
// The filters of one image and group are then a full matrix T[p, q] = filters[tap(q - p), p] over its P pixels, without
// borders, and all three sums of `dynamic_conv.cpp` are small matrix products:
//
//   out = T X,  grad_x = T^T G,  grad_filters[tap(q - p), p] = (G X^T)[p, q]      X, G: (P, channels of the group)

#pragma once

#include <new>
#include <vector>

#include "shape.h"
#include "vectors.h"

namespace laconv {

inline bool is_whole(const Shape& s) { return s.reach() >= s.height - 1 && s.reach() >= s.width - 1; }

struct ImageGroup {
  Index image, group;
};

struct ImageGroups {
  Index groups, count;

  explicit ImageGroups(const Shape& s) : groups(s.groups), count(s.batch * s.groups) {}
  ImageGroup place(Index index) const { return {index / groups, index % groups}; }
};

constexpr int kLanes = 8;

// Memory that begins with a cache line: else it is chance whether vectors cross from one to the next.
template <typename T>
struct Aligned {
  using value_type = T;

  Aligned() = default;
  template <typename Other>
  Aligned(const Aligned<Other>&) {}
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(kLine * sizeof(float))));
  }
  void deallocate(T* data, std::size_t) { ::operator delete(data, std::align_val_t(kLine * sizeof(float))); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};

// A small matrix whose rows are filled up with zeros to whole vectors.
class Matrix {
 public:
  Matrix(Index rows, Index columns)
      : rows(rows), columns(columns), pitch((columns + kLanes - 1) / kLanes * kLanes), data_(rows * pitch) {}

  float* row(Index r) { return data_.data() + r * pitch; }
  const float* row(Index r) const { return data_.data() + r * pitch; }

  const Index rows, columns, pitch;

 private:
  std::vector<float, Aligned<float>> data_;
};

// c = a b; each number of c is one sum in the order of a's columns.
inline void multiply(const Matrix& a, const Matrix& b, Matrix& c) {
  blocks(a.rows, [&](Index r, auto count) {
    for (Index w = 0; w < b.pitch; w += kLanes) {
      typename Vector<kLanes>::type sums[count()] = {};
      for (Index k = 0; k < a.columns; ++k) {
        const auto value = load<kLanes>(b.row(k) + w);
        for (int i = 0; i < count(); ++i) sums[i] += a.row(r + i)[k] * value;
      }
      for (int i = 0; i < count(); ++i) store<kLanes>(c.row(r + i) + w, sums[i]);
    }
  });
}

class Group {  // of one image: how its pixels, channels and filters lie
 public:
  explicit Group(const Shape& s) : s_(s) {
    for (Index p = 0; p < s.pixels(); ++p)
      for (Index q = 0; q < s.pixels(); ++q) {
        const Index down = q / s.width - p / s.width, right = q % s.width - p % s.width;
        taps_.push_back((down + s.reach()) * s.kernel + right + s.reach());
      }
  }

  Index tap(Index p, Index q) const { return taps_[p * s_.pixels() + q]; }

  // (P, channels of the group)
  template <typename T>
  void read(const Images<const T>& from, const ImageGroup& at, Matrix& to) const {
    each(from, at, [&](Index p, Index i, const T* value) { to.row(p)[i] = float(*value); });
  }
  template <typename T>
  void write(const Matrix& from, const ImageGroup& at, const Images<T>& to) const {
    each(to, at, [&](Index p, Index i, T* value) { *value = T(from.row(p)[i]); });
  }

 private:
  template <typename T, typename Work>
  void each(const Images<T>& images, const ImageGroup& at, Work work) const {
    const Index step = s_.interleaved ? s_.groups * images.channel : images.channel;
    for (Index p = 0; p < s_.pixels(); ++p) {
      T* first = images.at(at.image, s_.channel(at.group, 0), p / s_.width) + p % s_.width * images.pixel;
      for (Index i = 0; i < s_.per_group(); ++i) work(p, i, first + i * step);
    }
  }

  const Shape& s_;
  std::vector<Index> taps_;
};

template <typename T>
class WholeForward {
 public:
  using Tasks = ImageGroups;

  WholeForward(const Shape& s, const ImageGroups&, const ForwardArguments<T>& all)
      : s_(s), all_(all), group_(s), filters_(s.pixels(), s.pixels()), x_(s.pixels(), s.per_group()), out_(x_) {}

  void operator()(const ImageGroup& at) {
    const T* filters = all_.filters.at(at.image, at.group);
    const Index tap = s_.groups * all_.filters.plane;
    for (Index p = 0; p < s_.pixels(); ++p)
      for (Index q = 0; q < s_.pixels(); ++q) filters_.row(p)[q] = float(filters[group_.tap(p, q) * tap + p]);
    group_.read(all_.x, at, x_);
    multiply(filters_, x_, out_);
    group_.write(out_, at, all_.out);
  }

 private:
  const Shape& s_;
  const ForwardArguments<T>& all_;
  Group group_;
  Matrix filters_, x_, out_;
};

template <typename T>
class WholeBackward {
 public:
  using Tasks = ImageGroups;

  WholeBackward(const Shape& s, const ImageGroups&, const BackwardArguments<T>& all)
      : s_(s),
        all_(all),
        group_(s),
        grad_(s.pixels(), s.per_group()),
        x_(grad_),
        by_channel_(s.per_group(), s.pixels()),
        filters_(s.pixels(), s.pixels()),
        grad_x_(grad_),
        grad_filters_(filters_) {}

  void operator()(const ImageGroup& at) {
    group_.read(all_.grad, at, grad_);
    if (all_.grad_x.data) to_x(at);
    if (all_.grad_filters.data) to_filters(at);
  }

 private:
  void to_x(const ImageGroup& at) {
    const T* filters = all_.filters.at(at.image, at.group);
    const Index tap = s_.groups * all_.filters.plane;
    for (Index q = 0; q < s_.pixels(); ++q)
      for (Index p = 0; p < s_.pixels(); ++p) filters_.row(q)[p] = float(filters[group_.tap(p, q) * tap + p]);
    multiply(filters_, grad_, grad_x_);
    group_.write(grad_x_, at, all_.grad_x);
  }

  void to_filters(const ImageGroup& at) {
    group_.read(all_.x, at, x_);
    transpose(x_.row(0), x_.pitch, by_channel_.row(0), by_channel_.pitch, s_.pixels(), s_.per_group());
    multiply(grad_, by_channel_, grad_filters_);
    T* out = all_.grad_filters.at(at.image, at.group);
    const Index tap = s_.groups * all_.grad_filters.plane;
    for (Index t = 0; t < s_.kernel * s_.kernel; ++t) std::fill_n(out + t * tap, s_.pixels(), T(0.0f));
    for (Index p = 0; p < s_.pixels(); ++p)
      for (Index q = 0; q < s_.pixels(); ++q) out[group_.tap(p, q) * tap + p] = T(grad_filters_.row(p)[q]);
  }

  const Shape& s_;
  const BackwardArguments<T>& all_;
  Group group_;
  Matrix grad_, x_, by_channel_, filters_, grad_x_, grad_filters_;
};

}  // namespace laconv
