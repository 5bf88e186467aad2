// Types for the rows of one forward of a lane.
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "state/sizes.h"

namespace sbrt {

// One row of a forward. The masks include the row's own slot.
struct Row {
  int64_t position;  // absolute position, which gives the rope angle
  int32_t token;
  int32_t slot;    // slot for the row's K/V; -1 for padding
  int32_t branch;  // branch of the row's node; -1: the row is no node of a branch
  // Node of the branch; if branch is -1, node of the chain. -1: the row is a trunk token.
  int16_t node;
  int16_t seat;  // seat of the row's sequence
  Mask chain;    // in-flight slots that the row sees; bit j is the slot of position head + j
  Mask tail;     // slots of the branch's tail that the row sees
};

// The rows of one sequence in the next forward of a lane.
struct RowList {
  int64_t head;  // first in-flight position; each row sees all positions before it
  int32_t n;     // number of rows in use
  Row row[kMaxStepRows];
};

// The rows of all sequences that take part in a forward, seat by seat. The rows of seat s are
// row[first[s]] to row[first[s + 1] - 1].
struct Batch {
  int64_t head[kMaxSeats];  // [seat] RowList::head
  int32_t n;                // number of rows in use
  int32_t first[kMaxSeats + 1];
  Row row[kMaxStepRows];
};

}  // namespace sbrt
