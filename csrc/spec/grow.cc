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
  }
}

// AdaEDL's bound on the acceptance of what would be drafted from this law (arXiv 2410.18351).
bool is_doubtful(const Policy& policy, const Law& law) {
  return policy.lambda > 0 && 1.0f - std::sqrt(policy.lambda * law.entropy) < policy.theta;
}

// The node below which the next one hangs, -1 if none: on a path the newest; in a tree that whose
// next candidate is the most likely of all that were not tried.
int next_parent(const Policy& policy, const Branch& branch, int width) {
  if (branch.size + 1 == kMaxTail) return -1;
  if (width == 1) {
    const int last = branch.size;
    const bool grows = branch.has_law[last] && branch.law[last].n > 0;
    return grows && !is_doubtful(policy, branch.law[last]) ? last : -1;
  }
  int best = -1;
  float most = 0;
  for (int j = 0; j <= branch.size; ++j) {
    if (!branch.has_law[j] || branch.tried[j] >= branch.law[j].n) continue;
    const float score = branch.score[j] + branch.law[j].lp[branch.tried[j]];
    if (best < 0 || score > most) best = j, most = score;
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

}  // namespace

// The row that takes node `j` of a branch through the draft.
Row node_row(const Control& c, const RingShape& ring, int b, int j) {
  const Branch& branch = c.branches[b];
  const int64_t first = branch.in_place ? c.head : c.head + c.chain.level[branch.node] + 1;
  const int behind = static_cast<int>(c.head - c.draft_rows.head);
  const int64_t slot = branch.in_place ? ring.slot(c.head + j) : ring.tail(b, j);
  return {first + branch.level[j],
          branch.token[j],
          static_cast<int32_t>(slot),
          b,
          j,
          branch.in_place ? branch.mask[j].behind(behind) : c.chain.mask[branch.node],
          branch.in_place ? Mask::none() : branch.mask[j]};
}

void keep_laws(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  for (int i = 0; i < c.draft_rows.n; ++i) keep_law(c, c.draft_rows.row[i], c.row_law[i]);
}

void extend(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  const RingShape& ring = args.ring->shape();
  RowTable& rows = c.draft_rows;
  keep_laws(args, {});
  rows.n = 0;
  ++c.step;
  for (int b = 0; b < c.branch_count; ++b) {
    Branch& branch = c.branches[b];
    const int width = branch.in_place ? c.policy.burst_width : c.policy.width;
    const bool is_last = c.step == (branch.in_place ? c.policy.burst : c.policy.gamma);
    const int slots = branch.in_place ? kSlots - static_cast<int>(c.head - rows.head)
                                      : static_cast<int>(ring.tail_slots);
    for (int i = 0; i < width; ++i) {
      const int parent = next_parent(c.policy, branch, width);
      if (parent < 0) break;
      const int j = hang_node(branch, parent);
      if (!is_last && j < slots && rows.n < args.max_rows)
        rows.row[rows.n++] = node_row(c, ring, b, j);
    }
  }
}

}  // namespace sbrt
