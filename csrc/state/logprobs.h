// Log-probs of a sequence's tokens, for requests that ask for them.
#pragma once

#include <cstdint>

#include "core/any.h"

namespace sbrt {

// rank is 1 for the most likely token. Equally likely tokens are ranked by id, lowest first. rank
// is 0 if the row has a NaN or +inf, or if no token can be sampled.
struct TokenLogprob {
  int32_t token;  // -1: no entry, because fewer tokens exist than were asked for
  int32_t rank;
  float logprob;
};

// Log-probs at some positions. Each position has 1 + top entries: one for its own token, then those
// of the most likely tokens.
struct LogprobList {
  int32_t top = -1;  // -1: no log-probs are asked for
  // Number of positions that are kept; position p is at p mod kept.
  int64_t kept = 0;
  TokenLogprob* entries = nullptr;  // [kept, 1 + top]

  SBRT_ANY int64_t width() const { return int64_t{1} + top; }
  SBRT_ANY TokenLogprob* at(int64_t position) const { return entries + position % kept * width(); }
};

// The lists of one seat. The host writes them between sequences; ops write the entries.
struct Logprobs {
  LogprobList prompt;  // all positions of the prompt; the first position has no entry
  LogprobList output;  // positions of the last rounds, as a ring buffer
};

}  // namespace sbrt
