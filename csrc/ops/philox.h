// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the
// Gumbel noise of a token. Pure functions of their arguments: no state, no request counter.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/bits.h"

namespace sbrt {

struct Words4 {
  uint32_t w[4];
};

SBRT_ANY inline Words4 philox(Words4 counter, uint32_t key0, uint32_t key1) {
  uint32_t c0 = counter.w[0], c1 = counter.w[1], c2 = counter.w[2], c3 = counter.w[3];
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ key0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ key1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Key: the seed. Counter: (token / 4, position, completion); word token % 4 belongs to the token.
SBRT_ANY inline Words4 noise_words(uint64_t seed, uint32_t completion, int64_t position,
                                   uint32_t token) {
  const uint64_t p = static_cast<uint64_t>(position);
  return philox(
      {{token >> 2, static_cast<uint32_t>(p), static_cast<uint32_t>(p >> 32), completion}},
      static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

// g = -log(-log u), u = (word + 1/2) / 2^32: every u is inside (0, 1) and exact in a double.
inline double gumbel(uint32_t word) { return -std::log(-std::log((word + 0.5) * 0x1p-32)); }

// An upper bound of gumbel(word) without a logarithm: -log u >= 1 - u, and 1 - u > 2^-(e + 1)
// where e counts the leading ones of the word.
inline double gumbel_bound(uint32_t word) {
  const uint32_t flipped = ~word;
  const int ones = flipped == 0 ? 32 : __builtin_clz(flipped);
  return (ones + 1) * 0.6931471805599454;
}

}  // namespace sbrt
