// Which sequences take part in a round.
#pragma once

#include <cstdint>

#include "state/sequence.h"

namespace sbrt {

// A bit for each seat, in a ring of words by round. The host writes a word before it enqueues its round.
struct Roll {
  uint64_t word[kRecords];

  SBRT_ANY bool has(int64_t round, int seat) const { return word[round % kRecords] >> seat & 1; }
};

// The sequences of an engine, one for each seat.
struct Seats {
  Sequence* at;
  int32_t count;
  int32_t only;      // the one seat that takes part, whatever the roll says; -1: the roll decides
  const Roll* roll;  // in pinned memory
  const int64_t*
      ended;  // the last round that ended: `end_round` counts it, the target's last op of a round

  SBRT_ANY int64_t round() const { return *ended + 1; }
  SBRT_ANY bool takes_part(int seat) const {
    return only >= 0 ? seat == only : roll->has(round(), seat);
  }
};

}  // namespace sbrt
