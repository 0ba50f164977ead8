// What an emulated launch reads and writes, counted while `counting` is on:
//     bytes of device memory that blocks read, each 32-byte sector once a block (the caches hold what a block reads again)
//     bytes of device memory that are written
//     wavefronts of shared memory: a warp's access of 4, 8 or 16 bytes a lane takes 1, 2 or 4 phases of 32, 16 or 8 lanes,
//     and a phase as many wavefronts as different words lie in its fullest bank (32 banks, 4 bytes wide)
//     phases: what the wavefronts would be without any conflict
// Lanes' accesses of one line are put together by their number: the n-th of each lane is one access of the warp.
#pragma once
#include <array>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace emulation {

struct Counts {
  int64_t read, written, wavefronts, phases;
};

struct WarpAccess {
  size_t bytes = 0;
  std::array<const char*, LANES> address{};
};

constexpr uintptr_t SECTOR = 32;
constexpr int BANKS = 32, WORD = 4;

inline bool counting = false;
inline Counts counts;
inline std::unordered_set<uintptr_t> sectors;                            // read by this block
inline std::vector<std::unordered_map<int, int>> numbers;                // by thread and line: accesses so far
inline std::map<std::pair<unsigned, std::pair<int, int>>, WarpAccess> accesses;  // by warp, line and number

inline void count_shared(const void* address, size_t bytes, int line) {
  const unsigned thread = threadIdx.x;
  WarpAccess& access = accesses[{thread / LANES, {line, numbers[thread][line]++}}];
  access.bytes = bytes;
  access.address[thread % LANES] = static_cast<const char*>(address);
}

inline void count_read(const void* address, size_t bytes, int line) {
  if (!counting) return;
  if (in_block_memory(address)) return count_shared(address, bytes, line);
  const uintptr_t first = reinterpret_cast<uintptr_t>(address);
  for (uintptr_t sector = first / SECTOR; sector <= (first + bytes - 1) / SECTOR; ++sector) sectors.insert(sector);
}

inline void count_written(const void* address, size_t bytes, int line) {
  if (!counting) return;
  if (in_block_memory(address)) count_shared(address, bytes, line);
  else counts.written += int64_t(bytes);
}

inline void count_phases(const WarpAccess& access) {
  const unsigned lanes = unsigned(LANES * WORD / max(size_t(WORD), access.bytes));
  for (unsigned first = 0; first < LANES; first += lanes) {
    std::array<std::set<uintptr_t>, BANKS> banks;
    for (unsigned lane = first; lane < first + lanes; ++lane)
      for (size_t byte = 0; access.address[lane] && byte < access.bytes; byte += WORD) {
        const uintptr_t word = reinterpret_cast<uintptr_t>(access.address[lane] + byte) / WORD;
        banks[word % BANKS].insert(word);
      }
    size_t fullest = 0;
    for (const auto& bank : banks) fullest = max(fullest, bank.size());
    counts.wavefronts += int64_t(fullest);
    counts.phases += fullest > 0;
  }
}

inline void begin_block(unsigned threads) {
  sectors.clear();
  accesses.clear();
  numbers.assign(threads, {});
}

inline void end_block() {
  if (!counting) return;
  counts.read += int64_t(sectors.size() * SECTOR);
  for (const auto& access : accesses) count_phases(access.second);
}

}  // namespace emulation

// From Python: begins counting from zero; gives what was counted since, and ends it.
extern "C" __attribute__((visibility("default"), used)) inline void laconv_emulation_count() {
  emulation::counts = {};
  emulation::counting = true;
}
extern "C" __attribute__((visibility("default"), used)) inline void laconv_emulation_counted(int64_t* numbers) {
  emulation::counting = false;
  memcpy(numbers, &emulation::counts, sizeof emulation::counts);
}
