// What somebody else captured for a device: one or more graphs of the same work, of which the host says
// at each launch which one runs. It reads nothing that is in flight to say so. Or, where no graphs are
// wanted, what enqueues the same work call by call.
#pragma once

#include <algorithm>
#include <vector>

#include "core/check.h"

namespace sbrt {

// Whoever captured them owns them, and outlives every launch.
struct Captured {
  std::vector<void*> graphs;  // cudaGraph_t, none of them null; players if they are played
  int (*pick)(const void* asked) = nullptr;  // index of one of them; null: the first
  const void* asked = nullptr;
  // Of players: enqueues all of one on a cudaStream_t, from the host's thread. Throws Error.
  void (*play)(void* player, void* stream) = nullptr;

  // An index of `graphs`: below their number, or it throws Error.
  int picked() const {
    const int at = pick ? pick(asked) : 0;
    check(at >= 0 && at < static_cast<int>(graphs.size()), "captured: expected a graph below ",
          graphs.size(), ", got ", at);
    return at;
  }
  // Throws InvalidInput unless all of them can be launched.
  void check_whole(const char* of) const {
    const bool has_all = !graphs.empty() && std::count(graphs.begin(), graphs.end(), nullptr) == 0;
    check<InvalidInput>(has_all, "graph ", of, ": expected captured graphs, got none");
  }
};

}  // namespace sbrt
