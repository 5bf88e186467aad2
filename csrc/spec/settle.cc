#include <algorithm>

#include "spec/lanes.h"

namespace sbrt {
namespace {

// The accepted path slides to its positions, by ascending depth: a node's index is never below its
// depth, so no move overwrites what a later one reads. On a path nothing moves.
void compact(const Control& c, KvRing& ring) {
  const int64_t old_head = c.head - c.outcome.n - 1;
  for (int depth = 1; depth <= c.outcome.n; ++depth)
    ring.move(ring.shape().slot(old_head + c.outcome.path[depth]),
              ring.shape().slot(old_head + depth));
}

// Debug: nothing at or behind position `from` of the in-flight slots is alive. A lane that is behind
// the trunk has its in-flight slots from there on: what lies before them is still read.
void poison_in_flight(const Control& c, KvRing& ring, int64_t from) {
  if (!ring.debug()) return;
  for (int64_t p = from; p < std::min(from, c.head) + kSlots; ++p)
    ring.poison(ring.shape().slot(p));
}

void poison_tails(KvRing& ring) {
  if (!ring.debug()) return;
  for (int64_t s = ring.shape().capacity; s < ring.shape().slots(); ++s) ring.poison(s);
}

// Rows for every position of trunk and chain that the draft has not processed.
void catch_up_rows(const Control& c, const RingShape& ring, RowTable& rows) {
  const int64_t behind = c.head - c.draft_have;
  check(behind + c.chain.size < kSlots, "draft lane: ", behind, " tokens behind the trunk");
  rows.head = c.head;
  for (int64_t p = c.draft_have; p <= c.head + c.chain.size; ++p) {
    const int node = static_cast<int>(p - c.head);
    Row& row = rows.row[rows.n++];
    row.position = p;
    row.token = node < 0 ? c.trunk[p] : c.chain.token[node];
    row.slot = static_cast<int32_t>(ring.slot(p));
    row.branch = -1;
    row.chain = node < 0 ? Mask::none() : c.chain.mask[node];
    row.tail = Mask::none();
  }
  // Trunk positions are in flight too as long as they are being fed.
  if (c.draft_have < c.head) {
    rows.head = c.draft_have;
    for (int i = 0; i < rows.n; ++i) {
      Row& row = rows.row[i];
      row.chain = Mask::upto(static_cast<int>(row.position - rows.head) + 1);
    }
  }
}

}  // namespace

void settle_target(const LaneArgs& args, Worker) {
  compact(*args.control, *args.ring);
  poison_in_flight(*args.control, *args.ring, args.control->head);
}

void settle_draft(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  const RingShape& ring = args.ring->shape();
  compact(c, *args.ring);
  c.draft_have = std::min(c.draft_have, c.head);
  if (c.outcome.branch >= 0) {
    // Hit: slot j of the tail is position head + j. The last node of a whole tail was drafted but
    // never processed; after a cut the law at the last node kept is there already.
    const Branch& branch = c.branches[c.outcome.branch];
    const int kept = c.adopted;
    const int processed = std::min(kept + 1, branch.size);
    for (int j = 0; j < processed; ++j) {
      args.ring->move(ring.tail(c.outcome.branch, j), ring.slot(c.head + j));
      c.chain_law[j] = branch.law[j];
    }
    c.draft_have = c.head + processed;
  }
  poison_in_flight(c, *args.ring, c.draft_have);
  poison_tails(*args.ring);
  // A serial draft without room for a burst never has it again; an overlapped one may, after a miss.
  const bool follows = c.policy.serial ? burst_fits(c) : c.head + c.chain.depth < c.draft_limit;
  c.draft_rows.n = 0;
  if (follows) catch_up_rows(c, ring, c.draft_rows);
}

}  // namespace sbrt
