// The steps of a burst. A step stores the distributions of a forward, and adds nodes to every
// branch. The code runs on every device.
#pragma once

#include <cmath>

#include "round/rows_op.h"

namespace sbrt {

// The node that a tree would get next: a child of `parent`, with its score. parent -1: there is no
// such node.
struct Growth {
  int parent;
  float score;
};

// Working memory of `extend`, which the members of the team share.
struct GrowScratch {
  Growth next[kMaxBranches];
  int grown[kMaxBranches];  // number of nodes that each tree got in this step
  // The new node of each path, if the next step processes it; otherwise -1.
  int node[kMaxBranches];
};

// Stores the distribution of a row. All team members store distributions; then rank 0 calls
// count_dist for every row.
SBRT_ANY inline void keep_dist(Sequence& c, const Row& row, const Dist& dist) {
  if (row.branch >= 0) {
    Branch& branch = c.branches[row.branch];
    branch.dist[row.node] = dist;
    branch.has_dist[row.node] = 1;
  } else if (row.node >= 0) {
    c.chain_dist[row.node] = dist;
  }
}

SBRT_ANY inline void count_dist(Sequence& c, const Row& row, const Dist& dist) {
  if (row.branch >= 0) return;
  if (row.node >= 0) {
    c.draft_nodes = c.draft_nodes.with(row.node);
  } else {
    c.draft_have = most(c.draft_have, row.position + 1);
    if (row.position < c.head) note_rank(c, row.position + 1, dist, c.trunk[row.position + 1]);
  }
}

// Runs after a forward of the draft. Stores the distributions of the forward's rows.
template <class Team>
SBRT_ANY void keep_dists_op(const LaneSeat& args, Team team) {
  Sequence& c = *args.sequence;
  const RowList& rows = *args.rows;
  const Dist* dists = args.dists + args.batch->first[args.seat];
  for (int i = team.rank; i < rows.n; i += team.size) keep_dist(c, rows.row[i], dists[i]);
  if (team.rank == 0)
    for (int i = 0; i < rows.n; ++i) count_dist(c, rows.row[i], dists[i]);
  team.meet();
}

// Returns true if the draft is uncertain: AdaEDL's lower bound on the acceptance of a token from
// `dist` is below theta (arXiv 2410.18351).
SBRT_ANY inline bool is_doubtful(const Policy& policy, const Dist& dist) {
  return policy.lambda > 0 && 1.0f - sqrtf(policy.lambda * dist.entropy) < policy.theta;
}

// Returns the newest node of a path, to which the next node is appended. Returns -1 if the draft is
// uncertain there or the path is full.
SBRT_ANY inline int growing_end(const Policy& policy, const Branch& branch) {
  const int last = branch.size;
  const bool grows = last + 1 < kMaxTail && branch.has_dist[last] && branch.dist[last].n > 0;
  return grows && !is_doubtful(policy, branch.dist[last]) ? last : -1;
}

// Returns the next growth of a tree: the most likely candidate, at any depth, that is no node yet.
// Among equally likely candidates it is the one of the lowest parent. The members of the team
// divide the nodes of the tree among themselves.
template <class Team>
SBRT_ANY Growth next_growth(const Branch& branch, Team team) {
  uint64_t key = 0;
  const int nodes = branch.size + 1 < kMaxTail ? branch.size + 1 : 0;
  for (int j = team.rank; j < nodes; j += team.size) {
    if (!branch.has_dist[j] || branch.tried[j] >= branch.dist[j].n) continue;
    const float score = branch.score[j] + branch.dist[j].lp[branch.tried[j]];
    key = most(key, key_of(score, static_cast<uint32_t>(j)));
  }
  key = team.best(key);
  return key == 0 ? Growth{-1, 0} : Growth{static_cast<int>(place_of(key)), score_of(key)};
}

SBRT_ANY inline int attach_node(Branch& branch, int parent) {
  const Dist& dist = branch.dist[parent];
  const int rank = branch.tried[parent]++;
  const int j = ++branch.size;
  branch.token[j] = dist.token[rank];
  branch.parent[j] = parent;
  branch.level[j] = branch.level[parent] + 1;
  branch.score[j] = branch.score[parent] + dist.lp[rank];
  branch.mask[j] = branch.mask[parent].with(j);
  branch.tried[j] = branch.has_dist[j] = 0;
  return j;
}

// Settings and limits of one draft step.
struct Step {
  bool serial;   // true: a serial burst, with one branch in the in-flight slots
  bool is_over;  // true: this sequence has done its steps, but other sequences go on
  bool is_last;  // true: this is the last step, so the draft will not process its nodes
  int width;     // mean number of nodes that a step adds to a branch; with 1, branches are paths
  int slots;     // number of slots of a branch
};

SBRT_ANY inline Step step_of(const LaneSeat& args) {
  const Sequence& c = *args.sequence;
  const bool serial = c.branches[0].in_place;
  const int steps = serial ? c.policy.burst : c.policy.gamma;
  return {serial, c.step > steps, c.step == steps, serial ? c.policy.burst_width : c.policy.width,
          serial ? kSlots - static_cast<int>(c.head - args.rows->head)
                 : static_cast<int>(args.shape.tail_slots)};
}

// Adds a node to branch b. Returns the node's index if the next step should process the node.
// Otherwise returns -1.
SBRT_ANY inline int grow(Sequence& c, const Step& step, int b, int parent) {
  Branch& branch = c.branches[b];
  const int j = attach_node(branch, parent);
  const bool pays = !step.serial || !c.prices.known || branch.score[j] >= c.prices.least;
  return !step.is_last && j < step.slots && pays ? j : -1;
}

// Returns the largest number of nodes that a tree may get in one step. Under the rule `rejection`
// this number is so small that no tree is ever full. A full tree would drop a node because of the
// draws of its siblings, which would bias the result.
SBRT_ANY inline int most_grown(const Sequence& c, bool serial, int slots) {
  const Policy& p = c.policy;
  const int wanted = serial ? p.burst_width : (p.nodes + p.gamma - 1) / p.gamma;
  if (!is_rejection(c)) return wanted;
  const int steps = serial ? p.burst : p.gamma;
  return least(least(wanted, (kMaxTail - 1) / steps), (slots - 1) / most(1, steps - 1));
}

template <class Team>
SBRT_ANY void extend_paths(const LaneSeat& args, const Step& step, GrowScratch& s, Team team) {
  Sequence& c = *args.sequence;
  RowList& rows = *args.rows;
  for (int b = team.rank; b < c.branch_count; b += team.size) {
    const int parent = growing_end(c.policy, c.branches[b]);
    s.node[b] = parent >= 0 ? grow(c, step, b, parent) : -1;
  }
  team.meet();
  for (int b = team.rank; b < c.branch_count; b += team.size) {
    if (s.node[b] < 0) continue;
    int place = 0;
    for (int before = 0; before < b; ++before) place += s.node[before] >= 0;
    rows.row[place] = node_row(args, b, s.node[b]);
  }
  if (team.rank != 0) return;
  int n = 0;
  for (int b = 0; b < c.branch_count; ++b) n += s.node[b] >= 0;
  rows.n = n;
}

// Finds the first growth of each tree. If there is only one tree, the whole team searches it.
// Otherwise each member searches some of the trees.
template <class Team>
SBRT_ANY void find_growths(const Sequence& c, GrowScratch& s, Team team) {
  if (c.branch_count == 1) {
    const Growth next = next_growth(c.branches[0], team);
    if (team.rank == 0) s.next[0] = next;
  } else {
    for (int b = team.rank; b < c.branch_count; b += team.size)
      s.next[b] = next_growth(c.branches[b], Alone{});
  }
  for (int b = team.rank; b < c.branch_count; b += team.size) s.grown[b] = 0;
  team.meet();
}

// Adds nodes to trees. All trees share the limited number of rows of a step. The most likely nodes
// of all branches get these rows. A limit per tree (most_grown) keeps a tree from being full before
// its last step.
template <class Team>
SBRT_ANY void extend_trees(const LaneSeat& args, const Step& step, GrowScratch& s, Team team) {
  Sequence& c = *args.sequence;
  RowList& rows = *args.rows;
  const int wanted = step.serial ? step.width : step.width * c.policy.branches;
  const int budget = least(args.max_rows, wanted), at_most = most_grown(c, step.serial, step.slots);
  find_growths(c, s, team);
  for (int i = 0; i < budget && at_most > 0; ++i) {
    uint64_t key = 0;
    for (int b = team.rank; b < c.branch_count; b += team.size)
      if (s.next[b].parent >= 0) key = most(key, key_of(s.next[b].score, static_cast<uint32_t>(b)));
    key = team.best(key);
    if (key == 0) return;
    const int best = static_cast<int>(place_of(key));
    if (team.rank == 0) {
      const int j = grow(c, step, best, s.next[best].parent);
      if (j >= 0) rows.row[rows.n++] = node_row(args, best, j);
      ++s.grown[best];
    }
    team.meet();
    Growth next = next_growth(c.branches[best], team);
    if (s.grown[best] >= at_most) next.parent = -1;
    if (team.rank == 0) s.next[best] = next;
    team.meet();
  }
}

// Runs after a forward of the draft. Stores the distributions of the forward's rows, and adds nodes
// to every branch.
template <class Team>
SBRT_ANY void extend_op(const LaneSeat& args, GrowScratch& scratch, Team team) {
  Sequence& c = *args.sequence;
  keep_dists_op(args, team);
  if (team.rank == 0) {
    args.rows->n = 0;
    ++c.step;
  }
  team.meet();
  if (c.branch_count == 0) return;
  const Step step = step_of(args);
  if (step.is_over) return;
  if (step.width == 1) {
    extend_paths(args, step, scratch, team);
    return;
  }
  extend_trees(args, step, scratch, team);
}

}  // namespace sbrt
