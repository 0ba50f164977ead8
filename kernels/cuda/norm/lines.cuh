// Two numbers for each channel of a block's band, joined over the block's lines: always the same halves in the same
// order. In shared memory number i of a thread stands at i * THREADS + thread, without conflicts of banks; no place is
// written twice, so one barrier a round will do.
#pragma once
#include "tiles.cuh"

namespace laconv {

template <int V> constexpr int LINES_BYTES = (2 * V + 1) * THREADS * int(sizeof(float));

// `join(v, first, second, share)` takes the numbers of another line into the thread's own; both lines' weights stand
// behind the numbers, `weight` is the thread's own and counts what it has taken in. The sums are line 0's at the end.
template <int V, class Join>
__device__ __forceinline__ void join_lines(const Tiles& tiles, int line, float (&first)[V], float (&second)[V],
                                           float& weight, const Join& join) {
  float* const shared = reinterpret_cast<float*>(shared_memory());
  const int thread = int(threadIdx.x);
  int span = 1;
  while (span < tiles.lines) span *= 2;
  for (int left = tiles.lines; left > 1; left = span) {
    span /= 2;
    if (line >= span && line < left) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        shared[2 * v * THREADS + thread] = first[v];
        shared[(2 * v + 1) * THREADS + thread] = second[v];
      }
      shared[2 * V * THREADS + thread] = weight;
    }
    __syncthreads();
    const int other = thread + span * tiles.columns;
    if (line < span && line + span < left) {
      const float theirs = shared[2 * V * THREADS + other];
      const float together = weight + theirs;
      const float share = together > 0.f ? theirs / together : 0.f;
#pragma unroll
      for (int v = 0; v < V; ++v)
        join(v, shared[2 * v * THREADS + other], shared[(2 * v + 1) * THREADS + other], weight * share, share);
      weight = together;
    }
  }
  __syncthreads();  // before the next tile writes
}

// The end of both reductions: a block joins the slices of eight channels, sixteen threads each.
constexpr int FINAL_CHANNELS = 8;
constexpr int FINAL_THREADS = THREADS / FINAL_CHANNELS;
constexpr int FINAL_BYTES = THREADS * int(sizeof(double));

// The sum over a channel's threads, the same for all of them; every thread of the block must call.
__device__ __forceinline__ double sum_over_threads(double own) {
  double* const shared = reinterpret_cast<double*>(shared_memory());
  const int channel = int(threadIdx.x) % FINAL_CHANNELS;
  __syncthreads();
  shared[threadIdx.x] = own;
  __syncthreads();
  double sum = 0.0;
  for (int other = 0; other < FINAL_THREADS; ++other) sum += shared[other * FINAL_CHANNELS + channel];
  return sum;
}

}  // namespace laconv
