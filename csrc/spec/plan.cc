#include <algorithm>

#include "spec/lanes.h"

namespace sbrt {
namespace {

struct Candidate {
  float score;  // logarithm of the outcome's probability, by the draft's calibrated confidence
  int32_t node, token;
  int32_t rank;  // of the token among the candidates of the node's law
};

// k = max(1, floor(k_max (1 - q))) of the first choice's q, or k_max.
int branches_wanted(const Policy& policy, const Law& law) {
  if (law.n == 0) return 0;
  int k = policy.branches;
  if (policy.ranking == kAdaptive) {
    const float open = static_cast<float>(policy.branches) * (1.0f - law.q);
    k = std::max(1, static_cast<int>(open));
  }
  return std::min({k, law.n, kMaxBranches});
}

void start_branch(Control& c, const Candidate& outcome, bool in_place) {
  Branch& branch = c.branches[c.branch_count++];
  branch.node = outcome.node;
  branch.size = 0;
  branch.in_place = in_place;
  branch.token[0] = outcome.token;
  branch.parent[0] = -1;
  branch.level[0] = branch.tried[0] = branch.has_law[0] = 0;
  branch.score[0] = outcome.score;
  branch.mask[0] = Mask::none().with(0);
}

// Which of a law's candidates hang below `node` already.
uint32_t children(const Chain& chain, int node, const Law& law) {
  uint32_t found = 0;
  for (int i = node + 1; i <= chain.size; ++i) {
    if (chain.parent[i] != node) continue;
    for (int r = 0; r < law.n; ++r) found |= uint32_t{law.token[r] == chain.token[i]} << r;
  }
  return found;
}

// In a token of the chain, the logarithm. A looked-up token may be none of the draft's candidates: less
// likely than any of them. Under rejection it must not matter whether it was drawn by chance.
float confidence(const Control& c, const Law& law, int32_t token) {
  if (law.n == 0) return 0;
  if (is_rejection(c) && !c.chain.drawn) return law.lp[0];
  const auto rank = std::find(law.token, law.token + law.n, token) - law.token;
  return law.lp[std::min<int64_t>(rank, law.n - 1)];
}

// Outcomes over all nodes: P(the walk comes to the node) x P(y = token there, and no child of it).
int likely_outcomes(const Control& c, Candidate* found) {
  const Chain& chain = c.chain;
  float reach[kSlots];
  reach[0] = 0;
  int n = 0;
  for (int node = 0; node <= chain.size; ++node) {
    const Law& law = c.chain_law[node];
    const uint32_t hanging = children(chain, node, law);
    for (int r = 0; r < law.n; ++r)
      if (!(hanging >> r & 1)) found[n++] = {reach[node] + law.lp[r], node, law.token[r], r};
    for (int i = node + 1; i <= chain.size; ++i)
      if (chain.parent[i] == node) reach[i] = reach[node] + confidence(c, law, chain.token[i]);
  }
  return n;
}

void plan_likely(Control& c) {
  Candidate found[kSlots * kCandidates];
  const int n = likely_outcomes(c, found);
  const int wanted = std::min({c.policy.branches, kMaxBranches, n});
  const auto before = [](const Candidate& a, const Candidate& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.node != b.node ? a.node < b.node : a.rank < b.rank;
  };
  std::partial_sort(found, found + wanted, found + n, before);
  for (int i = 0; i < wanted; ++i) start_branch(c, found[i], false);
}

void plan_at_the_end(Control& c) {
  const Law& law = c.chain_law[c.chain.size];
  const int k = branches_wanted(c.policy, law);
  for (int i = 0; i < k; ++i) start_branch(c, {0, c.chain.size, law.token[i], i}, false);
}

}  // namespace

void plan(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  RowTable& rows = c.draft_rows;
  c.branch_count = c.step = rows.n = 0;
  rows.head = c.head;
  // A branch must not reach past what the draft can follow.
  c.draft_idle = !burst_fits(c, c.policy.gamma);
  if (c.draft_idle) return;
  if (c.policy.ranking == kLikely) {
    plan_likely(c);
  } else {
    plan_at_the_end(c);
  }
  for (int b = 0; b < c.branch_count; ++b) rows.row[rows.n++] = node_row(c, args.shape, b, 0);
}

// The outcome is known: the root. What the draft has missed of the trunk rides along in the first
// step, and the branch grows in place, in the in-flight slots.
void plan_certain(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  c.branch_count = c.step = 0;
  c.draft_idle = !burst_fits(c, c.policy.burst);
  if (c.draft_idle) {
    c.draft_rows.n = 0;
    return;
  }
  start_branch(c, {0, 0, c.chain.token[0], 0}, true);
  Row& root = c.draft_rows.row[c.draft_rows.n - 1];
  root.branch = root.node = 0;
}

}  // namespace sbrt
