// The parameters of a request: its sampling, its shaping, and the policy of its rounds.
#pragma once

#include <cstdint>

#include "core/any.h"
#include "state/sizes.h"

namespace sbrt {

// The sampling parameters of one sequence. ops/choose.h says in which order they are applied.
struct Sampling {
  float temperature;  // 0: greedy
  float min_p;
  float top_p;
  int32_t top_k;  // 0: keeps all tokens
  uint64_t seed;
  uint32_t completion;
};

// Returns true if min_p, top_k or top_p can exclude tokens.
SBRT_ANY inline bool filters(const Sampling& s) {
  return s.temperature > 0 && (s.min_p > 0 || s.top_k > 0 || s.top_p < 1);
}

// An array that the host keeps alive while a sequence is in flight.
template <class T>
struct List {
  const T* data;
  int64_t n;

  const T* begin() const { return data; }
  const T* end() const { return data + n; }
};

struct TokenBias {
  int32_t token;
  float bias;
};

// A request's changes to a row of logits before the temperature is applied (ops/shaping.h).
struct Shaping {
  int32_t active;       // 0: logits are not changed, which costs no time per row
  int32_t penalises;    // 1: there are penalties, so the trunk's token counts are kept up to date
  int32_t restricts;    // 1: all tokens but those in `allowed` are masked
  float repetition;     // 1: no effect
  float presence;       // 0: no effect
  float frequency;      // 0: no effect
  int64_t ends_from;    // first position at which a token may be one of `ends`
  List<int32_t> holes;  // ids that no token has
  List<int32_t> ends;   // tokens that end the sequence
  List<int32_t> allowed;
  List<TokenBias> bias;
  List<int32_t> words;  // bad words, each stored as its length and then its tokens
};

// Says which outcomes get a branch.
enum Ranking : int32_t {
  kFirst = 0,     // k outcomes after the chain's last node: the draft's most probable tokens
  kAdaptive = 1,  // the same with k = max(1, floor(k_max (1 - q))), where q is Dist::q
  kLikely = 2,    // the most likely outcomes (node, token), at any node
};

// Says how much of an adopted tail becomes the chain.
enum class Cut : int32_t { nothing = 0, confident = 1, everything = 2 };

// Says how a round begins after a miss: with an empty chain, with a serial burst of the draft, or
// with a look-up.
enum OnMiss : int32_t { kGoOn = 0, kBurst = 1, kLookup = 2 };

// The parameters of a round. A method is a preset of these. A serial method prepares no branches,
// so every round of it starts as after a miss.
struct Policy {
  int32_t gamma;     // number of draft steps during the target's forward; 0: none
  int32_t branches;  // largest number of branches of a round (k_max)
  int32_t ranking;   // Ranking
  // Mean number of nodes that a draft step adds to a branch; 1: branches are paths.
  int32_t width;
  // Largest number of nodes of a chain; a larger tail keeps its most likely nodes.
  int32_t nodes;
  float epsilon;        // a tail is cut after its first node with q <= epsilon; 0: it is never cut
  int32_t on_miss;      // OnMiss
  int32_t burst;        // if on_miss is kBurst: number of draft steps before the target's forward
  int32_t burst_width;  // nodes that a step of this burst adds; 1: the burst makes a path
  int32_t hrad;         // 1: H-RAD decides how much of an adopted tail is verified
  float lambda, theta;  // a path stops where 1 - sqrt(lambda * entropy) < theta; lambda 0: never
  // 1: candidates are drawn and accepted at random (round/accept_op.h); 0: they are coupled to the
  // target's noise.
  int32_t rejection;
  int32_t lookup;  // 1: looked-up tokens are added to every chain (round/join_op.h)
};

// Returns the policy of plain decoding, which drafts nothing.
inline Policy plain_policy() {
  Policy p{};
  p.width = p.burst_width = 1;
  p.nodes = kMaxChain;
  return p;
}

// Returns `p`, normalised: if look-ups are added to every chain, no look-up is needed after a miss.
inline Policy normalised(Policy p) {
  if (p.lookup && p.on_miss == kLookup) p.on_miss = kGoOn;
  return p;
}

// Returns true if all chains of the policy are paths.
SBRT_ANY inline bool makes_paths(const Policy& p) {
  return p.width == 1 && (p.on_miss != kBurst || p.burst_width == 1);
}

// Returns the largest number of drafted nodes in a chain. If the policy has look-ups, their nodes
// fit into the chain in addition.
SBRT_ANY inline int32_t most_drafted(const Policy& p) {
  return p.lookup ? least(p.nodes, kMaxChain - kMostFound) : p.nodes;
}

// Costs of rounds. A node whose probability does not justify its cost is neither drafted nor
// verified.
struct Prices {
  int32_t known;              // 0: costs are unknown, so only the policy's limits apply
  float least;                // the draft does not continue nodes with a lower log probability
  float round[kMaxRows + 1];  // [verified rows] time of a round, in any unit
};

}  // namespace sbrt
