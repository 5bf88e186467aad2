#include <algorithm>

#include "spec/lanes.h"

namespace sbrt {
namespace {

constexpr int kShortest = 2, kLongest = 16;  // tokens of a match

// How far the trunk's end reads like what ends at position `last`, up to kLongest tokens.
int matching(const int32_t* trunk, int64_t length, int64_t last) {
  int n = 0;
  while (n < kLongest && n <= last && trunk[last - n] == trunk[length - 1 - n]) ++n;
  return n;
}

}  // namespace

int look_up(const int32_t* trunk, int64_t length, int want, int32_t* found) {
  int longest = kShortest - 1;
  int64_t after = -1;
  for (int64_t last = length - 2; last >= 0 && longest < kLongest; --last) {
    if (trunk[last] != trunk[length - 1]) continue;
    const int n = matching(trunk, length, last);
    if (n > longest) longest = n, after = last + 1;
  }
  if (after < 0) return 0;
  // What repeats up to the trunk's end goes on repeating.
  for (int i = 0; i < want; ++i)
    found[i] = after + i < length ? trunk[after + i] : found[after + i - length];
  return want;
}

}  // namespace sbrt
