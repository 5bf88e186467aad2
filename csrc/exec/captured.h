// Work that other code captured for a device. It is one or more graphs that do the same work for
// different sizes. At each launch the host picks one of the graphs, and reads only host memory to
// do so. If there are no graphs, functions (players) enqueue the same work call by call.
#pragma once

#include <algorithm>
#include <vector>

#include "core/check.h"

namespace sbrt {

// The graphs belong to the code that captured them. They must outlive every launch.
struct Captured {
  std::vector<void*> graphs;  // cudaGraph_t or, if `play` is given, players; none of them is null
  // Returns the index of the graph to launch; if null, the index is 0.
  int (*pick)(const void* asked) = nullptr;
  const void* asked = nullptr;
  // Enqueues all work of one player on a cudaStream_t, from the host's thread. Null if there are no
  // players. Throws Error.
  void (*play)(void* player, void* stream) = nullptr;

  // Returns the index of the graph to launch. Throws Error if there is no graph with this index.
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
