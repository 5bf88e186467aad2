// Plans the branches of a round, one for each likely outcome. The code runs on every device.
#pragma once

#include "round/rows_op.h"

namespace sbrt {

// Working memory of `plan`, which the members of a team share. A candidate has the index (its
// place) node * kCandidates + rank.
struct PlanScratch {
  // Sort keys of the candidates, by log probability of the outcome.
  uint64_t key[kSlots * kCandidates];
  uint64_t best[kMaxBranches];
  float reach[kSlots];  // log probability that each node is accepted
};

// Returns the number of branches to start: k_max, the policy's `branches`. If the policy is
// adaptive, it is max(1, floor(k_max (1 - dist.q))).
SBRT_ANY inline int branches_wanted(const Policy& policy, const Dist& dist) {
  if (dist.n == 0) return 0;
  int k = policy.branches;
  if (policy.ranking == kAdaptive) {
    const float open = static_cast<float>(policy.branches) * (1.0f - dist.q);
    k = most(1, static_cast<int>(open));
  }
  return least(least(k, dist.n), kMaxBranches);
}

struct OutcomeGuess {
  int32_t node, token;
  float score;  // log probability of the outcome, from the draft's calibrated confidence
};

SBRT_ANY inline void start_branch(Branch& branch, const OutcomeGuess& guess, bool in_place) {
  branch.node = guess.node;
  branch.size = 0;
  branch.in_place = in_place;
  branch.token[0] = guess.token;
  branch.parent[0] = -1;
  branch.level[0] = branch.tried[0] = branch.has_dist[0] = 0;
  branch.score[0] = guess.score;
  branch.mask[0] = Mask::none().with(0);
}

// Returns which candidates of `dist` are children of `node` in the chain. Bit r of the result
// stands for the candidate of rank r.
SBRT_ANY inline uint32_t children(const Chain& chain, int node, const Dist& dist) {
  uint32_t found = 0;
  for (int i = node + 1; i <= chain.size; ++i) {
    if (chain.parent[i] != node) continue;
    for (int r = 0; r < dist.n; ++r) found |= uint32_t{dist.token[r] == chain.token[i]} << r;
  }
  return found;
}

// Returns the log probability that a chain node is accepted if its parent is accepted. A looked-up
// token that is no candidate of the draft gets the probability of the least likely candidate. Under
// the rule `rejection` the result must not depend on drawn tokens.
SBRT_ANY inline float confidence(const Sequence& c, int node) {
  const Chain& chain = c.chain;
  const Dist& dist = c.chain_dist[chain.parent[node]];
  const bool is_blind = is_rejection(c) && chain.known.has(node);
  const float own = chain.score[node] - chain.score[chain.parent[node]];
  if (c.policy.lookup && (dist.n == 0 || is_blind)) return own;
  if (dist.n == 0) return 0;
  if (is_blind) return dist.lp[0];
  const float drafted = dist.lp[least(first_of(dist.token, dist.n, chain.token[node]), dist.n - 1)];
  return c.policy.lookup ? most(own, drafted) : drafted;
}

// Rates the outcomes (node, y): the probability that the node is accepted, times the probability
// that y is the next token. Skips tokens that are already children of the node.
template <class Team>
SBRT_ANY void likely_outcomes(const Sequence& c, PlanScratch& s, Team team) {
  const Chain& chain = c.chain;
  for (int i = 1 + team.rank; i <= chain.size; i += team.size) s.reach[i] = confidence(c, i);
  team.meet();
  if (team.rank == 0) {
    s.reach[0] = 0;
    for (int i = 1; i <= chain.size; ++i) s.reach[i] = s.reach[chain.parent[i]] + s.reach[i];
  }
  team.meet();
  for (int node = team.rank; node <= chain.size; node += team.size) {
    const Dist& dist = c.chain_dist[node];
    const int known = c.draft_nodes.has(node) ? dist.n : 0;
    const uint32_t hanging = children(chain, node, dist);
    for (int r = 0; r < kCandidates; ++r) {
      const int place = node * kCandidates + r;
      const bool is_open = r < known && !(hanging >> r & 1);
      s.key[place] = is_open ? key_of(s.reach[node] + dist.lp[r], static_cast<uint32_t>(place)) : 0;
    }
  }
  team.meet();
}

// Starts a branch for each of the most likely outcomes. Returns the number of branches, at most
// `room`.
template <class Team>
SBRT_ANY int plan_likely(Sequence& c, PlanScratch& s, int room, Team team) {
  likely_outcomes(c, s, team);
  const int n = (c.chain.size + 1) * kCandidates;
  const int k = best_first(team, s.key, n, least(c.policy.branches, room), s.best);
  for (int b = team.rank; b < k; b += team.size) {
    const int place = static_cast<int>(place_of(s.best[b]));
    const int node = place / kCandidates;
    const int32_t token = c.chain_dist[node].token[place % kCandidates];
    start_branch(c.branches[b], {node, token, score_of(s.best[b])}, false);
  }
  return k;
}

template <class Team>
SBRT_ANY int plan_at_the_end(Sequence& c, int room, Team team) {
  if (!c.draft_nodes.has(c.chain.size)) return 0;
  const Dist& dist = c.chain_dist[c.chain.size];
  const int k = least(branches_wanted(c.policy, dist), room);
  for (int b = team.rank; b < k; b += team.size)
    start_branch(c.branches[b], {c.chain.size, dist.token[b], 0}, false);
  return k;
}

// Writes the branch table, and the rows of the burst's first step.
template <class Team>
SBRT_ANY void plan_op(const LaneSeat& args, PlanScratch& scratch, Team team) {
  Sequence& c = *args.sequence;
  RowList& rows = *args.rows;
  // A sequence without branches may share a round with sequences that have some.
  if (c.policy.gamma == 0) return;
  // True if branches would need positions beyond the draft's context limit.
  const bool idle = !burst_fits(c, c.policy.gamma);
  const int room = least(kMaxBranches, args.max_rows);
  int k = 0;
  if (!idle)
    k = c.policy.ranking == kLikely ? plan_likely(c, scratch, room, team)
                                    : plan_at_the_end(c, room, team);
  if (team.rank == 0) {
    c.draft_idle = idle;
    c.step = 0;
    c.branch_count = rows.n = k;
    rows.head = c.head;
  }
  team.meet();
  for (int b = team.rank; b < k; b += team.size) rows.row[b] = node_row(args, b, 0);
}

// Returns the index of the root in a list of rows. Returns the length of the list if the root is
// not in it.
SBRT_ANY inline int root_row(const RowList& rows) {
  int root = 0;
  while (root < rows.n && rows.row[root].node != 0) ++root;
  return root;
}

// Postpones the draft's catch-up, so that the target does not wait for it. If the policy has draft
// steps that overlap the target (gamma > 0), those steps do the catch-up. Otherwise a later burst
// does it. But a draft without such steps catches up now if it lacks more than kMostLag tokens.
SBRT_ANY inline void hold_back(Sequence& c, RowList& rows) {
  const bool waits = c.policy.gamma > 0 || c.head - c.draft_have <= kMostLag;
  rows.n = waits ? 0 : least(rows.n, root_row(rows) + 1);
  if (c.policy.gamma == 0) c.draft_idle = 0;
}

// Plans a serial burst. Its only branch is the certain branch, which continues the root and grows
// in the in-flight slots. The first step also processes the trunk tokens that the draft lacks. For
// a sequence that needs no burst, the first step is only its catch-up.
SBRT_ANY inline void plan_certain_op(const LaneSeat& args) {
  Sequence& c = *args.sequence;
  RowList& rows = *args.rows;
  c.step = c.branch_count = 0;
  if (c.filled) hold_back(c, rows);
  if (!awaits_burst(c)) return;
  c.draft_idle = !serial_burst_fits(c) || !chain_fits(c);
  c.chain.size = c.chain.depth = 0;  // drops looked-up nodes, which the burst will replace
  if (c.draft_idle) rows.n = 0;
  const int root = root_row(rows);
  // The root is not among the rows: the draft lacks more trunk tokens than one forward can process.
  if (root == rows.n) return;
  rows.n = root + 1;
  start_branch(c.branches[0], {0, c.chain.token[0], 0}, true);
  c.branch_count = 1;
  rows.row[root].branch = 0;
}

}  // namespace sbrt
