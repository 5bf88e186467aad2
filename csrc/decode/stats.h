// Counters of one sequence. The JSON output uses the same definitions.
#pragma once

#include <cstdint>

#include "state/sizes.h"

namespace sbrt {

struct Stats {
  int64_t rounds = 0;  // number of target forwards
  // Number of rounds enqueued before the previous round's record was read.
  int64_t rounds_ahead = 0;
  int64_t draft_tokens = 0;   // sum of the depths of the verified chains
  int64_t accepted = 0;       // number of accepted draft tokens
  int64_t branches = 0;       // number of branches
  int64_t branch_rounds = 0;  // rounds that had branches and did not end the sequence
  int64_t branch_hits = 0;    // those of branch_rounds whose outcome was among the branches
  int64_t discarded_branch_tokens = 0;  // number of drafted nodes that never entered a chain
  // Rounds in which the draft sat out because its context was full.
  int64_t draft_limit_rounds = 0;
  // Rounds in which a residual had no mass; only under rejection.
  int64_t empty_residuals = 0;
  int64_t reused = 0;  // number of prompt tokens whose KV was reused
  int64_t prefill_ns = 0;
  // Time from the end of the prefill to the last round that was read.
  int64_t decode_ns = 0;
  int64_t histogram[kSlots] = {};  // [n] number of rounds with n accepted tokens

  int64_t rollback_tokens() const { return draft_tokens - accepted; }
};

}  // namespace sbrt
