// What forwards cost in virtual time, ns by rows in use, and what a round costs besides.
#pragma once

#include <array>
#include <cstdint>

#include "state/sizes.h"

namespace sbrt {

constexpr int kCostRows = kMaxStepRows;  // rows of the largest forward of either lane

using CostTable = std::array<int64_t, kCostRows + 1>;  // entry 0, a forward of no rows, is 0

struct LaneCosts {
  CostTable target{}, draft{};
};

struct Costs {
  LaneCosts alone;           // in rounds whose lanes take turns, or that the target is alone in
  LaneCosts overlapped;      // in rounds whose lanes run beside each other, each forward of both
  int64_t round = 0;         // of the host, once a round
  int64_t turns = 0;         // more, where the target waits for a burst before its forward
  int64_t side_by_side = 0;  // more, where a burst runs beside it

  const LaneCosts& of(bool overlaps) const { return overlaps ? overlapped : alone; }
  int64_t besides(bool serial_burst, bool overlaps) const {
    return round + (serial_burst ? turns : 0) + (overlaps ? side_by_side : 0);
  }
};

}  // namespace sbrt
