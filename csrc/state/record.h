// The record from which the host learns the result of a round. Each word contains the number of its
// round. So the host can check that a word belongs to the round that it reads, whatever kind of
// memory the record is in.
#pragma once

#include <cstdint>

#include "core/any.h"
#include "state/sequence.h"

namespace sbrt {

// Word 0: depth | n << 8 | branches << 16 | hit << 24 | idle << 25 | no_mass << 26 | error << 28.
// Word 1: discarded tokens | number of trunk tokens before the root that the draft lacks << 13.
// Words 2 .. 2 + n: the committed tokens: n accepted ones, then y.
constexpr uint32_t kDiscardedBits = 13;
// Largest number of lacking tokens that word 1 can hold. It also stands for larger numbers.
constexpr uint32_t kMostLacking = (1u << (32 - kDiscardedBits)) - 1;
struct Record {
  uint64_t word[kRecordWords];

  // Writes a word with a single store, because the host may read the word at the same time.
  SBRT_ANY void put(int i, int64_t round, uint32_t value) {
    const uint64_t w = static_cast<uint64_t>(round) << 32 | value;
#if defined(__CUDA_ARCH__)
    *const_cast<volatile uint64_t*>(&word[i]) = w;
#else
    __atomic_store_n(&word[i], w, __ATOMIC_RELAXED);
#endif
  }
  uint32_t get(int i, int64_t round) const {
    const uint64_t w = __atomic_load_n(&word[i], __ATOMIC_RELAXED);
    check(static_cast<uint32_t>(w >> 32) == static_cast<uint32_t>(round), "record: word ", i,
          " belongs to round ", w >> 32, ", expected ", static_cast<uint32_t>(round));
    return static_cast<uint32_t>(w);
  }
};

struct Records {
  Record ring[kRecords];
  SBRT_ANY Record& of(int64_t round) { return ring[round % kRecords]; }
};

}  // namespace sbrt
