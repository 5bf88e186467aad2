// The state that the ops of a lane can access, in the memory of the lane's device. Both lanes share
// one LaneMemory unless the draft has its own device.
#pragma once

#include <vector>

#include "decode/request.h"
#include "state/sequence.h"

namespace sbrt {

struct LaneMemory {
  int place = 0;  // number of this memory in the backend
  Cells<Sequence> sequences;
  Cells<int32_t> trunks;  // [seats, room] tokens of a seat's trunk
  Cells<uint8_t> ranks;   // [seats, room] ranks of these tokens in the draft's distributions
  Cells<int64_t> ended;   // Seats::ended: for rounds, the target's pieces, the draft's pieces
  ShapingMemory dense_shaping;
  std::vector<ShapingStore> shaping;  // [seats]

  Sequence& at(int seat) const { return sequences.host()[seat]; }
};

}  // namespace sbrt
