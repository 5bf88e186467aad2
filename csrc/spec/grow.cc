#include <algorithm>
#include <cmath>

#include "spec/lanes.h"

namespace sbrt {
namespace {

void keep_law(Control& c, const Row& row, const Law& law) {
  if (row.branch >= 0) {
    Branch& branch = c.branches[row.branch];
    branch.law[row.node] = law;
    branch.has_law[row.node] = 1;
  } else if (row.node >= 0) {
    c.chain_law[row.node] = law;
    c.draft_nodes = c.draft_nodes.with(row.node);
  } else {
    c.draft_have = std::max(c.draft_have, row.position + 1);
    if (row.position < c.head) note_rank(c, row.position + 1, law, c.trunk[row.position + 1]);
  }
}

// AdaEDL's bound on the acceptance of what would be drafted from this law (arXiv 2410.18351).
bool is_doubtful(const Policy& policy, const Law& law) {
  return policy.lambda > 0 && 1.0f - std::sqrt(policy.lambda * law.entropy) < policy.theta;
}

// Where a branch grows next: below `parent` (-1: nowhere), for what gain.
struct Growth {
  int parent;
  float score;
};

// On a path below the newest node; in a tree where the next candidate is the most likely of all that
// were not tried, at whatever depth: it is as good a place to go on from as any.
Growth next_growth(const Policy& policy, const Branch& branch, bool is_path) {
  if (branch.size + 1 == kMaxTail) return {-1, 0};
  if (is_path) {
    const int last = branch.size;
    const bool grows = branch.has_law[last] && branch.law[last].n > 0;
    return {grows && !is_doubtful(policy, branch.law[last]) ? last : -1, 0};
  }
  Growth best{-1, 0};
  for (int j = 0; j <= branch.size; ++j) {
    if (!branch.has_law[j] || branch.tried[j] >= branch.law[j].n) continue;
    const float score = branch.score[j] + branch.law[j].lp[branch.tried[j]];
    if (best.parent < 0 || score > best.score) best = {j, score};
  }
  return best;
}

int hang_node(Branch& branch, int parent) {
  const Law& law = branch.law[parent];
  const int rank = branch.tried[parent]++;
  const int j = ++branch.size;
  branch.token[j] = law.token[rank];
  branch.parent[j] = parent;
  branch.level[j] = branch.level[parent] + 1;
  branch.score[j] = branch.score[parent] + law.lp[rank];
  branch.mask[j] = branch.mask[parent].with(j);
  branch.tried[j] = branch.has_law[j] = 0;
  return j;
}

// Nodes that a tree grows in a step, at most. Under rejection so few that no tree is ever full: what
// is full stops a node because of what was drawn beside it.
int most_grown(const Control& c, bool serial, int slots) {
  const Policy& p = c.policy;
  const int most = serial ? p.burst_width : (p.nodes + p.gamma - 1) / p.gamma;
  if (!is_rejection(c)) return most;
  const int steps = serial ? p.burst : p.gamma;
  return std::min({most, (kMaxTail - 1) / steps, (slots - 1) / std::max(1, steps - 1)});
}

}  // namespace

void note_rank(Control& c, int64_t position, const Law& law, int32_t token) {
  if (!c.rank) return;
  const int at = static_cast<int>(std::find(law.token, law.token + law.n, token) - law.token);
  c.rank[position] = static_cast<uint8_t>(at < law.n ? at : kCandidates);
}

// The row that takes node `j` of a branch through the draft.
Row node_row(const Control& c, const RingShape& ring, int branch, int node) {
  const Branch& b = c.branches[branch];
  const int64_t first = b.in_place ? c.head : c.head + c.chain.level[b.node] + 1;
  const int behind = static_cast<int>(c.head - c.draft_rows.head);
  const int64_t slot = b.in_place ? ring.slot(c.head + node) : ring.tail(branch, node);
  return {first + b.level[node],
          b.token[node],
          static_cast<int32_t>(slot),
          branch,
          node,
          b.in_place ? b.mask[node].behind(behind) : c.chain.mask[b.node],
          b.in_place ? Mask::none() : b.mask[node]};
}

void keep_laws(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  for (int i = 0; i < c.draft_rows.n; ++i) keep_law(c, c.draft_rows.row[i], c.row_law[i]);
}

void extend(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  const RingShape& ring = args.shape;
  RowTable& rows = c.draft_rows;
  keep_laws(args, {});
  rows.n = 0;
  ++c.step;
  if (c.branch_count == 0) return;
  const bool serial = c.branches[0].in_place;
  const int width = serial ? c.policy.burst_width : c.policy.width;
  const bool is_last = c.step == (serial ? c.policy.burst : c.policy.gamma);
  const int slots =
      serial ? kSlots - static_cast<int>(c.head - rows.head) : static_cast<int>(ring.tail_slots);
  const auto grow = [&](int b, int parent) {
    const int j = hang_node(c.branches[b], parent);
    const bool pays = !serial || !c.prices.known || c.branches[b].score[j] >= c.prices.least;
    if (!is_last && j < slots && pays) rows.row[rows.n++] = node_row(c, ring, b, j);
  };
  Growth next[kMaxBranches];
  for (int b = 0; b < c.branch_count; ++b)
    next[b] = next_growth(c.policy, c.branches[b], width == 1);
  if (width == 1) {
    for (int b = 0; b < c.branch_count; ++b)
      if (next[b].parent >= 0) grow(b, next[b].parent);
    return;
  }
  // Trees share the rows of a step: they go where a token most likely comes by, whatever the branch;
  // but none grows so fast that it is full before it is deep.
  const int budget = std::min(args.max_rows, serial ? width : width * c.policy.branches);
  const int most = most_grown(c, serial, slots);
  int grown[kMaxBranches] = {};
  for (int i = 0; i < budget && most > 0; ++i) {
    int best = -1;
    for (int b = 0; b < c.branch_count; ++b)
      if (next[b].parent >= 0 && (best < 0 || next[b].score > next[best].score)) best = b;
    if (best < 0) return;
    grow(best, next[best].parent);
    next[best] = next_growth(c.policy, c.branches[best], false);
    if (++grown[best] >= most) next[best].parent = -1;
  }
}

}  // namespace sbrt
