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

// An array that the host owns. The host keeps it alive while a sequence is in flight.
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
  int32_t active;       // 0: logits are not changed, and shaping takes no time
  int32_t penalises;    // 1: there are penalties, so the counts of the trunk's tokens are updated
  int32_t restricts;    // 1: all tokens but those in `allowed` are masked
  float repetition;     // 1: no effect
  float presence;       // 0: no effect
  float frequency;      // 0: no effect
  int64_t ends_from;    // min_tokens: first position at which a token may be one of `ends`
  List<int32_t> holes;  // ids that no token has
  List<int32_t> ends;   // tokens that end the sequence
  List<int32_t> allowed;
  List<TokenBias> bias;
  // Bad words; each is stored as its length, followed by its tokens.
  List<int32_t> words;
};

// Says which outcomes get a branch.
enum Ranking : int32_t {
  kFirst = 0,     // the draft's k most probable tokens after the chain's last node
  kAdaptive = 1,  // as kFirst, with k = max(1, floor(k_max (1 - q))), where q is Dist::q
  kLikely = 2,    // the most likely outcomes (node, token), at all nodes
};

// Says how much of an adopted tail becomes the chain.
enum class Cut : int32_t { nothing = 0, confident = 1, everything = 2 };

// Says how a round begins after a miss. kGoOn: with an empty chain. kBurst: with a serial burst of
// the draft. kLookup: with a look-up.
enum OnMiss : int32_t { kGoOn = 0, kBurst = 1, kLookup = 2 };

// The parameters of a round. A method is a preset of these parameters. A serial method prepares no
// branches, so each of its rounds begins as if after a miss.
struct Policy {
  int32_t gamma;     // number of draft steps during the target's forward; 0: none
  int32_t branches;  // largest number of branches of a round (k_max)
  int32_t ranking;   // Ranking
  // Mean number of nodes that a draft step adds to a branch; 1: branches are paths.
  int32_t width;
  // Largest number of nodes of a chain; a larger tail keeps its most likely nodes.
  int32_t nodes;
  float epsilon;    // a tail is cut after its first node with q <= epsilon; 0: it is never cut
  int32_t on_miss;  // OnMiss
  int32_t burst;    // if on_miss is kBurst: number of draft steps before the target's forward
  // Number of nodes that a step of a serial burst adds; with 1 the burst makes a path.
  int32_t burst_width;
  int32_t hrad;  // 1: H-RAD decides how much of an adopted tail is verified
  // A path stops growing where 1 - sqrt(lambda * entropy) < theta (AdaEDL). lambda 0: it never
  // stops.
  float lambda, theta;
  // 1: the rule `rejection`: candidates are drawn and accepted at random (round/accept_op.h). 0:
  // the draft samples with the target's noise.
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

// Returns `p` in normal form. If look-ups are added to every chain, no further look-up is made
// after a miss.
inline Policy normalised(Policy p) {
  if (p.lookup && p.on_miss == kLookup) p.on_miss = kGoOn;
  return p;
}

// Returns true if all chains of the policy are paths.
SBRT_ANY inline bool makes_paths(const Policy& p) {
  return p.width == 1 && (p.on_miss != kBurst || p.burst_width == 1);
}

// Returns the largest number of drafted nodes in a chain. If the policy adds looked-up nodes, room
// is left for them.
SBRT_ANY inline int32_t most_drafted(const Policy& p) {
  return p.lookup ? least(p.nodes, kMaxChain - kMostFound) : p.nodes;
}

// Costs of rounds. Nodes whose probability does not justify their cost are neither drafted nor
// verified.
struct Prices {
  int32_t known;              // 0: costs are unknown, and only the policy's limits apply
  float least;                // lowest log probability of a node that the draft continues
  float round[kMaxRows + 1];  // [number of verified rows] time of a round, in any unit
};

}  // namespace sbrt
