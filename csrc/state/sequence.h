// A sequence: all that one request needs between its first and its last round, and nothing of a forward.
#pragma once

#include <cstdint>

#include "core/any.h"
#include "state/batch.h"
#include "state/policy.h"

namespace sbrt {

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

// Rows as the sampling parameters leave them: logit / temperature, -inf where a token is out; a law is
// their softmax. Kept under rejection, for `select`, of every row that is verified or was drawn from.
// A draft's rows have the columns of its logits (ops/columns.h): its other tokens have no probability.
struct Scores {
  int32_t vocab;
  int32_t tail_slots;
  int32_t columns;     // of a draft's row
  const int32_t* ids;  // [columns] the token of a column; null: column i is of token i
  float* target;       // [kMaxRows, vocab] of the target at root and chain nodes
  float* chain;        // [kSlots, columns] of the draft at root and chain nodes
  float* in_place;     // [kMaxTail, columns] of the draft at the nodes of a certain branch
  float* tails;        // [branches, tail_slots, columns] of the draft at the nodes of the others

  SBRT_ANY float* tail(int branch, int node) const {
    return tails + (int64_t{branch} * tail_slots + node) * columns;
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
  float score[kSlots];  // logarithm of the confidence that the walk comes by; at most the parent's
  Mask mask[kSlots];    // the node, its ancestors and the root
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

// The trunk's tokens, counted: always at the trunk's length while shaping.penalises.
struct Counts {
  int32_t n;        // distinct tokens of the trunk
  int32_t* token;   // [vocab] them
  int32_t* output;  // [vocab] how often each stands behind the prompt
  uint8_t* seen;    // [vocab] 1: somewhere in the trunk
};

constexpr uint8_t kUnknownRank = 0;  // what fresh memory says: most of it is never touched

// Says which part the fields from here on belong to (state/parts.h). tools/state_fields.py reads it.
#define SBRT_PART(name)

// Lies in the memory of whoever runs the ops; the host writes it between sequences. Who writes which part
// stands in csrc/README.md.
struct Sequence {
  SBRT_PART(settings)
  Sampling sampling;
  Shaping shaping;
  Policy policy;
  Prices prices;
  Scores scores;        // where they are; what they say belongs to the lanes
  int64_t limit;        // longest trunk of this sequence, tokens
  int64_t draft_limit;  // longest trunk the draft can follow
  int64_t draft_vocab;  // ids from here on the draft cannot read; its head may know fewer
  SBRT_PART(outcome)
  int64_t head;         // position of the root
  int32_t* trunk;       // [max_model_len] committed tokens
  uint64_t trunk_hash;  // of all of them
  Counts counts;
  SBRT_PART(chain)
  Chain chain;
  SBRT_PART(outcome)
  Outcome outcome;
  SBRT_PART(chain)
  int32_t source[kSlots];  // the node of the adopted tail that a chain node was
  SBRT_PART(outcome)
  float sharpness;  // exponent that calibrates confidence, fitted to the outcomes
  SBRT_PART(chain)
  int32_t lost;  // nodes of this round's serial burst that did not enter the chain
  SBRT_PART(outcome)
  int32_t no_mass;  // 1: a residual of this round was empty (round/accept.h)
  Cut cut;          // what H-RAD says of the adopted tail
  SBRT_PART(target_rows)
  RowList target_rows;  // root and chain, or a piece of the prompt
  SBRT_PART(target_batch)
  Mask verified;  // nodes of the chain that have a row in the target's batch, the root among them
  SBRT_PART(target_have)
  int64_t target_have;  // positions before this have target KV; moved by prefill
  SBRT_PART(draft_rows)
  RowList draft_rows;
  SBRT_PART(draft_have)
  int64_t draft_have;  // positions of the trunk before this have draft KV
  Mask draft_nodes;    // nodes of the chain, the root among them, that have draft KV and a law
  SBRT_PART(branches)
  int32_t step;  // steps of the burst so far
  int32_t branch_count;
  int32_t draft_idle;  // 1: past the draft's context limit, nothing was planned
  SBRT_PART(draft_have)
  int32_t draft_compacts;  // 1: nodes of the last chain had draft KV, so that its path is compacted
  SBRT_PART(branches)
  Branch branches[kMaxBranches];
  SBRT_PART(chain_law)
  Law chain_law[kSlots];  // the draft's law at root and chain nodes
  SBRT_PART(settings)
  // [max_model_len + kSlots] or null: one more than the place of the trunk's token in the draft's law
  // before it, than kCandidates if it has none there; kUnknownRank if no law was kept.
  uint8_t* rank;
};

// Whether candidates stand by chance. What is greedy has no chance in it.
SBRT_ANY inline bool is_rejection(const Sequence& s) {
  return s.policy.rejection && s.sampling.temperature > 0;
}

// The place of a node's row among the seat's rows of the batch.
SBRT_ANY inline int verified_before(const Sequence& c, int node) {
  return Mask::of(c.verified.bits() & Mask::upto(node).bits()).count();
}

}  // namespace sbrt
