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

// Most memories that a backend keeps apart. The ops of a stream access one of them.
constexpr int kMemories = 2;
constexpr int kPartsOfMemory = kMostParts / kMemories;

// The same parts of another memory, where each has its own bit.
constexpr Parts of_memory(Parts parts, int memory) {
  return {parts.bits << (memory * kPartsOfMemory)};
}
constexpr Effects of_memory(const Effects& effects, int memory) {
  return {of_memory(effects.reads, memory), of_memory(effects.writes, memory)};
}

// A range of bytes of some memory that belongs to a part.
struct PartRange {
  int part;
  int64_t begin, end;
};

// Memory whose writes are watched: `count` ranges, by offset. Bytes that no range covers are
// padding. `seat`: the seat that owns the memory; -1 if all seats share it. `place`: which of the
// backend's memories it is in.
struct Watched {
  const void* memory;
  int64_t bytes;
  const PartRange* ranges;
  int count;
  int seat = -1;
  int place = 0;
};

// The meaning of the bits of Parts.
struct PartTable {
  const char* (*name)(int part);
  Parts of_seats;  // every seat has its own
  Parts unsent;    // no mail copies them from one memory to the other

  constexpr bool is_of_seat(int part) const { return of_seats.has(part % kPartsOfMemory); }
};

}  // namespace sbrt
