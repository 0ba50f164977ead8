// What `warp.cuh` asks of a warp, on a CPU: the lanes meet at a barrier, each having left its words where the others read
// them. A copy into shared memory poisons its target when it is asked for and fills it at the wait that covers it, so that
// what is read or refilled too early shows.
#pragma once

namespace emulation {

struct Meeting {
  uint32_t word[LANES][6];
  const void* address[LANES];
};
inline std::vector<Meeting> meetings(LANES);  // by warp

inline Meeting& meeting() { return meetings[threadIdx.x / LANES]; }
inline unsigned lane() { return threadIdx.x % LANES; }
inline void meet() { give_way(WARP_BARRIER); }

}  // namespace emulation

namespace laconv {

struct Device {
  int processors, shared_memory;
};
inline Device emulated_device{132, 227 * 1024};  // an H100, or what tests make of it
inline int current_device(Device& device) {
  device = emulated_device;
  return 0;
}

inline float lower(uint32_t pair, bfloat16) { return widen(bfloat16{uint16_t(pair)}); }
inline float upper(uint32_t pair, bfloat16) { return widen(bfloat16{uint16_t(pair >> 16)}); }
inline float lower(uint32_t pair, half) { return widen(half{uint16_t(pair)}); }
inline float upper(uint32_t pair, half) { return widen(half{uint16_t(pair >> 16)}); }

inline float relu(float number) { return number > 0 || isnan(number) ? number : 0.f; }
template <class T> uint32_t packed_relu(float low, float high, T type) { return packed(relu(low), relu(high), type); }
template <class T> uint32_t relu_pair(uint32_t pair, T type) {
  return packed_relu(lower(pair, type), upper(pair, type), type);
}

inline void synchronize_warp() { emulation::meet(); }

inline uint32_t shuffled(uint32_t word, int lane) {
  auto& meeting = emulation::meeting();
  meeting.word[emulation::lane()][0] = word;
  emulation::meet();
  const uint32_t result = meeting.word[unsigned(lane) % emulation::LANES][0];
  emulation::meet();
  return result;
}
inline float shuffled(float number, int lane) {
  uint32_t word;
  memcpy(&word, &number, sizeof word);
  word = shuffled(word, lane);
  memcpy(&number, &word, sizeof word);
  return number;
}

inline uint32_t bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t both = uint64_t(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= uint32_t(both >> (8 * ((selector >> (4 * i)) & 7)) & 255) << (8 * i);
  return result;
}

inline uint32_t at_least(uint32_t a, uint32_t b) {
  const half none{};
  return (lower(a, none) >= lower(b, none) ? 0xffffu : 0u) | (upper(a, none) >= upper(b, none) ? 0xffff0000u : 0u);
}

inline uint16_t number_of(const uint32_t* words, int column) {
  return uint16_t(words[column / 2] >> (16 * (column % 2)));
}

inline uint32_t transposed(uint32_t word) {
  auto& meeting = emulation::meeting();
  const unsigned lane = emulation::lane(), row = lane / 4, pair = lane % 4;
  meeting.word[lane][0] = word;
  emulation::meet();
  uint32_t result = 0;
  for (unsigned i = 0; i < 2; ++i) {  // row 2 pair + i, column `row`
    const uint32_t theirs = meeting.word[(2 * pair + i) * 4 + row / 2][0];
    result |= (row % 2 ? theirs >> 16 : theirs & 0xffff) << (16 * i);
  }
  emulation::meet();
  return result;
}

// d = a b + c over COLUMNS columns of a, by the lanes that `warp.cuh` gives.
template <class T> void product(float* d, const uint32_t (&a)[4], const uint32_t (&b)[2], const float* c, int columns, T type) {
  auto& meeting = emulation::meeting();
  const unsigned lane = emulation::lane(), q = lane / 4, t = lane % 4;
  memcpy(meeting.word[lane], a, sizeof a);
  memcpy(meeting.word[lane] + 4, b, sizeof b);
  emulation::meet();
  const auto number = [&](uint32_t word, int k) { return k % 2 ? upper(word, type) : lower(word, type); };
  float sums[4];
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = q + 8 * (i / 2), column = 2 * t + i % 2;
    float sum = c[i];
    for (int k = 0; k < columns; ++k) {
      const uint32_t left = meeting.word[(row % 8) * 4 + (k % 8) / 2][row / 8 + 2 * (k / 8)];
      const uint32_t right = meeting.word[column * 4 + (k % 8) / 2][4 + k / 8];
      sum += number(left, k) * number(right, k);
    }
    sums[i] = sum;
  }
  emulation::meet();
  memcpy(d, sums, sizeof sums);
}
template <class T> void multiply(float* d, const uint32_t* a, const uint32_t* b, const float* c, T type) {
  const uint32_t left[4] = {a[0], a[1], a[2], a[3]}, right[2] = {b[0], b[1]};
  product(d, left, right, c, 16, type);
}
template <class T> void add_product_8(float* d, uint32_t a0, uint32_t a1, uint32_t b, T type) {
  const uint32_t left[4] = {a0, a1, 0, 0}, right[2] = {b, 0};
  const float before[4] = {d[0], d[1], d[2], d[3]};
  product(d, left, right, before, 8, type);
}

template <bool TRANSPOSED> void load_matrices(uint32_t* words, const void* row, int matrices, int line) {
  auto& meeting = emulation::meeting();
  const unsigned lane = emulation::lane(), q = lane / 4, t = lane % 4;
  if (int(lane) < 8 * matrices) {
    if (!emulation::in_block_memory(row)) emulation::fail("a row of a matrix is not in shared memory");
    emulation::check_address(row, 16);
    emulation::count_read(row, 16, line);
  }
  meeting.address[lane] = row;
  emulation::meet();
  for (int m = 0; m < matrices; ++m) {
    const auto pair = [&](unsigned r, unsigned column) {
      return number_of(static_cast<const uint32_t*>(meeting.address[8 * m + int(r)]), int(column));
    };
    words[m] = TRANSPOSED ? pair(2 * t, q) | uint32_t(pair(2 * t + 1, q)) << 16
                          : pair(q, 2 * t) | uint32_t(pair(q, 2 * t + 1)) << 16;
  }
  emulation::meet();
}
template <bool TRANSPOSED> void load_matrices_4(uint32_t* words, const void* row, int line = __builtin_LINE()) {
  load_matrices<TRANSPOSED>(words, row, 4, line);
}
template <bool TRANSPOSED> void load_matrices_2(uint32_t* words, const void* row, int line = __builtin_LINE()) {
  load_matrices<TRANSPOSED>(words, row, 2, line);
}

inline void copy_16(void* shared, const void* source, bool wanted, int line = __builtin_LINE()) {
  if (!emulation::in_block_memory(shared)) emulation::fail("a copy leads out of shared memory");
  emulation::check_address(shared, 16);
  if (wanted) {
    emulation::check_address(source, 16);
    emulation::count_read(source, 16, line);
  }
  emulation::count_written(shared, 16, line);
  memset(shared, 0xff, 16);
  emulation::copies[threadIdx.x].open.push_back({shared, source, wanted});
}
inline void end_group_of_copies() {
  auto& own = emulation::copies[threadIdx.x];
  own.groups.push_back(std::move(own.open));
  own.open.clear();
}
template <int GROUPS> void wait_copies() {
  auto& groups = emulation::copies[threadIdx.x].groups;
  for (; groups.size() > GROUPS; groups.erase(groups.begin()))
    for (const auto& copy : groups.front()) {
      if (copy.wanted) memcpy(copy.shared, copy.source, 16);
      else memset(copy.shared, 0, 16);
    }
}

inline uint32_t load_word_if(const void* address, bool wanted, int line = __builtin_LINE()) {
  return wanted ? load<uint32_t>(address, line) : 0;
}

template <class T> T* as_it_is(T* address) { return address; }
inline int known_from_here(int number) { return number; }

template <class P>
int launch_warps(void (*kernel)(P), int64_t blocks, int threads, int shared_bytes, void*, P parameters) {
  if (shared_bytes > emulated_device.shared_memory) emulation::fail("more shared memory than a block may have");
  return run_grid(kernel, blocks, threads, shared_bytes, parameters);
}

}  // namespace laconv

// From Python: the device that launchers ask for.
extern "C" __attribute__((visibility("default"), used)) inline void laconv_emulation_device(int processors, int memory) {
  laconv::emulated_device = {processors, memory};
}
