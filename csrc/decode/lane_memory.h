// The state that the ops of a lane reach, in the memory of the lane's device. Both lanes share one
// unless the draft has a device of its own.
#pragma once

#include <vector>

#include "decode/request.h"
#include "state/sequence.h"

namespace sbrt {

struct LaneMemory {
  int place = 0;  // of the backend's memories
  Cells<Sequence> sequences;
  Cells<int32_t> trunks;  // [seats, room] tokens of a seat's trunk
  Cells<uint8_t> ranks;   // the same
  Cells<int64_t> ended;   // Seats::ended: of rounds, of the target's pieces, of the draft's
  ShapingMemory dense_shaping;
  std::vector<ShapingStore> shaping;  // [seats]

  Sequence& at(int seat) const { return sequences.host()[seat]; }
};

}  // namespace sbrt
