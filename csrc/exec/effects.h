// The effects of an op: which parts of an engine's state the op reads and writes. The code that
// records the ops defines the parts. No backend needs effects to run an op. exec/order.h uses them
// to check that concurrent ops use separate parts. Every seat has its own copy of some parts, so an
// op also names its seats.
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

// A set of seats, with one bit per seat.
using SeatSet = uint64_t;
constexpr SeatSet kEverySeat = ~SeatSet{0};
constexpr int kMostSeats = 64;

// The largest number of separate memories of a backend. The ops of a stream access one of them.
constexpr int kMemories = 2;
constexpr int kPartsOfMemory = kMostParts / kMemories;

// Returns the bits that stand for the same parts in memory number `memory`.
constexpr Parts of_memory(Parts parts, int memory) {
  return {parts.bits << (memory * kPartsOfMemory)};
}
constexpr Effects of_memory(const Effects& effects, int memory) {
  return {of_memory(effects.reads, memory), of_memory(effects.writes, memory)};
}

// A range of bytes in a watched memory that belongs to one part.
struct PartRange {
  int part;
  int64_t begin, end;
};

// Memory whose writes are checked. It is divided into `count` ranges in order of their offsets.
// Bytes that no range covers are padding. seat: the seat that owns the memory; -1: all seats share
// it. place: number of the memory, among the backend's memories.
struct Watched {
  const void* memory;
  int64_t bytes;
  const PartRange* ranges;
  int count;
  int seat = -1;
  int place = 0;
};

// The meaning of each bit of Parts.
struct PartTable {
  const char* (*name)(int part);
  Parts of_seats;  // the parts of which every seat has its own copy
  Parts unsent;    // the parts that no mail copies from one memory to the other

  constexpr bool is_of_seat(int part) const { return of_seats.has(part % kPartsOfMemory); }
};

}  // namespace sbrt
