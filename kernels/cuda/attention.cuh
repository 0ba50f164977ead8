// The weights of an attention from places to words: a softmax over the words that are real, and dropout, in one pass
// over the scores (images, heads, words, places). A thread owns a place of a head; neighbouring threads load
// neighbouring places of one word, and what a block reads again stays in the cache next to it. Only scores are kept
// for the gradient: weights and mask are made again.
#pragma once
#include <math.h>

#include "mask.cuh"

namespace laconv {

struct AttentionParameters {
  const void* scores;
  const void* grad;
  void* result;
  const uint8_t* real;  // (images, words)
  int64_t heads, words, places, total;  // total: images * heads * places
  MaskRule rule;
};

// Room for 64 registers a thread: left to itself, nvcc 13 aims at 32 for sm_80 and spills.
constexpr int ATTENTION_BLOCKS = 8;  // of a multiprocessor

// What a thread knows of its place of a head. A place without a real word has weights of zero.
template <class T> struct Attended {
  const uint8_t* real;
  int64_t words, places, first, first_of_image;  // elements: of word 0, within all images and within its own
  float highest = -INFINITY, sum = 0.f;
  Key key{};

  __device__ __forceinline__ Attended(const AttentionParameters& parameters, int64_t item)
      : words(parameters.words), places(parameters.places) {
    const int64_t head = int64_t(uint64_t(item) / uint64_t(places));  // of all images
    const int64_t image = int64_t(uint64_t(head) / uint64_t(parameters.heads)), place = item - head * places;
    first = head * words * places + place;
    first_of_image = (head - image * parameters.heads) * words * places + place;
    real = parameters.real + image * words;
    if (parameters.rule.keys) key = mask_key(parameters.rule, image);
    const T* const scores = static_cast<const T*>(parameters.scores) + first;
    for (int64_t word = 0; word < words; ++word) {
      const float score = real[word] ? widen(load_constant<T>(scores + word * places)) : -INFINITY;
      if (score > highest || score != score) highest = score;  // what is no number stays none
    }
    for (int64_t word = 0; word < words; ++word)
      if (real[word]) sum += expf(widen(load_constant<T>(scores + word * places)) - highest);
  }

  // Before dropout.
  __device__ __forceinline__ float weight(const T* scores, int64_t word) const {
    return real[word] ? expf(widen(load_constant<T>(scores + first + word * places)) - highest) / sum : 0.f;
  }

  // What dropout multiplies the weight of a word by.
  __device__ __forceinline__ float factor(const MaskRule& rule, int64_t word) const {
    if (!rule.keys) return 1.f;
    const uint64_t element = uint64_t(first_of_image + word * places);
    const Bits128 bits = element_bits(key, element / MASK_BYTES);
    uint32_t byte = 0;
#pragma unroll
    for (int i = 0; i < MASK_BYTES; ++i)  // an index that is known keeps the words in registers
      if (unsigned(i) == element % MASK_BYTES) byte = bits.byte(i);
    return byte < rule.threshold ? 0.f : float(rule.scale);
  }
};

template <class T>
__global__ void __launch_bounds__(THREADS, ATTENTION_BLOCKS)
    attention_weights(const AttentionParameters parameters) {
  const T* const scores = static_cast<const T*>(parameters.scores);
  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.total;
       item += int64_t(gridDim.x) * THREADS) {
    const Attended<T> attended(parameters, item);
    T* const result = static_cast<T*>(parameters.result) + attended.first;
    for (int64_t word = 0; word < attended.words; ++word) {
      const float factor = attended.factor(parameters.rule, word);
      result[word * attended.places] = narrowed<T>(factor == 0.f ? 0.f : attended.weight(scores, word) * factor);
    }
  }
}

// weight * (g - sum of weight * g over the words), g the gradient of the weights before dropout.
template <class T>
__global__ void __launch_bounds__(THREADS, ATTENTION_BLOCKS)
    attention_weights_backward(const AttentionParameters parameters) {
  const T* const scores = static_cast<const T*>(parameters.scores);
  for (int64_t item = int64_t(blockIdx.x) * THREADS + threadIdx.x; item < parameters.total;
       item += int64_t(gridDim.x) * THREADS) {
    const Attended<T> attended(parameters, item);
    const T* const above = static_cast<const T*>(parameters.grad) + attended.first;
    T* const result = static_cast<T*>(parameters.result) + attended.first;
    const auto before_dropout = [&](int64_t word) {
      const float factor = attended.factor(parameters.rule, word);
      return factor == 0.f ? 0.f : widen(load_constant<T>(above + word * attended.places)) * factor;
    };
    float inner = 0.f;
    for (int64_t word = 0; word < attended.words; ++word)
      if (attended.real[word]) inner = fmaf(attended.weight(scores, word), before_dropout(word), inner);
    for (int64_t word = 0; word < attended.words; ++word) {
      const float found = attended.weight(scores, word) * (before_dropout(word) - inner);
      result[word * attended.places] = narrowed<T>(attended.real[word] ? found : 0.f);
    }
  }
}

template <class T> int attention_any(const laconv_attention_args& args, bool backward, void* stream) {
  constexpr int64_t MOST = INT64_MAX / 16;
  int64_t total = 1;
  for (const int64_t side : {args.images, args.heads, args.words, args.places}) {
    if (side < 0 || (side > 0 && total > MOST / side)) return LACONV_BAD_SIZE;
    total *= side > 0 ? side : 1;
  }
  if (args.keys && (args.threshold < 1 || args.threshold > 255)) return LACONV_BAD_THRESHOLD;
  const int64_t items = args.words ? args.images * args.heads * args.places : 0;
  const MaskRule rule{args.keys, uint32_t(args.threshold), 256.0 / double(256 - args.threshold)};
  const AttentionParameters parameters{args.scores, args.grad,  args.result, args.real, args.heads,
                                       args.words,  args.places, items,       rule};
  return launch(backward ? attention_weights_backward<T> : attention_weights<T>, divided_up(items, THREADS), 0, stream,
                parameters);
}

}  // namespace laconv
