// Keeps the graphs that are fused into one launch on a device. A graph has one fused form for each
// combination of captured graphs that was picked. The streams of cuda and of dry_cuda use this
// class.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "exec/exec.h"

namespace sbrt {

// Returns the indices of the captured graphs that a launch would pick now. There is one index for
// each captured op, in order.
inline std::vector<int> picks_of(const Graph& graph) {
  std::vector<int> picked;
  for (const Graph::Node& node : graph.nodes())
    if (node.captured) picked.push_back(node.captured->picked());
  return picked;
}

// Returns true if a launch would pick exactly these captured graphs now. Allocates nothing.
inline bool does_pick(const Graph& graph, const std::vector<int>& picked) {
  auto next = picked.begin();
  const auto& nodes = graph.nodes();
  return std::all_of(nodes.begin(), nodes.end(), [&next](const Graph::Node& node) {
    return !node.captured || node.captured->picked() == *next++;
  });
}

// Returns true if a captured op of `graph` has players instead of captured graphs. Such a graph is
// never fused.
inline bool is_played(const Graph& graph) {
  const auto& nodes = graph.nodes();
  return std::any_of(nodes.begin(), nodes.end(),
                     [](const Graph::Node& node) { return node.captured && node.captured->play; });
}

// Made: the type of what a backend keeps for each fused graph.
template <class Made>
class FusedGraphs {
 public:
  // Returns the fused form of `graph` with the captured graphs that a launch would pick now.
  // Returns null if there is none.
  const Made* find(const Graph& graph) const {
    for (const Entry& e : entries_)
      if (e.graph == &graph && does_pick(graph, e.picked)) return &e.made;
    return nullptr;
  }
  // Adds a fused graph. If there are kMostFused already, the oldest is dropped. Nothing may be in
  // flight.
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
