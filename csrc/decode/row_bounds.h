// Upper bounds for the number of rows of a round's forwards. They do not depend on the last round's
// outcome. So the host can select the smallest graph that holds the rows (model/lane.h, Expected).
#pragma once

#include <algorithm>

#include "state/policy.h"

namespace sbrt {

struct RowBounds {
  int32_t verify = kMaxRows;    // rows of root and chain
  int32_t catch_up = kMaxRows;  // rows of a catch-up: tokens that the draft has not processed
  // Rows of a draft step: the nodes of all branches and, in a serial burst, the tokens that the
  // draft lacks.
  int32_t step = kMaxStepRows;

  bool operator==(const RowBounds&) const = default;
};

// Says how many tokens of the trunk the draft may still have to process when a round begins.
enum class DraftLag {
  none,   // the draft took part in every round
  chain,  // the draft skipped rounds near its context limit; it lacks at most one chain
  any,    // the draft may have skipped any number of rounds
};

// Returns the largest number of nodes that a chain can have under this policy.
inline int32_t most_nodes(const Policy& p) {
  const int32_t nodes = most_drafted(p), found = p.lookup ? kMostFound : 0;
  const int32_t grown = p.gamma == 0 ? 0 : p.width > 1 ? nodes : p.gamma;
  const bool is_tree = p.on_miss == kBurst && p.burst_width > 1;  // a look-up always gives a path
  const int32_t burst = p.on_miss == kGoOn ? 0 : is_tree ? nodes : p.burst;
  return std::min<int32_t>(kMaxChain, std::max(grown, burst) + found);
}

// Returns the largest number of rows that a catch-up can have. If the draft made the chain, and the
// chain is a path, the draft lacks only one token. This is the path's last node or, after a miss,
// the root.
inline int32_t most_missing(const Policy& p, int32_t nodes, DraftLag lag) {
  const bool is_drafted_path = makes_paths(p) && p.on_miss != kLookup && !p.lookup;
  if (lag == DraftLag::any) return kMaxRows;
  if (lag == DraftLag::chain) return std::min<int32_t>(kMaxRows, 2 + nodes);
  return is_drafted_path ? 1 : 1 + nodes;
}

// Returns the largest number of rows in the first step of a serial burst. These rows are the root,
// and the last node of an accepted path. With look-ups the draft may also lack the tokens of rounds
// that it skipped.
inline int32_t most_at_first(const Policy& p, int32_t nodes, DraftLag lag) {
  if (lag != DraftLag::none) return most_missing(p, nodes, lag);
  return 2 + (p.lookup ? kMostLag + kMostFound : 0);
}

// Returns the bounds for one seat. nodes: the largest number of nodes in the present chain, and in
// chains that the policy makes.
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

// Returns the bounds for several seats: `all` holds the bounds for the other seats, and `own` those
// of one more seat. All seats share the lanes' forwards. draft_rows: number of rows of the draft's
// largest forward. draft_share: number of these rows that each seat is sure to get.
inline RowBounds with_rows_of(const RowBounds& all, const Policy& p, const RowBounds& own,
                              int32_t draft_rows, int32_t draft_share) {
  const auto joined = [](int32_t rows, int32_t more, int32_t most) {
    return std::min(rows + more, most);
  };
  // If the seat needs more rows than its share, the rest waits for a later round. There the seat
  // may get up to kMaxRows rows.
  const auto fed = [&](int32_t rows) { return rows <= draft_share ? rows : kMaxRows; };
  RowBounds found = all;
  found.verify = joined(all.verify, own.verify, kMaxRows);
  // While other seats run a serial burst, a seat without a burst catches up in the first step of
  // that burst.
  const int32_t lag = p.gamma > 0 ? fed(own.catch_up) : 0;
  found.catch_up = joined(all.catch_up, lag, draft_rows);
  if (p.gamma > 0 || p.on_miss == kBurst)
    found.step = joined(all.step, std::max(own.step, lag), draft_rows);
  return found;
}

}  // namespace sbrt
