// Work that other code captured for a device: one or more graphs of the same work. At each launch
// the host picks one of them, and reads nothing that is in flight to do so. Without graphs, a
// function enqueues the same work call by call.
#pragma once

#include <algorithm>
#include <vector>

#include "core/check.h"

namespace sbrt {

// The code that captured the graphs owns them; they outlive every launch.
struct Captured {
  std::vector<void*> graphs;  // cudaGraph_t, none of them null; players if `play` is given
  int (*pick)(const void* asked) = nullptr;  // index of one of them; null: the first
  const void* asked = nullptr;
  // For players: enqueues all work of one player on a cudaStream_t, from the host's thread. Throws
  // Error.
  void (*play)(void* player, void* stream) = nullptr;

  // Index of the graph to launch, below the size of `graphs`. Throws Error otherwise.
  int picked() const {
    const int at = pick ? pick(asked) : 0;
    check(at >= 0 && at < static_cast<int>(graphs.size()), "captured: expected a graph below ",
          graphs.size(), ", got ", at);
    return at;
  }
  // Throws InvalidInput unless all graphs can be launched.
  void check_whole(const char* of) const {
    const bool has_all = !graphs.empty() && std::count(graphs.begin(), graphs.end(), nullptr) == 0;
    check<InvalidInput>(has_all, "graph ", of, ": expected captured graphs, got none");
  }
};

}  // namespace sbrt
