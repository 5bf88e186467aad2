// Counts of the trunk's tokens, for every device.
#pragma once

#include "state/sequence.h"

namespace sbrt {

// Adds one token of the trunk.
SBRT_ANY inline void count_token(Counts& counts, int32_t token, bool is_output) {
  if (!counts.seen[token]) counts.token[counts.n++] = token;
  counts.seen[token] = 1;
  counts.output[token] += is_output;
}

}  // namespace sbrt
