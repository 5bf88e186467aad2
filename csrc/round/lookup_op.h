// Prompt lookup: finds earlier places in the trunk whose tokens match the end of a text. The code
// runs on every device.
#pragma once

#include "round/crew.h"

namespace sbrt {

constexpr int kShortestMatch = 2, kLongestMatch = 16;  // tokens

// The last tokens of a text, newest first.
struct TextEnd {
  int n;
  int32_t token[kLongestMatch];
};

// A place in the trunk whose tokens match the end of a text.
struct Match {
  int64_t after;  // position after the matching tokens
  int length;     // number of matching tokens, at most kLongestMatch; 0: no match
};

SBRT_ANY inline TextEnd end_of(const int32_t* trunk, int64_t length) {
  TextEnd end;
  end.n = static_cast<int>(least<int64_t>(kLongestMatch, length));
  for (int i = 0; i < end.n; ++i) end.token[i] = trunk[length - 1 - i];
  return end;
}

// Returns the length of the match at position `last` of the trunk: how many tokens of `end`, newest
// first, equal the trunk tokens from `last` backwards.
SBRT_ANY inline int matching(const int32_t* trunk, const TextEnd& end, int64_t last) {
  int n = 0;
  while (n < end.n && n <= last && trunk[last - n] == end.token[n]) ++n;
  return n;
}

// Returns the best match of `end` in the trunk. The match ends at position `newest` or before, and
// has at least `shortest` tokens. The best match is the longest; among equally long ones it is the
// latest.
template <class Team>
SBRT_ANY Match best_match(const int32_t* trunk, int64_t newest, const TextEnd& end, int shortest,
                          Team team) {
  constexpr int kPositionBits = 56;
  uint64_t found = 0;
  int longest = shortest - 1;
  for (int64_t last = newest - team.rank; last >= 0 && longest < kLongestMatch; last -= team.size) {
    if (trunk[last] != end.token[0]) continue;
    const int n = matching(trunk, end, last);
    if (n <= longest) continue;
    longest = n;
    found = static_cast<uint64_t>(n) << kPositionBits | static_cast<uint64_t>(last + 1);
  }
  found = team.best(found);
  return {static_cast<int64_t>(found & ((uint64_t{1} << kPositionBits) - 1)),
          static_cast<int>(found >> kPositionBits)};
}

// Returns the position after the best match for the end of the trunk. Returns -1 if there is no
// match.
template <class Team>
SBRT_ANY int64_t after_match(const int32_t* trunk, int64_t length, Team team) {
  const Match match = best_match(trunk, length - 2, end_of(trunk, length), kShortestMatch, team);
  return match.length > 0 ? match.after : -1;
}

// Writes `want` tokens of the trunk to `found`, from position `after` on. At the trunk's end it
// continues with the tokens written first, as if the text repeated.
SBRT_ANY inline void read_on(const int32_t* trunk, int64_t length, int64_t after, int want,
                             int32_t* found) {
  for (int i = 0; i < want; ++i)
    found[i] = after + i < length ? trunk[after + i] : found[after + i - length];
}

}  // namespace sbrt
