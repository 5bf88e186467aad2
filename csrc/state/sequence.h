// The state of one request, from its first to its last round. The batch of a forward is not part of
// it.
#pragma once

#include <cstdint>

#include "core/any.h"
#include "state/batch.h"
#include "state/policy.h"

namespace sbrt {

// The draft's distribution after one node: its best candidates and their confidence.
struct Dist {
  int32_t n;  // number of candidates
  // Probability of the first candidate, in the softmax of the raw logits at temperature 1. Under
  // the rule `rejection` it is the largest probability in this softmax.
  float q;
  float entropy;  // entropy of the same softmax, in nats
  // Candidates, best first. Under the rule `rejection` they are in the order of their draws.
  int32_t token[kCandidates];
  // Logarithm of each candidate's confidence, at most 0. Greedy: the confidence is the probability
  // in the softmax of the raw logits at temperature 1. Sampled: it is the probability in the
  // softmax of the candidates' scores, noise included. Under the rule `rejection`: candidate r gets
  // the r-th largest probability, so that the value does not depend on the draw.
  float lp[kCandidates];
};

// Addresses of rows of scores. A score is logit / temperature, or -inf for an excluded token. The
// softmax of a row is the distribution from which the next token is sampled. `walk_by_chance` reads
// the scores under the rule `rejection`. So scores are kept for every row that is verified, and for
// every row from which a candidate was drawn. A row of the draft has the same columns as the
// draft's logits (ops/columns.h). Tokens without a column have probability 0. With two memories, a
// mail copies `chain` to the target's memory. In each memory, the addresses of rows that the
// memory's lane does not read are null.
struct Scores {
  int32_t vocab;
  int32_t tail_slots;
  int32_t columns;     // number of columns of a row of the draft's scores
  const int32_t* ids;  // [columns] token of each column; null: column i is token i
  float* target;       // [kMaxRows, vocab] the target's scores after the root and the chain's nodes
  float* chain;        // [kSlots, columns] the draft's scores after the root and the chain's nodes
  float* in_place;     // [kMaxTail, columns] the draft's scores after the certain branch's nodes
  // [branches, tail_slots, columns] the draft's scores after the nodes of other branches.
  float* tails;

  SBRT_ANY float* tail(int branch, int node) const {
    return tails + (int64_t{branch} * tail_slots + node) * columns;
  }
};

// A tree of draft tokens. Nodes 1 .. size descend from node 0, the root. parent[i] < i, so a node's
// ancestors come before it.
struct Chain {
  int32_t size;   // number of nodes after the root
  int32_t depth;  // depth of the deepest node
  // Nodes that look-ups added. All other nodes come from the draft; siblings are in the order of
  // their draws.
  Mask known;
  int32_t token[kSlots];
  int32_t parent[kSlots];
  int32_t level[kSlots];  // depth of a node; the root's is 0
  float score[kSlots];    // log probability that the node is accepted; at most that of its parent
  Mask mask[kSlots];      // [node] the node, its ancestors and the root; bit i is node i
  int32_t next[kSlots];   // [node] token that a look-up proposes after the node; -1: none
  int32_t match[kSlots];  // [node] length of the match that proposed next[node]
};

// The success of this sequence's look-ups, for each kind of match. right / seen is the share of
// look-ups that were right. Older look-ups have less weight.
struct Hindsight {
  float right[kMatches];
  float seen[kMatches];
};

// A prepared continuation for the outcome (node, token). Node 0 of its tail holds this token. The
// other nodes of the tail descend from node 0, and parent[j] < j.
struct Branch {
  int32_t node;
  int32_t size;  // number of drafted nodes of the tail, without node 0
  // 1: this is the certain branch, which continues the root; its nodes are in in-flight slots.
  int32_t in_place;
  int32_t token[kMaxTail];
  int32_t parent[kMaxTail];
  int32_t level[kMaxTail];  // [j] depth of node j; node 0 has depth 0
  int32_t tried[kMaxTail];  // [j] number of candidates of dist[j] that are already nodes
  // [j] 1: the draft has processed node j. Then node j has KV, and dist[j] is set.
  int32_t has_dist[kMaxTail];
  float score[kMaxTail];  // [j] log probability that node j is accepted
  Mask mask[kMaxTail];    // [j] node j and its ancestors in the tail; bit i is node i
  Dist dist[kMaxTail];    // [j] the draft's distribution for the token AFTER node j
};

struct Outcome {
  int32_t node;          // the last accepted node
  int32_t n;             // number of accepted nodes; also the depth of `node`
  int32_t y;             // the token that the target sampled after `node`
  int32_t branch;        // index of the branch that was adopted; -1 after a miss
  int32_t error;         // RowError
  int32_t path[kSlots];  // [depth] the accepted node at this depth; path[0] = 0
};

// Counts how often tokens occur in the trunk. The counts are up to date only while
// shaping.penalises is set.
struct Counts {
  int32_t n;        // number of distinct tokens in the trunk
  int32_t* token;   // [vocab] the distinct tokens, in order of first occurrence
  int32_t* output;  // [vocab] how often each token occurs after the prompt
  uint8_t* seen;    // [vocab] 1: the token occurs in the trunk
};

// kUnknownRank is 0, as in fresh memory. So memory of unknown ranks is never touched.
constexpr uint8_t kUnknownRank = 0;

// Marks the fields after it as fields of the part `name` (state/parts.h). tools/state_fields.py
// reads this macro.
#define SBRT_PART(name)

// All state of one request, in memory that the ops can access. The host writes it before the
// request's first round. With two memories, each memory has a Sequence, and mails copy what one
// lane writes to the other lane's memory (state/mail.h). csrc/README.md lists the writer of each
// part.
struct Sequence {
  SBRT_PART(settings)
  Sampling sampling;
  Shaping shaping;
  Policy policy;
  Prices prices;
  Scores scores;        // addresses of scores; the lanes own the memory
  int64_t limit;        // largest length of this sequence's trunk, in tokens
  int64_t draft_limit;  // largest length of a trunk that the draft can process, in tokens
  // The draft can process ids below draft_vocab. Its LM head may have fewer rows.
  int64_t draft_vocab;
  SBRT_PART(trunk)
  int32_t* trunk;       // [max_model_len] committed tokens
  uint64_t trunk_hash;  // hash of all trunk tokens
  // Only for a draft with a memory of its own: the number of trunk tokens that its ops have hashed
  // and counted there, and the number of tokens that the host has sent there.
  int64_t followed, told;
  Counts counts;
  SBRT_PART(outcome)
  // 1: in this round, rounding left an empty distribution under the rule `rejection`.
  int32_t no_mass;
  Cut cut;       // part of the adopted tail that becomes the chain; H-RAD may change it
  int64_t head;  // position of the root
  Outcome outcome;
  // The tokens that the outcome added to the trunk: the accepted ones, then y.
  int32_t committed[kSlots];
  float sharpness;  // exponent that calibrates the draft's confidence, fitted to outcomes
  Hindsight hindsight;
  SBRT_PART(chain)
  Chain chain;
  // [node] node of the adopted tail that became this chain node; -1: none, a look-up added it.
  int32_t source[kSlots];
  // Number of nodes of this round's serial burst that did not enter the chain.
  int32_t lost;
  int32_t filled;  // 1: after a miss look-ups made a good chain, so no burst is needed
  SBRT_PART(draft_have)
  int64_t draft_have;      // all trunk positions before this one have draft KV
  int32_t draft_compacts;  // 1: the draft has KV of the last chain, so it moves the accepted path
  SBRT_PART(chain_dist)
  Mask draft_nodes;         // root and chain nodes with draft KV and a distribution, as bits
  Dist chain_dist[kSlots];  // [node] the draft's distribution after the root and the chain's nodes
  SBRT_PART(branches)
  int32_t step;  // number of steps of the burst so far
  int32_t branch_count;
  int32_t draft_idle;  // 1: nothing was planned, because the draft's context limit is reached
  Branch branches[kMaxBranches];
  SBRT_PART(target_rows)
  RowList target_rows;  // rows for the root and the chain, or for a prompt piece
  SBRT_PART(target_batch)
  Mask verified;  // root and chain nodes with a row in the target's batch, as bits
  SBRT_PART(target_have)
  int64_t target_have;  // all positions before this one have target KV; prefill advances it
  SBRT_PART(draft_rows)
  RowList draft_rows;
  SBRT_PART(settings)
  // [max_model_len + kSlots], or null. For each token of the trunk: 1 + its rank in the draft's
  // distribution for this position. It is 1 + kCandidates if the token was no candidate. It is
  // kUnknownRank if the distribution was not kept.
  uint8_t* rank;
};

// Returns true if candidates are accepted at random. At temperature 0 the result is false, whatever
// the policy says.
SBRT_ANY inline bool is_rejection(const Sequence& s) {
  return s.policy.rejection && s.sampling.temperature > 0;
}

// Returns the index of the row that verifies `node`, among the rows of this sequence in the
// target's batch.
SBRT_ANY inline int verified_before(const Sequence& c, int node) {
  return Mask::of(c.verified.bits() & Mask::upto(node).bits()).count();
}

}  // namespace sbrt
