// What forwards cost in virtual time, ns by rows in use; everything else costs nothing.
#pragma once

#include <array>
#include <cstdint>

#include "exec/control.h"

namespace sbrt {

using CostTable = std::array<int64_t, kMaxRows + 1>;  // entry 0, a forward of no rows, is 0

struct LaneCosts {
  CostTable target{}, draft{};
};

struct Costs {
  LaneCosts alone;       // of methods whose lanes take turns
  LaneCosts overlapped;  // of methods whose lanes run beside each other
  int64_t round = 0;     // of the host, once a round
};

}  // namespace sbrt
