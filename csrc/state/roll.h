// The sequences that take part in a round.
#pragma once

#include <cstdint>

#include "state/sequence.h"

namespace sbrt {

// The seats that take part in each of the last rounds: a word per round, with a bit for each seat.
// The host writes the word before it enqueues the round.
struct Roll {
  uint64_t word[kRecords];

  SBRT_ANY uint64_t of(int64_t round) const { return word[round % kRecords]; }
};

// The sequences of an engine, one per seat, and the roll of the current work: a round of a lane, or
// a prompt piece.
struct Seats {
  Sequence* at;
  int32_t count;
  const Roll* roll;      // in pinned memory
  const int64_t* ended;  // number of the last finished round or prompt piece; its last op writes it

  SBRT_ANY int64_t round() const { return *ended + 1; }
  SBRT_ANY Mask members() const { return Mask::of(roll->of(round())); }
  SBRT_ANY bool takes_part(int seat) const { return members().has(seat); }
};

}  // namespace sbrt
