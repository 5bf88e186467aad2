// Work that other code captured for a device: one or more graphs that do the same work for
// different sizes. At each launch the host picks one of them, from host memory only. If there are
// no graphs, functions (players) enqueue the same work call by call.
#pragma once

#include <algorithm>
#include <vector>

#include "core/check.h"

namespace sbrt {

// The code that captured the graphs owns them; they outlive every launch.
struct Captured {
  std::vector<void*> graphs;  // cudaGraph_t, none of them null; if `play` is given: players
  int (*pick)(const void* asked) = nullptr;  // returns the index of the graph to launch; null: 0
  const void* asked = nullptr;
  // Enqueues all work of one player on a cudaStream_t, from the host's thread. Null: there are no
  // players. Throws Error.
  void (*play)(void* player, void* stream) = nullptr;

  // Returns the index of the graph to launch. Throws Error if that is not below graphs.size().
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
