// Random numbers by Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011): the Gumbel noise of tokens, and uniform numbers. All functions are pure; there is no state
// and no counter of requests.
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

// Returns the hash of a prefix that is extended by `token`. `hash` is that of the prefix. The empty
// prefix has hash 0.
SBRT_ANY inline uint64_t extended(uint64_t hash, int32_t token) {
  return mix64(hash, static_cast<uint64_t>(token) + 1);
}

// The purpose of the noise. It is a part of the Philox counter, so noise for different purposes is
// independent.
enum Use : uint32_t {
  // Sampling of the target's token. Under the rule `coupled`, also sampling of the draft's tokens.
  // `where` is the position.
  kTarget = 0,
  // The draft's draws under the rule `rejection`. `where` is the hash of the prefix before the
  // drawn token.
  kDraft = 1,
  // Acceptance tests under the rule `rejection`, with one item for each candidate tried. `where` is
  // the position.
  kCoin = 2,
  kResidual = 3,  // draw of a token after all candidates were rejected; `where` is the position
};

struct Noise {
  uint64_t seed;
  uint32_t completion;
  Use use;
  uint64_t where;
};

// Returns four random words. The Philox key is the seed. The counter consists of item, use, where
// and completion.
SBRT_ANY inline Words4 noise_words(const Noise& n, uint32_t item) {
  return philox({{item | static_cast<uint32_t>(n.use) << 30, static_cast<uint32_t>(n.where),
                  static_cast<uint32_t>(n.where >> 32), n.completion}},
                static_cast<uint32_t>(n.seed), static_cast<uint32_t>(n.seed >> 32));
}

// Returns a uniform random number in [0, 1) with 53 random bits.
SBRT_ANY inline double uniform(const Noise& n, uint32_t item) {
  const Words4 words = noise_words(n, item);
  return ((words.w[0] >> 5) * 0x1p26 + (words.w[1] >> 6)) * 0x1p-53;
}

// Returns the Gumbel noise g = -log(-log u) with u = (word + 1/2) / 2^32. Every u is inside (0, 1)
// and exact in a double. Philox returns four words for each value of its counter. A token's word is
// the one with index token % 4 for the counter token / 4.
inline double gumbel(uint32_t word) { return -std::log(-std::log((word + 0.5) * 0x1p-32)); }

// Returns an upper bound of gumbel(word), without computing a logarithm. Let e be the number of
// leading ones of the word. Then -log u >= 1 - u > 2^-(e + 1), so the noise is below (e + 1) log 2.
inline double gumbel_bound(uint32_t word) {
  const uint32_t flipped = ~word;
  const int ones = flipped == 0 ? 32 : __builtin_clz(flipped);
  return (ones + 1) * 0.6931471805599454;
}

}  // namespace sbrt
