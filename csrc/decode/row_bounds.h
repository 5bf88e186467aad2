// How many rows the forwards of a round have at most. The host knows this before it knows the outcome of
// the round before, so it can pick the smallest graph that holds the rows (model/lane.h, Expected).
#pragma once

#include <algorithm>

#include "state/policy.h"

namespace sbrt {

struct RowBounds {
  int32_t verify = kMaxRows;    // root and chain
  int32_t catch_up = kMaxRows;  // what the draft lacks of trunk and chain
  int32_t step = kMaxStepRows;  // nodes of all branches; of a serial burst, what it lacks too

  bool operator==(const RowBounds&) const = default;
};

// How far the draft may be behind the trunk when a round begins.
enum class DraftLag {
  none,   // it took part in every round
  chain,  // it sat out rounds next to its context limit: it lacks no more than one chain
  any,    // it may have sat out any number of rounds
};

// Most nodes of a chain that this policy makes.
inline int32_t most_nodes(const Policy& p) {
  const int32_t nodes = most_drafted(p), found = p.lookup ? kMostFound : 0;
  const int32_t grown = p.gamma == 0 ? 0 : p.width > 1 ? nodes : p.gamma;
  const bool is_tree = p.on_miss == kBurst && p.burst_width > 1;  // what is looked up is a path
  const int32_t burst = p.on_miss == kGoOn ? 0 : is_tree ? nodes : p.burst;
  return std::min<int32_t>(kMaxChain, std::max(grown, burst) + found);
}

// Rows of a catch-up. Of a path the draft lacks the last node, or the root after a miss.
inline int32_t most_missing(const Policy& p, int32_t nodes, DraftLag lag) {
  const bool is_drafted_path = makes_paths(p) && p.on_miss != kLookup && !p.lookup;
  if (lag == DraftLag::any) return kMaxRows;
  if (lag == DraftLag::chain) return std::min<int32_t>(kMaxRows, 2 + nodes);
  return is_drafted_path ? 1 : 1 + nodes;
}

// Rows of the first step of a serial burst: the root, and the last node of an accepted path. Rounds with
// a looked-up chain may have gone by without the draft.
inline int32_t most_at_first(const Policy& p, int32_t nodes, DraftLag lag) {
  if (lag != DraftLag::none) return most_missing(p, nodes, lag);
  return 2 + (p.lookup ? kMostBehind + kMostFound : 0);
}

// `nodes`: most nodes of the chain that is there, and of those that the policy makes.
inline RowBounds row_bounds(const Policy& p, int32_t nodes, DraftLag lag) {
  RowBounds most;
  most.verify = 1 + nodes;
  most.catch_up = most_missing(p, nodes, lag);
  most.step = std::clamp(p.branches * p.width, 1, kMaxStepRows);
  if (p.on_miss == kBurst)
    most.step = std::max(
        {most.step, most_at_first(p, nodes, lag), std::min<int32_t>(p.burst_width, kMaxRows)});
  return most;
}

// `own`: of one of the seats of an engine. All of their rows share the forwards of the lanes. draft_rows:
// of the draft's largest forward, of which each seat may take its share, draft_share at least.
inline RowBounds with_rows_of(const RowBounds& all, const Policy& p, const RowBounds& own,
                              int32_t draft_rows, int32_t draft_share) {
  const auto joined = [](int32_t rows, int32_t more, int32_t most) {
    return std::min(rows + more, most);
  };
  // What is more than its share waits, and more may come to it.
  const auto fed = [&](int32_t rows) { return rows <= draft_share ? rows : kMaxRows; };
  RowBounds found = all;
  found.verify = joined(all.verify, own.verify, kMaxRows);
  // In the first step of others' serial burst a seat that awaits none catches up.
  const int32_t behind = p.gamma > 0 ? fed(own.catch_up) : 0;
  found.catch_up = joined(all.catch_up, behind, draft_rows);
  if (p.gamma > 0 || p.on_miss == kBurst)
    found.step = joined(all.step, std::max(own.step, behind), draft_rows);
  return found;
}

}  // namespace sbrt
