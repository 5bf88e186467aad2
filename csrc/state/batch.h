// The rows of one forward of a lane.
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "state/sizes.h"

namespace sbrt {

// One row of a forward. Its masks include its own slot.
struct Row {
  int64_t position;  // absolute; gives the rope angle
  int32_t token;
  int32_t slot;    // storage slot for its K/V; -1 for padding
  int32_t branch;  // branch that `tail` and `node` refer to; -1 for none
  int16_t node;    // node of the branch, or of the chain if there is none; -1: a trunk token
  int16_t seat;    // seat of the row's sequence
  Mask chain;      // in-flight slots that the row sees: bit j is position head + j
  Mask tail;       // slots of the branch's tail that the row sees
};

// The rows of one sequence, for the next forward of a lane.
struct RowList {
  int64_t head;  // first in-flight position; all earlier positions are trunk, which all rows see
  int32_t n;     // number of rows in use
  Row row[kMaxStepRows];
};

// The rows of all sequences that take part in a forward, seat by seat. Rows of seat s are
// row[first[s]] to row[first[s + 1] - 1].
struct Batch {
  int64_t head[kMaxSeats];  // RowList::head by seat
  int32_t n;                // number of rows in use
  int32_t first[kMaxSeats + 1];
  Row row[kMaxStepRows];
};

}  // namespace sbrt
