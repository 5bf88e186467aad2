// Functions on the chain as a tree, such as finding a child or appending a node. The code runs on
// every device.
#pragma once

#include "core/any.h"
#include "state/sequence.h"

namespace sbrt {

// Returns the child of `node` that holds `token`, or 0 if there is none.
SBRT_ANY inline int child(const Chain& chain, int node, int32_t token) {
  for (int i = node + 1; i <= chain.size; ++i)
    if (chain.parent[i] == node && chain.token[i] == token) return i;
  return 0;
}

// Appends a node to the chain and returns its index. score: log probability that the node is
// accepted (Chain::score).
SBRT_ANY inline int attach_node(Chain& chain, int parent, int32_t token, float score) {
  const int i = ++chain.size;
  chain.token[i] = token;
  chain.parent[i] = parent;
  chain.level[i] = chain.level[parent] + 1;
  chain.score[i] = score;
  chain.mask[i] = chain.mask[parent].with(i);
  chain.known = chain.known.without(i);
  chain.next[i] = -1;
  chain.depth = most(chain.depth, chain.level[i]);
  return i;
}

// Stores the rank that the draft gave to a committed token. `position` is the token's position, and
// `dist` is the draft's distribution there.
SBRT_ANY inline void note_rank(Sequence& c, int64_t position, const Dist& dist, int32_t token) {
  if (!c.rank) return;
  const int at = first_of(dist.token, dist.n, token);
  const auto rank = static_cast<uint8_t>(1 + (at < dist.n ? at : kCandidates));
#if defined(__CUDA_ARCH__)
  c.rank[position] = rank;
#else
  // Atomic, because the host may read the rank at the same time (rank_at).
  __atomic_store_n(&c.rank[position], rank, __ATOMIC_RELAXED);
#endif
}

// Returns the rank that note_rank() stored, or kUnknownRank. The host may call this while a round
// is in flight.
inline uint8_t rank_at(const uint8_t* rank, int64_t position) {
  return __atomic_load_n(&rank[position], __ATOMIC_RELAXED);
}

// Returns true if this round begins with a serial burst, which drafts the chain before the target's
// forward. After a miss, no burst is needed if a look-up has filled the chain.
SBRT_ANY inline bool awaits_burst(const Sequence& c) {
  return c.policy.on_miss == kBurst && c.policy.burst > 0 && c.outcome.branch < 0 && !c.filled;
}

// Returns true if the draft's context has room for the chain and then `steps` draft steps.
SBRT_ANY inline bool burst_fits(const Sequence& c, int steps) {
  return c.head + c.chain.depth + 1 + steps < c.draft_limit;
}

// Returns true if the draft's context has room for the chain. With a serial draft the result is
// always true, because a burst replaces the chain.
SBRT_ANY inline bool chain_fits(const Sequence& c) {
  return c.policy.gamma == 0 || c.head + c.chain.depth < c.draft_limit;
}

// Returns true if the draft's context has room for a serial burst.
SBRT_ANY inline bool serial_burst_fits(const Sequence& c) {
  return c.head + 1 + c.policy.burst < c.draft_limit;
}

}  // namespace sbrt
