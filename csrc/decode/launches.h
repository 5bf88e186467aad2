// Selects the captured graphs that the launches of a lane take. The host changes it while no round
// is in flight. So all rounds in flight take the same graphs.
#pragma once

#include "decode/row_bounds.h"
#include "model/lane.h"

namespace sbrt {

struct Launches {
  RowBounds most;
  ChoiceKind kind;       // the choice that covers all requests
  bool moves_kv = true;  // chains may be trees, whose accepted path the target's KV is moved to

  bool operator==(const Launches&) const = default;
};

}  // namespace sbrt
