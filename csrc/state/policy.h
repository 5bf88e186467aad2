// Parameters of a request: its sampling, its shaping, the policy of its rounds.
#pragma once

#include <cstdint>

#include "core/any.h"
#include "state/sizes.h"

namespace sbrt {

// The sampling parameters of the target, for one sequence. ops/choose.h has the order of its steps.
struct Sampling {
  float temperature;  // 0 is greedy
  float min_p;
  float top_p;
  int32_t top_k;  // 0 keeps all
  uint64_t seed;
  uint32_t completion;
};

// Returns true if tokens are left out of a row by their probability.
SBRT_ANY inline bool filters(const Sampling& s) {
  return s.temperature > 0 && (s.min_p > 0 || s.top_k > 0 || s.top_p < 1);
}

// A list that the host keeps alive while a sequence is in flight.
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

// A request's changes to a row of logits before its temperature (ops/shaping.h).
struct Shaping {
  int32_t active;       // 0: no change, at no cost per row
  int32_t penalises;    // 1: the trunk's counts are kept
  int32_t restricts;    // 1: only tokens in `allowed` stay
  float repetition;     // 1: no effect
  float presence;       // 0: no effect
  float frequency;      // 0: no effect
  int64_t ends_from;    // position of the first token that may be one of `ends`
  List<int32_t> holes;  // ids that no token has
  List<int32_t> ends;   // tokens that end the sequence
  List<int32_t> allowed;
  List<TokenBias> bias;
  List<int32_t> words;  // bad words, each as its length and then its tokens
};

// The outcomes that get a branch.
enum Ranking : int32_t {
  kFirst = 0,     // at the chain's end, the draft's k first choices
  kAdaptive = 1,  // the same with k = max(1, floor(k_max (1 - q)))
  kLikely = 2,    // the most likely of all (node, token)
};

// The part of an adopted tail that becomes the chain.
enum class Cut : int32_t { nothing = 0, confident = 1, everything = 2 };

// The start of a round after an outcome that was not prepared.
enum OnMiss : int32_t { kGoOn = 0, kBurst = 1, kLookup = 2 };

// The knobs of a round; a method is a preset of these. A serial method prepares no branches, so all
// its rounds come after a miss.
struct Policy {
  int32_t gamma;        // draft steps during the target's forward; 0: none
  int32_t branches;     // k_max
  int32_t ranking;      // Ranking
  int32_t width;        // mean number of nodes that a branch grows in a step; 1: paths
  int32_t nodes;        // most nodes of a chain: a larger tail keeps its most likely ones
  float epsilon;        // a tail is cut after the first node with q <= epsilon; 0 keeps all
  int32_t on_miss;      // OnMiss
  int32_t burst;        // kBurst: draft steps before the target's forward
  int32_t burst_width;  // kBurst: nodes grown in a step; 1: a path
  int32_t hrad;         // 1: H-RAD decides how much of an adopted tail is verified
  float lambda, theta;  // a path stops where 1 - sqrt(lambda entropy) < theta; lambda 0: never
  int32_t
      rejection;   // 1: candidates are drawn and accepted at random (round/accept_op.h); 0: coupled
  int32_t lookup;  // 1: look-ups in the text so far are added to every chain (round/join_op.h)
};

// Plain decoding: it drafts nothing.
inline Policy plain_policy() {
  Policy p{};
  p.width = p.burst_width = 1;
  p.nodes = kMaxChain;
  return p;
}

// Look-ups that join every chain leave none to be made after a miss.
inline Policy normalised(Policy p) {
  if (p.lookup && p.on_miss == kLookup) p.on_miss = kGoOn;
  return p;
}

// Returns true if all chains of the policy are paths.
SBRT_ANY inline bool makes_paths(const Policy& p) {
  return p.width == 1 && (p.on_miss != kBurst || p.burst_width == 1);
}

// Returns the largest number of drafted nodes in a chain. It leaves room for look-ups.
SBRT_ANY inline int32_t most_drafted(const Policy& p) {
  return p.lookup ? least(p.nodes, kMaxChain - kMostFound) : p.nodes;
}

// The cost of nodes: nodes whose probability does not justify it are neither drafted nor verified.
struct Prices {
  int32_t known;              // 0: costs are unknown, and the policy alone decides
  float least;                // least log probability of a node that is drafted on
  float round[kMaxRows + 1];  // time of a round by the rows of its verification, any unit
};

}  // namespace sbrt
