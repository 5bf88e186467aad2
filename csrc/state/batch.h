// What one forward of a lane reads: its rows.
#pragma once

#include <cstdint>

#include "core/bits.h"
#include "state/sizes.h"

namespace sbrt {

// One row of a forward. Both masks include the row itself where it stands.
struct Row {
  int64_t position;  // absolute; the rope angle
  int32_t token;
  int32_t slot;    // storage slot its K/V is written to; -1 for padding
  int32_t branch;  // whose tail slots `tail` speaks of, and whose node this is; -1 for none
  int16_t node;    // of the branch, else of the chain; -1 for a token of the trunk
  int16_t seat;    // whose sequence it is of
  Mask chain;      // in-flight slots it sees: bit j is position head + j
  Mask tail;       // own tail slots it sees
};

// The rows of one sequence, for the next forward of a lane.
struct RowList {
  int64_t head;  // first in-flight position; every position before it is trunk, seen by all rows
  int32_t n;     // rows in use
  Row row[kMaxStepRows];
};

// The rows of all sequences that take part, seat by seat: those of seat s are row[first[s]] ..
// row[first[s + 1] - 1].
struct Batch {
  int64_t head[kMaxSeats];  // as RowList has it, by seat
  int32_t n;                // rows in use
  int32_t first[kMaxSeats + 1];
  Row row[kMaxStepRows];
};

}  // namespace sbrt
