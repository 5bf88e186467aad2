// Counters of one sequence, with the same definitions as in the JSON output.
#pragma once

#include <cstdint>

#include "state/sizes.h"

namespace sbrt {

struct Stats {
  int64_t rounds = 0;         // target passes
  int64_t rounds_ahead = 0;   // rounds enqueued before the previous round's record was read
  int64_t draft_tokens = 0;   // sum of the chains' depths
  int64_t accepted = 0;       // number of accepted draft tokens
  int64_t branches = 0;       // number of branches
  int64_t branch_rounds = 0;  // rounds with a branch after which the sequence continued
  int64_t branch_hits = 0;    // number of branch_rounds whose outcome was among the branches
  int64_t discarded_branch_tokens = 0;  // drafted nodes that never entered a chain
  int64_t draft_limit_rounds = 0;       // rounds past the draft's context limit
  int64_t empty_residuals = 0;          // rejection: rounds in which a residual had no mass
  int64_t reused = 0;                   // tokens of the prompt whose KV was reused
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;           // from the end of the prefill to the last round that was read
  int64_t histogram[kSlots] = {};  // [n] number of rounds with n accepted tokens

  int64_t rollback_tokens() const { return draft_tokens - accepted; }
};

}  // namespace sbrt
