// Log-probs of a sequence's tokens, for requests that ask for them.
#pragma once

#include <cstdint>

#include "core/any.h"

namespace sbrt {

// rank: 1 for the most likely token; equally likely ones rank by id, lowest first. 0: the row was
// not a number.
struct TokenLogprob {
  int32_t token;  // -1: no entry, because fewer tokens are possible than were asked for
  int32_t rank;
  float logprob;
};

// Entries of some positions. Each has 1 + top: the position's own token, then the most likely ones.
struct LogprobList {
  int32_t top = -1;                 // -1: not asked for
  int64_t kept = 0;                 // position p is at p mod kept
  TokenLogprob* entries = nullptr;  // [kept, 1 + top]

  SBRT_ANY int64_t width() const { return int64_t{1} + top; }
  SBRT_ANY TokenLogprob* at(int64_t position) const { return entries + position % kept * width(); }
};

// The lists of one seat. The host writes them between sequences; ops write the entries.
struct Logprobs {
  LogprobList prompt;  // [prompt's tokens]; the first has no entry
  LogprobList output;  // [kept] tokens of the last rounds
};

}  // namespace sbrt
