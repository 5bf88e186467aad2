// How many rows the forwards of a round have at most, by its policy alone: which of a lane's graphs fits
// is known before any outcome is (model/lane.h, Expected).
#pragma once

#include <algorithm>

#include "exec/control.h"

namespace sbrt {

struct RowBounds {
  int32_t verify = kMaxRows;    // root and chain
  int32_t catch_up = kMaxRows;  // what the draft lacks of trunk and chain
  int32_t step = kMaxStepRows;  // nodes of all branches; of a serial burst, what it lacks too
};

// Nodes of the chains that a policy leads to.
inline int32_t most_nodes(const Policy& p) {
  const int32_t grown = p.gamma == 0 ? 0 : p.width > 1 ? p.nodes : p.gamma;
  const int32_t burst = p.on_miss == kGoOn ? 0 : p.burst_width > 1 ? p.nodes : p.burst;
  return std::min<int32_t>(kMaxChain, std::max(grown, burst));
}

// `chain`: most nodes of the chain that is there, hung under the policy of the round before.
// `level`: the draft is level with the trunk but for what a path leaves behind, its last node.
inline RowBounds row_bounds(const Policy& p, int32_t chain, bool level) {
  RowBounds most;
  const bool is_path =
      p.width == 1 && p.on_miss != kLookup && (p.on_miss == kGoOn || p.burst_width == 1);
  most.verify = 1 + std::max(chain, most_nodes(p));
  if (level && is_path) most.catch_up = 4;
  most.step = std::clamp(p.branches * p.width, 1, kMaxStepRows);
  if (p.on_miss == kBurst)
    most.step = std::max({most.step, most.catch_up, std::min<int32_t>(p.burst_width, kMaxRows)});
  return most;
}

}  // namespace sbrt
