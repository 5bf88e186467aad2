// What somebody else captured for a device: one or more graphs of the same work, of which the host says
// at each launch which one runs. It reads nothing that is in flight to say so.
#pragma once

#include <vector>

namespace sbrt {

// Whoever captured them owns them, and outlives every launch.
struct Captured {
  std::vector<void*> graphs;                 // cudaGraph_t
  int (*pick)(const void* asked) = nullptr;  // index of one of them; null: the first
  const void* asked = nullptr;

  int picked() const { return pick ? pick(asked) : 0; }
};

}  // namespace sbrt
