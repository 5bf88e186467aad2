// Whole graphs that are one launch of a device, each for what its captured ops pick. The streams of a
// device and of its stand-in keep them alike.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "exec/exec.h"

namespace sbrt {

// Which graphs of its captured ops a launch takes, in order, by what the host knows now.
inline std::vector<int> picks_of(const Graph& graph) {
  std::vector<int> picked;
  for (const Graph::Node& node : graph.nodes())
    if (node.captured) picked.push_back(node.captured->picked());
  return picked;
}

// Whether it takes these; allocates nothing.
inline bool does_pick(const Graph& graph, const std::vector<int>& picked) {
  auto next = picked.begin();
  const auto& nodes = graph.nodes();
  return std::all_of(nodes.begin(), nodes.end(), [&next](const Graph::Node& node) {
    return !node.captured || node.captured->picked() == *next++;
  });
}

// Whether a part of it is no graph, so that its parts are launched.
inline bool is_played(const Graph& graph) {
  const auto& nodes = graph.nodes();
  return std::any_of(nodes.begin(), nodes.end(),
                     [](const Graph::Node& node) { return node.captured && node.captured->play; });
}

// `Made`: what a body has of each.
template <class Made>
class FusedGraphs {
 public:
  static constexpr size_t kMost = 32;

  // What `graph` is as it picks now; null: not made.
  const Made* find(const Graph& graph) const {
    for (const Entry& e : entries_)
      if (e.graph == &graph && does_pick(graph, e.picked)) return &e.made;
    return nullptr;
  }
  // What was put in longest ago goes where there are too many; nothing is in flight.
  void put(const Graph& graph, Made made) {
    if (entries_.size() == kMost) entries_.erase(entries_.begin());
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
