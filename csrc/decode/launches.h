// It says which captured graphs the launches of a lane take. The host changes it while no round is
// in flight, so that all rounds in flight are of one kind.
#pragma once

#include "decode/row_bounds.h"
#include "model/lane.h"

namespace sbrt {

struct Launches {
  RowBounds most;
  ChoiceKind kind;       // what any of the requests asks of a choice
  bool moves_kv = true;  // chains may be trees, whose accepted path the target's KV is moved to

  bool operator==(const Launches&) const = default;
};

}  // namespace sbrt
