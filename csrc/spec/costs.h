// What forwards cost in virtual time, ns by rows in use; everything else costs nothing.
#pragma once

#include <array>
#include <cstdint>

#include "exec/control.h"

namespace sbrt {

constexpr int kCostRows = kMaxStepRows;  // rows of the largest forward of either lane

using CostTable = std::array<int64_t, kCostRows + 1>;  // entry 0, a forward of no rows, is 0

struct LaneCosts {
  CostTable target{}, draft{};
};

struct Costs {
  LaneCosts alone;       // in rounds whose lanes take turns, or that the target is alone in
  LaneCosts overlapped;  // in rounds whose lanes run beside each other, each forward of both
  int64_t round = 0;     // of the host, once a round

  const LaneCosts& of(bool overlaps) const { return overlaps ? overlapped : alone; }
};

}  // namespace sbrt
