// Where the trunk read before as it does at its end now. On every device.
#pragma once

#include "round/crew.h"

namespace sbrt {

constexpr int kShortestMatch = 2, kLongestMatch = 16;  // tokens

// How far the trunk's end reads like what ends at position `last`, up to kLongestMatch tokens.
SBRT_ANY inline int matching(const int32_t* trunk, int64_t length, int64_t last) {
  int n = 0;
  while (n < kLongestMatch && n <= last && trunk[last - n] == trunk[length - 1 - n]) ++n;
  return n;
}

// The position behind the best match: the longest counts, the latest of equal ones; -1 if there is none.
template <class Team>
SBRT_ANY int64_t after_match(const int32_t* trunk, int64_t length, Team team) {
  constexpr int kLengthBits = 56;  // of positions
  uint64_t found = 0;
  int longest = kShortestMatch - 1;
  for (int64_t last = length - 2 - team.rank; last >= 0 && longest < kLongestMatch;
       last -= team.size) {
    if (trunk[last] != trunk[length - 1]) continue;
    const int n = matching(trunk, length, last);
    if (n <= longest) continue;
    longest = n;
    found = static_cast<uint64_t>(n) << kLengthBits | static_cast<uint64_t>(last + 1);
  }
  found = team.best(found);
  return found ? static_cast<int64_t>(found & ((uint64_t{1} << kLengthBits) - 1)) : -1;
}

// What followed there, `want` tokens. What repeats up to the trunk's end goes on repeating.
SBRT_ANY inline void read_on(const int32_t* trunk, int64_t length, int64_t after, int want,
                             int32_t* found) {
  for (int i = 0; i < want; ++i)
    found[i] = after + i < length ? trunk[after + i] : found[after + i - length];
}

}  // namespace sbrt
