// An op's effects: the sets of parts of an engine's state that it reads and writes. The code that
// records the ops defines the parts. No backend needs the sets to run. exec/order.h uses them to
// check that concurrent ops use separate parts. Every seat has its own copy of
// some parts, so an op also names its seats.
#pragma once

#include <cstdint>

namespace sbrt {

constexpr int kMostParts = 64;

struct Parts {
  uint64_t bits = 0;

  constexpr bool has(int part) const { return bits >> part & 1; }
};

struct Effects {
  Parts reads, writes;
};

// A set of seats, a bit for each.
using SeatSet = uint64_t;
constexpr SeatSet kEverySeat = ~SeatSet{0};
constexpr int kMostSeats = 64;

// A range of bytes of some memory that belongs to a part.
struct PartRange {
  int part;
  int64_t begin, end;
};

// Memory whose writes are watched: `count` ranges, by offset. Bytes that no range covers are
// padding. `seat`: the seat that owns the memory; -1 if all seats share it.
struct Watched {
  const void* memory;
  int64_t bytes;
  const PartRange* ranges;
  int count;
  int seat = -1;
};

// The meaning of the bits of Parts.
struct PartTable {
  const char* (*name)(int part);
  Parts of_seats;  // every seat has its own
};

}  // namespace sbrt
