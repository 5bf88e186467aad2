// Costs in virtual time: the ns of a forward for each number of rows, and other costs of a round.
#pragma once

#include <array>
#include <cstdint>

#include "state/sizes.h"

namespace sbrt {

constexpr int kCostRows = kMaxStepRows;  // rows of the largest forward of either lane

using CostTable = std::array<int64_t, kCostRows + 1>;  // [rows] ns of a forward; entry 0 is 0

struct LaneCosts {
  CostTable target{}, draft{};
};

struct Costs {
  LaneCosts alone;           // forwards in rounds whose lanes do not overlap
  LaneCosts overlapped;      // forwards in rounds whose lanes overlap
  int64_t round = 0;         // ns that the host needs per round
  int64_t turns = 0;         // ns added if the target waits for a burst before its forward
  int64_t side_by_side = 0;  // ns added if the draft runs during the target's forward

  const LaneCosts& of(bool overlaps) const { return overlaps ? overlapped : alone; }
  int64_t overhead(bool serial_burst, bool overlaps) const {
    return round + (serial_burst ? turns : 0) + (overlaps ? side_by_side : 0);
  }
};

}  // namespace sbrt
