// The control block: one plain struct per engine that every op reads and writes, on every body.
//
// Who writes what (one owner each):
//   host, between sequences   sampling, shaping, policy, limits, and the state a sequence starts from
//   host, between rounds      policy and prices, of a sequence that is tuned (spec/tuner.h); of a draft
//                             that sits out branch_count, draft_idle, draft_nodes
//   select                    round, head, trunk, counts, chain, source, outcome, cut, sharpness, lost,
//                             record
//   target lane               target_rows, choice, scores.target, target_have
//   draft lane                branches, chain_law, the other scores, draft_rows, row_law, draft_have,
//                             draft_nodes
//   whoever has the law       rank
//
// verify_done(r) promises outcome r, chain r + 1 and record r; chain_ready(r), of a round that begins
// with a serial burst, that `select` has hung that burst as its chain, on the draft lane's stream while
// the target lane waits; draft_ready(r) promises branch table r.
#pragma once

#include <cstdint>

#include "core/bits.h"

namespace sbrt {

constexpr int kSlots = 64;         // in-flight slots of a ring, the root's included
constexpr int kMaxChain = 63;      // nodes after the root
constexpr int kMaxRows = 64;       // rows of a target's forward
constexpr int kMaxStepRows = 512;  // rows of a draft step: all branches with all their alternatives
constexpr int kMaxBranches = 64;   // branches of one round
constexpr int kMaxTail = 64;       // slots of one branch: its own token, then its nodes
constexpr int kCandidates = 16;    // tokens kept of a draft's law
constexpr int kRecords = 8;        // records in flight, a small ring
constexpr int kRecordWords = 2 + kSlots;

// One row of a forward. Both masks include the row itself where it stands.
struct Row {
  int64_t position;  // absolute; the rope angle
  int32_t token;
  int32_t slot;    // storage slot its K/V is written to; -1 for padding
  int32_t branch;  // whose tail slots `tail` speaks of, and whose node this is; -1 for none
  int32_t node;    // of the branch, else of the chain; -1 for a token of the trunk
  Mask chain;      // in-flight slots it sees: bit j is position head + j
  Mask tail;       // own tail slots it sees
};

struct RowTable {
  int64_t head;  // first in-flight position; every position before it is trunk, seen by all rows
  int32_t n;     // rows in use
  Row row[kMaxStepRows];
};

// What is kept of a draft's law at one node: its first choices and how sure it was.
struct Law {
  int32_t n;                   // candidates kept
  float q;                     // softmax of the raw logits at temperature 1, at the first choice;
                               // under rejection the largest
  float entropy;               // of that softmax, nats
  int32_t token[kCandidates];  // first choices under the rule in force, best first
  // Logarithm of each one's confidence, at most 0: greedy of q; sampled of the softmax, over the candidates, of
  // their scores with the noise in them; under rejection of the r-th largest of the law, whatever was drawn.
  float lp[kCandidates];
};

struct Choice {
  int32_t token;
  int32_t error;  // RowError
};

enum RowError : int32_t { kFine = 0, kNanRow = 1, kNoToken = 2 };

// Rows as the sampling parameters leave them: logit / temperature, -inf where a token is out; a law is
// their softmax. Kept under rejection, for `select`, of every row that is verified or was drawn from.
struct Scores {
  int32_t vocab;
  int32_t tail_slots;
  float* target;    // [kMaxRows, vocab] of target_rows
  float* chain;     // [kSlots, vocab] of the draft at root and chain nodes
  float* in_place;  // [kMaxTail, vocab] of the draft at the nodes of a certain branch
  float* tails;     // [branches, tail_slots, vocab] of the draft at the nodes of the others

  SBRT_ANY float* tail(int branch, int node) const {
    return tails + (int64_t{branch} * tail_slots + node) * vocab;
  }
};

// Nodes 1 .. size hang below node 0, the root; parent[i] < i, so ancestors ascend by depth.
struct Chain {
  int32_t size;   // nodes after the root
  int32_t depth;  // of the deepest node
  int32_t drawn;  // 1: from the draft's laws, siblings in the order they were drawn; 0: looked up
  int32_t token[kSlots];
  int32_t parent[kSlots];
  int32_t level[kSlots];  // depth of a node; the root's is 0
  Mask mask[kSlots];      // the node, its ancestors and the root
};

// A prepared continuation: "if the round ends with (node, token), go on like this". Node 0 of its tail
// is that token; the others hang below it, parent[j] < j.
struct Branch {
  int32_t node;
  int32_t size;      // tail nodes drafted, node 0 not among them
  int32_t in_place;  // 1: the certain branch, which grows in the in-flight slots
  int32_t token[kMaxTail];
  int32_t parent[kMaxTail];
  int32_t level[kMaxTail];    // below node 0
  int32_t tried[kMaxTail];    // candidates of law[j] that hang as nodes already
  int32_t has_law[kMaxTail];  // 1: node j went through the draft, its KV and law are there
  float score[kMaxTail];      // logarithm of the confidence that the walk comes by
  Mask mask[kMaxTail];        // node j and its ancestors in the tail
  Law law[kMaxTail];          // the draft's law AT node j
};

struct Outcome {
  int32_t node;          // the chain stands down to this node
  int32_t n;             // its depth: accepted tokens
  int32_t y;             // the target's own token after it
  int32_t branch;        // the prepared branch that was adopted, -1 after a miss
  int32_t error;         // RowError
  int32_t path[kSlots];  // path[i]: the accepted node at depth i, path[0] = 0
};

// A list that the host keeps while a sequence is in flight.
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

// What a request does to a row of logits before its temperature (ops/shaping.h).
struct Shaping {
  int32_t active;       // 0: nothing at all, and no row pays for it
  int32_t penalises;    // 1: the trunk's counts are kept
  int32_t restricts;    // 1: only tokens in `allowed` stay
  float repetition;     // 1 does nothing
  float presence;       // 0 does nothing
  float frequency;      // 0 does nothing
  int64_t ends_from;    // position of the first token that may be one of `ends`
  List<int32_t> holes;  // ids that no token has
  List<int32_t> ends;   // tokens that end the sequence
  List<int32_t> allowed;
  List<TokenBias> bias;
  List<int32_t> words;  // bad words, each as its length and then its tokens
};

// The trunk's tokens, counted: always at the trunk's length while shaping.penalises.
struct Counts {
  int32_t n;        // distinct tokens of the trunk
  int32_t* token;   // [vocab] them
  int32_t* output;  // [vocab] how often each stands behind the prompt
  uint8_t* seen;    // [vocab] 1: somewhere in the trunk
};

// The target's sampling law, one sequence. Order of its steps: ops/choose.h.
struct Sampling {
  float temperature;  // 0 is greedy
  float min_p;
  float top_p;
  int32_t top_k;  // 0 keeps all
  uint64_t seed;
  uint32_t completion;
};

// Which outcomes get a branch.
enum Ranking : int32_t {
  kFirst = 0,     // at the chain's end, the draft's first choices, k of them
  kAdaptive = 1,  // the same with k = max(1, floor(k_max (1 - q)))
  kLikely = 2,    // the most likely of all (node, token)
};

// How much of an adopted tail becomes the chain.
enum class Cut : int32_t { nothing = 0, confident = 1, everything = 2 };

// What a round does whose outcome before was not prepared.
enum OnMiss : int32_t { kGoOn = 0, kBurst = 1, kLookup = 2 };

// The knobs of a round; a method is a preset of these. A serial method prepares no branches, so that
// all its rounds come after a miss.
struct Policy {
  int32_t gamma;        // draft steps beside the target's forward; 0: none
  int32_t branches;     // k_max
  int32_t ranking;      // Ranking
  int32_t width;        // nodes that branches grow in a step, on average; 1: paths
  int32_t nodes;        // most nodes of a chain: a larger tail keeps its most likely ones
  float epsilon;        // a tail is cut behind the first node with q <= epsilon; 0 keeps all
  int32_t on_miss;      // OnMiss
  int32_t burst;        // kBurst: draft steps before the target's forward
  int32_t burst_width;  // kBurst: nodes grown in a step; 1: a path
  int32_t hrad;         // 1: H-RAD says how much of an adopted tail is verified
  float lambda, theta;  // a path stops where 1 - sqrt(lambda entropy) < theta; lambda 0: never
  int32_t rejection;    // 1: candidates are drawn and stand by chance (spec/accept.h); 0: coupled
};

// What nodes cost, so that none is drafted or verified whose probability is not worth it.
struct Prices {
  int32_t known;              // 0: all that the policy allows
  float least;                // logarithm of the probability that a node drafted on must have
  float round[kMaxRows + 1];  // length of a round by the rows of its verification, any unit
};

constexpr uint8_t kUnknownRank = 0;  // what fresh memory says: most of it is never touched

struct Control {
  // host
  Sampling sampling;
  Shaping shaping;
  Policy policy;
  Prices prices;
  Scores scores;        // where they are; what they say belongs to the lanes
  int64_t limit;        // longest trunk of this sequence, tokens
  int64_t draft_limit;  // longest trunk the draft can follow
  int64_t draft_vocab;  // ids from here on the draft does not know
  // select
  int64_t round;        // the last one that ended; set by the host between sequences
  int64_t head;         // position of the root
  int32_t* trunk;       // [max_model_len] committed tokens
  uint64_t trunk_hash;  // of all of them
  Counts counts;
  Chain chain;
  Outcome outcome;
  int32_t source[kSlots];  // the node of the adopted tail that a chain node was
  float sharpness;         // exponent that calibrates confidence, fitted to the outcomes
  int32_t lost;            // nodes of this round's serial burst that did not enter the chain
  int32_t no_mass;         // 1: a residual of this round was empty (spec/accept.h)
  Cut cut;                 // what H-RAD says of the adopted tail
  // target lane
  RowTable target_rows;
  Choice choice[kMaxRows];
  int64_t target_have;  // positions before this have target KV; moved by prefill
  // draft lane
  RowTable draft_rows;
  Law row_law[kMaxStepRows];  // the draft's laws at draft_rows
  int64_t draft_have;         // positions of the trunk before this have draft KV
  Mask draft_nodes;  // nodes of the chain, the root among them, that have draft KV and a law
  int32_t step;      // steps of the burst so far
  int32_t branch_count;
  int32_t draft_idle;      // 1: past the draft's context limit, nothing was planned
  int32_t draft_compacts;  // 1: nodes of the last chain had draft KV, so that its path is compacted
  Branch branches[kMaxBranches];
  Law chain_law[kSlots];  // the draft's law at root and chain nodes
  // [max_model_len + kSlots] or null: one more than the place of the trunk's token in the draft's law
  // before it, than kCandidates if it has none there; kUnknownRank if no law was kept.
  uint8_t* rank;
};

// Whether candidates stand by chance. What is greedy has no chance in it.
SBRT_ANY inline bool is_rejection(const Control& c) {
  return c.policy.rejection && c.sampling.temperature > 0;
}

}  // namespace sbrt
