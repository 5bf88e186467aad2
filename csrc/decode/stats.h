// Counters of one sequence; they have the definitions of the JSON output.
#pragma once

#include <cstdint>

#include "state/sizes.h"

namespace sbrt {

struct Stats {
  int64_t rounds = 0;         // target passes
  int64_t rounds_ahead = 0;   // enqueued before the previous round's record was read
  int64_t draft_tokens = 0;   // sum of the chains' depths
  int64_t accepted = 0;       // sum of n
  int64_t branches = 0;       // prepared branches
  int64_t branch_rounds = 0;  // rounds with a prepared branch after which the sequence went on
  int64_t branch_hits = 0;    // rounds of these whose outcome was among the branches
  int64_t discarded_branch_tokens = 0;  // drafted nodes that never entered a chain
  int64_t draft_limit_rounds = 0;       // rounds past the draft's context limit
  int64_t empty_residuals = 0;          // rounds in which a residual had no mass: rejection only
  int64_t reused = 0;                   // tokens of the prompt whose KV was reused
  int64_t prefill_ns = 0;
  int64_t decode_ns = 0;           // time from then to the last round that was read
  int64_t histogram[kSlots] = {};  // rounds by accepted tokens n

  int64_t rollback_tokens() const { return draft_tokens - accepted; }
};

}  // namespace sbrt
