// Counts how often each token occurs in the trunk. Host and device compile the same code.
#pragma once

#include "state/sequence.h"

namespace sbrt {

// Counts a token that was appended to the trunk. is_output: it follows the prompt.
SBRT_ANY inline void count_token(Counts& counts, int32_t token, bool is_output) {
  if (!counts.seen[token]) counts.token[counts.n++] = token;
  counts.seen[token] = 1;
  counts.output[token] += is_output;
}

}  // namespace sbrt
