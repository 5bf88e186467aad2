// What an op reads and writes: sets of the parts of an engine's state. Which parts there are, whoever
// records the ops decides. No body needs the sets to run; exec/order.h checks with them that what runs
// at once is apart.
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

// Bytes of some memory that belong to a part.
struct PartRange {
  int part;
  int64_t begin, end;
};

// Memory whose writes are watched: `count` ranges, by their place in it. What none covers is padding.
struct Watched {
  const void* memory;
  int64_t bytes;
  const PartRange* ranges;
  int count;
};

using PartName = const char* (*)(int part);

}  // namespace sbrt
