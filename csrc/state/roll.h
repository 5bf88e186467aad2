// The sequences that take part in a round.
#pragma once

#include <cstdint>

#include "state/sequence.h"

namespace sbrt {

// A bit for each seat, in a ring of words by round. The host writes a word before it enqueues the
// round.
struct Roll {
  uint64_t word[kRecords];

  SBRT_ANY uint64_t of(int64_t round) const { return word[round % kRecords]; }
};

// The sequences of an engine, one per seat, and the roll of the running work: a round of a lane, or
// a piece of a prompt.
struct Seats {
  Sequence* at;
  int32_t count;
  const Roll* roll;      // in pinned memory
  const int64_t* ended;  // the last round, or piece, that ended; its last op counts it

  SBRT_ANY int64_t round() const { return *ended + 1; }
  SBRT_ANY Mask members() const { return Mask::of(roll->of(round())); }
  SBRT_ANY bool takes_part(int seat) const { return members().has(seat); }
};

}  // namespace sbrt
