#include <algorithm>

#include "spec/lanes.h"

namespace sbrt {
namespace {

// k = max(1, floor(k_max (1 - q))) of the first choice's q, or k_max.
int branches_wanted(const Policy& policy, const Law& law) {
  if (law.n == 0) return 0;
  int k = policy.branches;
  if (policy.adaptive) {
    const float open = static_cast<float>(policy.branches) * (1.0f - law.q[0]);
    k = std::max(1, static_cast<int>(open));
  }
  return std::min({k, law.n, kMaxBranches});
}

// Branch b: "if the round ends with (node, token)". Its first row is that token.
void start_branch(Control& c, const RingShape& ring, int node, int32_t token) {
  const int b = c.branch_count++;
  Branch& branch = c.branches[b];
  branch.node = node;
  branch.size = 0;
  branch.token[0] = token;
  c.draft_rows.row[c.draft_rows.n++] = {c.head + c.chain.level[node] + 1,
                                        token,
                                        static_cast<int32_t>(ring.tail(b, 0)),
                                        b,
                                        c.chain.mask[node],
                                        Mask::none().with(0)};
}

// Serial rounds: the outcome is known, so the one branch is certain and grows in place, in the
// in-flight slots. What the draft has missed of the trunk rides along in its first step.
void plan_certain(Control& c) {
  Branch& branch = c.branches[0];
  branch.node = 0;
  branch.size = 0;
  branch.token[0] = c.chain.token[0];
  c.branch_count = 1;
  c.draft_rows.row[c.draft_rows.n - 1].branch = 0;
}

// The row that processes the node just drafted, from the row that drafted it.
Row next_row(const Row& row, const RowTable& rows, const RingShape& ring, int32_t token) {
  Row next = row;
  next.position = row.position + 1;
  next.token = token;
  if (row.tail.bits()) {
    const int j = row.tail.last() + 1;
    next.slot = static_cast<int32_t>(ring.tail(row.branch, j));
    next.tail = row.tail.with(j);
  } else {
    next.slot = static_cast<int32_t>(ring.slot(next.position));
    next.chain = row.chain.with(static_cast<int>(next.position - rows.head));
  }
  return next;
}

}  // namespace

void keep_laws(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  for (int i = 0; i < c.draft_rows.n; ++i) {
    const int64_t node = c.draft_rows.row[i].position - c.head;
    if (node >= 0) c.chain_law[node] = c.row_law[i];
  }
  c.draft_have += c.draft_rows.n;
}

void plan(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  const RingShape& ring = args.ring->shape();
  c.branch_count = 0;
  // A branch must not reach past what the draft can follow.
  c.draft_idle = !burst_fits(c);
  if (c.draft_idle) {
    c.draft_rows.n = 0;
  } else if (c.policy.serial) {
    plan_certain(c);
  } else {
    c.draft_rows.head = c.head;
    c.draft_rows.n = 0;
    const Law& law = c.chain_law[c.chain.size];
    const int k = branches_wanted(c.policy, law);
    for (int i = 0; i < k; ++i) start_branch(c, ring, c.chain.size, law.token[i]);
  }
}

void extend(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  RowTable& rows = c.draft_rows;
  int kept = 0;
  for (int i = 0; i < rows.n; ++i) {
    const Row row = rows.row[i];
    if (c.policy.serial) c.draft_have = std::max(c.draft_have, row.position + 1);
    if (row.branch < 0) continue;
    Branch& branch = c.branches[row.branch];
    branch.law[branch.size] = c.row_law[i];
    if (c.row_law[i].n == 0) continue;  // the draft has nothing to say: this tail ends here
    branch.token[++branch.size] = c.row_law[i].token[0];
    if (branch.size < c.policy.gamma)
      rows.row[kept++] = next_row(row, rows, args.ring->shape(), branch.token[branch.size]);
  }
  rows.n = kept;
}

}  // namespace sbrt
