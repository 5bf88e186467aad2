// A sequence: all state of one request between its first and its last round, without that of a
// forward.
#pragma once

#include <cstdint>

#include "core/any.h"
#include "state/batch.h"
#include "state/policy.h"

namespace sbrt {

// The draft's distribution at one node: its first choices and its confidence.
struct Dist {
  int32_t n;                   // number of candidates
  float q;                     // softmax of the raw logits at temperature 1, for the first choice;
                               // under rejection the largest one
  float entropy;               // entropy of that softmax, nats
  int32_t token[kCandidates];  // first choices under the acceptance rule, best first
  // Logarithm of each candidate's confidence, at most 0. The confidence is greedy: the candidate's
  // probability in that softmax; sampled: the softmax, among the candidates, of their scores with
  // noise; under rejection: the r-th largest probability, independent of the draw.
  float lp[kCandidates];
};

// Rows after the sampling parameters: logit / temperature, -inf for excluded tokens; their softmax
// is the distribution. Kept under rejection for `select`, for every row that is verified or was
// drawn from. A draft's rows have the columns of its logits (ops/columns.h): its other tokens have
// probability 0. With two memories the target's `chain` is a copy that a mail writes.
// Rows that a lane does not read are null there.
struct Scores {
  int32_t vocab;
  int32_t tail_slots;
  int32_t columns;     // columns of a draft's row
  const int32_t* ids;  // [columns] the token of a column; null: column i is token i
  float* target;       // [kMaxRows, vocab] target's, at root and chain nodes
  float* chain;        // [kSlots, columns] draft's, at root and chain nodes
  float* in_place;     // [kMaxTail, columns] draft's, at the nodes of a certain branch
  float* tails;        // [branches, tail_slots, columns] draft's, at the nodes of the others

  SBRT_ANY float* tail(int branch, int node) const {
    return tails + (int64_t{branch} * tail_slots + node) * columns;
  }
};

// Nodes 1 .. size are below node 0, the root. parent[i] < i, so ancestors ascend by depth.
struct Chain {
  int32_t size;   // nodes after the root
  int32_t depth;  // depth of the deepest node
  Mask known;     // nodes that were looked up; the others were drawn, siblings in that order
  int32_t token[kSlots];
  int32_t parent[kSlots];
  int32_t level[kSlots];  // depth of a node; the root's is 0
  float score[kSlots];    // log probability that the node is accepted; at most the parent's
  Mask mask[kSlots];      // the node, its ancestors and the root
  int32_t next[kSlots];   // the token that a look-up found after the node; -1: none
  int32_t match[kSlots];  // length of the match that gave it
};

// Share of look-ups that were right in this sequence, by kind of match. Older ones have less
// weight.
struct Hindsight {
  float right[kMatches];
  float seen[kMatches];
};

// A prepared continuation for the outcome (node, token). Node 0 of its tail is that token; the
// others are below it, parent[j] < j.
struct Branch {
  int32_t node;
  int32_t size;      // drafted tail nodes, without node 0
  int32_t in_place;  // 1: the certain branch, which grows in the in-flight slots
  int32_t token[kMaxTail];
  int32_t parent[kMaxTail];
  int32_t level[kMaxTail];     // below node 0
  int32_t tried[kMaxTail];     // candidates of dist[j] that are nodes already
  int32_t has_dist[kMaxTail];  // 1: the draft has processed node j; its KV and dist exist
  float score[kMaxTail];       // log probability that the node is accepted
  Mask mask[kMaxTail];         // node j and its ancestors in the tail
  Dist dist[kMaxTail];         // the draft's distribution AT node j
};

struct Outcome {
  int32_t node;          // the last accepted node
  int32_t n;             // its depth: accepted tokens
  int32_t y;             // the target's own token after it
  int32_t branch;        // the prepared branch that was adopted, -1 after a miss
  int32_t error;         // RowError
  int32_t path[kSlots];  // path[i]: the accepted node at depth i, path[0] = 0
};

// Counts of the trunk's tokens; up to date with the trunk while shaping.penalises.
struct Counts {
  int32_t n;        // distinct tokens of the trunk
  int32_t* token;   // [vocab] the tokens
  int32_t* output;  // [vocab] number of times after the prompt
  uint8_t* seen;    // [vocab] 1: occurs in the trunk
};

constexpr uint8_t kUnknownRank = 0;  // the value of fresh memory, most of which is never touched

// Names the part of the following fields (state/parts.h). tools/state_fields.py reads it.
#define SBRT_PART(name)

// In the memory of the backend that runs the ops. The host writes it between sequences. With two
// memories each has one, and mail copies what a lane owns to the other's (state/mail.h).
// csrc/README.md lists the writer of each part.
struct Sequence {
  SBRT_PART(settings)
  Sampling sampling;
  Shaping shaping;
  Policy policy;
  Prices prices;
  Scores scores;        // their addresses; the lanes own their contents
  int64_t limit;        // longest trunk of this sequence, tokens
  int64_t draft_limit;  // longest trunk the draft can follow
  int64_t draft_vocab;  // ids from here on the draft cannot read; its head may know fewer
  SBRT_PART(trunk)
  int32_t* trunk;       // [max_model_len] committed tokens
  uint64_t trunk_hash;  // hash of all of them
  int64_t followed;     // length of the trunk in the draft's memory, if that is another
  Counts counts;
  SBRT_PART(outcome)
  int32_t no_mass;  // 1: a residual of this round was empty (round/accept_op.h)
  Cut cut;          // H-RAD's decision on the adopted tail
  int64_t head;     // position of the root
  Outcome outcome;
  int32_t committed[kSlots];  // tokens that the outcome added to the trunk: those accepted, then y
  float sharpness;            // exponent that calibrates confidence, fitted to outcomes
  Hindsight hindsight;
  SBRT_PART(chain)
  Chain chain;
  int32_t source[kSlots];  // the node of the adopted tail that a chain node was; -1: none
  int32_t lost;            // nodes of this round's serial burst that did not enter the chain
  int32_t filled;          // 1: after a miss a look-up made the chain, and no burst is needed
  SBRT_PART(chain_dist)
  Mask
      draft_nodes;  // nodes of the chain, including the root, that have draft KV and a distribution
  Dist chain_dist[kSlots];  // the draft's distribution at root and chain nodes
  SBRT_PART(branches)
  int32_t step;  // steps of the burst so far
  int32_t branch_count;
  int32_t draft_idle;  // 1: past the draft's context limit, so nothing was planned
  Branch branches[kMaxBranches];
  SBRT_PART(target_rows)
  RowList target_rows;  // root and chain, or a piece of the prompt
  SBRT_PART(target_batch)
  Mask verified;  // nodes of the chain with a row in the target's batch, including the root
  SBRT_PART(target_have)
  int64_t target_have;  // positions before this have target KV; prefill advances it
  SBRT_PART(draft_rows)
  RowList draft_rows;
  SBRT_PART(draft_have)
  int64_t draft_have;      // positions of the trunk before this have draft KV
  int32_t draft_compacts;  // 1: nodes of the last chain had draft KV, so that its path is compacted
  SBRT_PART(settings)
  // [max_model_len + kSlots] or null. For each token of the trunk: 1 + its rank in the draft's
  // distribution before it; 1 + kCandidates if it is no candidate; kUnknownRank if that
  // distribution was not kept.
  uint8_t* rank;
};

// True if candidates are accepted at random. Greedy sampling is never random.
SBRT_ANY inline bool is_rejection(const Sequence& s) {
  return s.policy.rejection && s.sampling.temperature > 0;
}

// The index of a node's row among the seat's rows of the batch.
SBRT_ANY inline int verified_before(const Sequence& c, int node) {
  return Mask::of(c.verified.bits() & Mask::upto(node).bits()).count();
}

}  // namespace sbrt
