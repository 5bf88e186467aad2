// The part of the state that a lane's ops can access, in the memory of the lane's device. Both
// lanes share one LaneMemory unless the draft has its own device.
#pragma once

#include <vector>

#include "decode/request.h"
#include "state/sequence.h"

namespace sbrt {

struct LaneMemory {
  int place = 0;  // number of this memory among the backend's memories
  Cells<Sequence> sequences;
  Cells<int32_t> trunks;  // [seats, room] tokens of a seat's trunk
  // Memory of Seats::ended: the number of finished rounds, of finished prompt pieces of the target,
  // and of finished prompt pieces of the draft.
  Cells<int64_t> ended;
  ShapingMemory dense_shaping;
  std::vector<ShapingStore> shaping;  // [seats]

  Sequence& at(int seat) const { return sequences.host()[seat]; }
};

}  // namespace sbrt
