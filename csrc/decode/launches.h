// The values that select captured graphs for the launches of a lane. The host changes them only
// while no round is in flight. So all rounds in flight use the same graphs.
#pragma once

#include "decode/row_bounds.h"
#include "model/lane.h"

namespace sbrt {

struct Launches {
  RowBounds most;
  ChoiceKind kind;       // kind of sampling that suffices for all requests
  bool moves_kv = true;  // true: a chain may be a tree, so the target may have to move KV

  bool operator==(const Launches&) const = default;
};

}  // namespace sbrt
