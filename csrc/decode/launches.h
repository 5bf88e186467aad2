// The values that select captured graphs for the launches of a lane. The host changes them only
// while no round is in flight. So all rounds in flight use the same graphs.
#pragma once

#include "decode/row_bounds.h"
#include "model/lane.h"

namespace sbrt {

struct Launches {
  RowBounds most;
  ChoiceKind kind;                  // kind of sampling that suffices for all requests
  bool moves_kv = true;             // a chain may be a tree, so the target may have to move KV
  int32_t branches = kMaxBranches;  // largest number of branches of one seat
  // Largest number of rows of scores that rejection needs at the root and the chain nodes of one
  // seat. With two memories a mail copies that many.
  int32_t scored = kSlots;

  bool operator==(const Launches&) const = default;
};

}  // namespace sbrt
