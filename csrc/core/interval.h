// A half-open interval of positions, rows or bytes.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sbrt {

struct Interval {
  int64_t begin = 0, end = 0;

  constexpr int64_t size() const { return std::max<int64_t>(0, end - begin); }
  constexpr bool empty() const { return end <= begin; }
  constexpr bool holds(int64_t i) const { return i >= begin && i < end; }
};

// Splits [0, n) into `ranks` parts, and returns the part of member `rank`. Parts begin at multiples
// of `grain`.
constexpr Interval share_of(int64_t n, int rank, int ranks, int64_t grain = 1) {
  const int64_t units = (n + grain - 1) / grain;
  return {std::min(n, units * rank / ranks * grain),
          std::min(n, units * (rank + 1) / ranks * grain)};
}

}  // namespace sbrt
