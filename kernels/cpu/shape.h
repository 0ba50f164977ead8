// The layer, its tensors and how the work is cut (shape legend: kernels/plain/taps.py).

#pragma once

#include <algorithm>
#include <cstdint>

namespace laconv {

using Index = std::int64_t;

constexpr Index kLine = 16;  // floats of a cache line

struct Shape {
  Index batch, channels, height, width, kernel, groups;
  bool interleaved;

  explicit Shape(const Index* s)
      : batch(s[0]), channels(s[1]), height(s[2]), width(s[3]), kernel(s[4]), groups(s[5]), interleaved(s[6]) {}

  Index per_group() const { return channels / groups; }
  Index pixels() const { return height * width; }
  Index reach() const { return kernel / 2; }
  Index side() const { return std::min(reach(), width - 1); }  // farther taps meet no pixel of the image
  Index pitch() const { return width + 2 * side(); }
  Index taps() const { return 2 * side() + 1; }  // of a row
  Index channel(Index group, Index i) const { return interleaved ? i * groups + group : group * per_group() + i; }
  Index macs() const { return batch * channels * pixels() * kernel * kernel; }
};

template <typename T>
struct Images {  // any strides, in elements
  T* data;
  Index image, channel, row, pixel;

  Images(T* data, const Index* s) : data(data), image(s[0]), channel(s[1]), row(s[2]), pixel(s[3]) {}
  T* at(Index b, Index ch, Index y) const { return data + b * image + ch * channel + y * row; }
};

template <typename T>
struct Planes {  // rows and pixels of a plane contiguous
  T* data;
  Index image, plane;

  Planes(T* data, const Index* s) : data(data), image(s[0]), plane(s[1]) {}
  T* at(Index b, Index plane_index) const { return data + b * image + plane_index * plane; }
};

template <typename T>
struct ForwardArguments {
  using Number = T;
  Images<const T> x;
  Planes<const T> filters;
  Images<T> out;
};

template <typename T>
struct BackwardArguments {
  using Number = T;
  Images<const T> grad, x;
  Planes<const T> filters;
  Images<T> grad_x;  // without data it is not computed; nor is the next
  Planes<T> grad_filters;
};

}  // namespace laconv
