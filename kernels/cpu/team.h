// Threads that share out the tasks of a call.

#pragma once

#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "shape.h"

namespace laconv {

constexpr Index kShare = 1 << 18;  // multiply-adds that are worth waking a thread

// GOMP_parallel of the OpenMP runtime that the process has loaded already (PyTorch's, in GNU's, LLVM's or Intel's
// making): its threads stand by, while new ones must be started and fight with them for the cores. Null: none is there.
using Parallel = void (*)(void (*work)(void*), void* data, unsigned threads, unsigned flags);
inline Parallel parallel = nullptr;

// Runs work(index) for all indices below `count` on so many threads, this one included; `make` gives each thread its own
// work. False where memory ran out.
template <typename Make>
bool run(Index count, Index threads, Make make) {
  std::atomic<Index> next{0};
  std::atomic<bool> failed{false};
  auto thread = [&] {
    try {
      auto work = make();
      for (Index index; (index = next++) < count;) work(index);
    } catch (const std::exception&) {
      failed = true;
    }
  };
  threads = std::min(threads, count);
  if (threads > 1 && parallel) {
    parallel([](void* one) { (*static_cast<decltype(thread)*>(one))(); }, &thread, static_cast<unsigned>(threads), 0);
    return !failed;
  }
  std::vector<std::thread> others;
  try {
    for (Index i = 1; i < threads; ++i) others.emplace_back(thread);
  } catch (const std::exception&) {
    // The threads that could be started do it all.
  }
  thread();
  for (auto& other : others) other.join();
  return !failed;
}

template <typename Work, typename Arguments>
bool run(const Shape& s, const Arguments& all, Index threads) {
  const typename Work::Tasks tasks(s);
  return run(tasks.count, std::min(threads, 1 + s.macs() / kShare), [&] {
    return [&tasks, work = Work(s, tasks, all)](Index index) mutable { work(tasks.place(index)); };
  });
}

}  // namespace laconv
