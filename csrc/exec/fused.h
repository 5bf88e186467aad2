// Whole graphs fused into one launch on a device, one for each combination of graphs that captured
// ops pick. The streams of a device and of its stand-in both use this.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "exec/exec.h"

namespace sbrt {

// Indices of the captured graphs that a launch takes now, one for each captured op, in order.
inline std::vector<int> picks_of(const Graph& graph) {
  std::vector<int> picked;
  for (const Graph::Node& node : graph.nodes())
    if (node.captured) picked.push_back(node.captured->picked());
  return picked;
}

// True if a launch takes exactly these now. Allocates nothing.
inline bool does_pick(const Graph& graph, const std::vector<int>& picked) {
  auto next = picked.begin();
  const auto& nodes = graph.nodes();
  return std::all_of(nodes.begin(), nodes.end(), [&next](const Graph::Node& node) {
    return !node.captured || node.captured->picked() == *next++;
  });
}

// True if a captured op of `graph` has players instead of graphs to launch. Such a graph is never
// fused.
inline bool is_played(const Graph& graph) {
  const auto& nodes = graph.nodes();
  return std::any_of(nodes.begin(), nodes.end(),
                     [](const Graph::Node& node) { return node.captured && node.captured->play; });
}

// `Made`: what a backend keeps of each fused graph.
template <class Made>
class FusedGraphs {
 public:
  // The fused form of `graph` for its present picks, null if there is none.
  const Made* find(const Graph& graph) const {
    for (const Entry& e : entries_)
      if (e.graph == &graph && does_pick(graph, e.picked)) return &e.made;
    return nullptr;
  }
  // If the store is full, the oldest entry is dropped. Call it with nothing in flight.
  void put(const Graph& graph, Made made) {
    if (size() == Stream::kMostFused) entries_.erase(entries_.begin());
    entries_.push_back({&graph, picks_of(graph), std::move(made)});
  }
  int size() const { return static_cast<int>(entries_.size()); }
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    const Graph* graph;
    std::vector<int> picked;
    Made made;
  };
  std::vector<Entry> entries_;
};

}  // namespace sbrt
