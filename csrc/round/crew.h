// The team that runs an op of a round: one thread of the host, or one warp or block of a device.
// All of them compile the same source.
//
// Rank 0 does the work that is not divided among the members. `meet` is a barrier; after it, all
// members see all earlier writes. `best` returns the largest key that any member passed.
#pragma once

#include <cstdint>

#include "core/any.h"

namespace sbrt {

struct Alone {
  static constexpr int rank = 0, size = 1;

  SBRT_ANY void meet() const {}
  SBRT_ANY uint64_t best(uint64_t key) const { return key; }
};

#if defined(__CUDACC__)
struct Warp {
  int rank;
  static constexpr int size = 32;

  __device__ void meet() const { __syncwarp(); }
  __device__ uint64_t best(uint64_t key) const {
    for (int apart = size / 2; apart > 0; apart /= 2)
      key = most<uint64_t>(key, __shfl_xor_sync(0xffffffffu, key, apart));
    return key;
  }
};
// A team that consists of a block of threads. It has no `best`.
struct Crew {
  int rank, size;

  __device__ void meet() const { __syncthreads(); }
};
#endif

// On a device: makes this thread's writes to host memory visible to the host.
SBRT_ANY inline void show_host() {
#if defined(__CUDA_ARCH__)
  __threadfence_system();
#endif
}

// Returns a sort key for a candidate, which is never 0. A larger score gives a larger key. With
// equal scores, a lower `place` gives a larger key.
SBRT_ANY inline uint64_t key_of(float score, uint32_t place) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, score + 0.0f);  // -0 becomes 0
  const uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
  return uint64_t{rising} << 32 | (0xffffffffu - place);
}

SBRT_ANY inline uint32_t place_of(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

SBRT_ANY inline float score_of(uint64_t key) {
  const uint32_t rising = static_cast<uint32_t>(key >> 32);
  return __builtin_bit_cast(float, rising >> 31 ? rising & 0x7fffffffu : ~rising);
}

// Writes the `wanted` largest of n keys to `found`, in descending order. Returns the number of keys
// written. Keys of 0 are skipped. First each member sorts its share of the keys in place. Then the
// team repeatedly takes the largest key at the front of a share.
template <class Team>
SBRT_ANY int best_first(const Team& team, uint64_t* keys, int n, int wanted, uint64_t* found) {
  int kept = 0;
  for (int i = team.rank; i < n; i += team.size) {
    const uint64_t key = keys[i];
    const int full = kept == wanted;
    if (key == 0 || (full && (kept == 0 || keys[team.rank + (kept - 1) * team.size] >= key)))
      continue;
    int at = full ? kept - 1 : kept++;
    for (; at > 0 && keys[team.rank + (at - 1) * team.size] < key; --at)
      keys[team.rank + at * team.size] = keys[team.rank + (at - 1) * team.size];
    keys[team.rank + at * team.size] = key;
  }
  int taken = 0;
  for (int head = 0; taken < wanted; ++taken) {
    const uint64_t mine = head < kept ? keys[team.rank + head * team.size] : 0;
    const uint64_t best = team.best(mine);
    if (best == 0) break;
    head += mine == best;
    if (team.rank == 0) found[taken] = best;
  }
  team.meet();
  return taken;
}

}  // namespace sbrt
