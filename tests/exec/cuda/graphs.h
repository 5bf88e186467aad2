// Graphs for the runtime of fake_cuda.h.
#pragma once

#include "exec/exec.h"

namespace sbrt {

inline void nothing(const int&, Worker) {}

// Returns a graph of one kernel that takes `ns`.
inline Graph graph_of(const char* name, const int64_t& ns) {
  Graph graph(name);
  graph.add(nothing, 0).on_device(&ns, 1);
  return graph;
}

}  // namespace sbrt
