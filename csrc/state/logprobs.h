// Log-probs of a sequence's tokens, for requests that ask for them.
#pragma once

#include <cstdint>

#include "core/any.h"

namespace sbrt {

// The log-prob of one token. The most likely token has rank 1. Equally likely tokens are ranked by
// id, lowest first. If the row has a NaN or +inf, or no token can be sampled, the rank is 0.
struct TokenLogprob {
  int32_t token;  // -1: no entry, because fewer tokens exist than were asked for
  int32_t rank;
  float logprob;
};

// Log-probs at some positions of a sequence. Each position has 1 + top entries: one for the token
// at the position, then those of the most likely tokens.
struct LogprobList {
  int32_t top = -1;  // -1: the request does not ask for log-probs
  // Number of positions with memory; position p uses entry p mod kept.
  int64_t kept = 0;
  TokenLogprob* entries = nullptr;  // [kept, 1 + top]

  SBRT_ANY int64_t width() const { return int64_t{1} + top; }
  SBRT_ANY TokenLogprob* at(int64_t position) const { return entries + position % kept * width(); }
};

// The lists of one seat. The host sets up the lists before a sequence begins. Ops write the
// entries.
struct Logprobs {
  LogprobList prompt;  // all positions of the prompt; the first one has no entry
  LogprobList output;  // positions of the last rounds, in a ring buffer
};

}  // namespace sbrt
