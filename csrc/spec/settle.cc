#include <algorithm>

#include "spec/lanes.h"

namespace sbrt {
namespace {

// The accepted path slides to its positions, by ascending depth: a node's index is never below its
// depth, so no move overwrites what a later one reads. On a path nothing moves.
void compact(const Control& c, KvRing* ring) {
  if (!ring) return;
  const int64_t old_head = c.head - c.outcome.n - 1;
  for (int depth = 1; depth <= c.outcome.n; ++depth)
    ring->move(ring->shape().slot(old_head + c.outcome.path[depth]),
               ring->shape().slot(old_head + depth));
}

// Debug: no in-flight slot is alive but those of nodes in `kept`. A lane that is behind the trunk has
// its in-flight slots from position `from` on.
void poison_in_flight(const Control& c, KvRing* ring, int64_t from, Mask kept) {
  if (!ring || !ring->debug()) return;
  for (int64_t p = std::min(from, c.head); p < std::min(from, c.head) + kSlots; ++p)
    if (p < c.head || p - c.head >= kSlots || !kept.has(static_cast<int>(p - c.head)))
      ring->poison(ring->shape().slot(p));
}

void poison_tails(KvRing* ring) {
  if (!ring || !ring->debug()) return;
  for (int64_t s = ring->shape().capacity; s < ring->shape().slots(); ++s) ring->poison(s);
}

// What the draft had of the accepted path is trunk now.
void advance_trunk(Control& c) {
  const Outcome& o = c.outcome;
  if (c.draft_have == c.head - o.n - 1)
    for (int depth = 0; depth <= o.n && c.draft_nodes.has(o.path[depth]); ++depth) ++c.draft_have;
  c.draft_nodes = Mask::none();
}

void bring_scores(const Control& c, int b, int from, int to) {
  const Scores& s = c.scores;
  const int64_t size = s.vocab;
  const float* row = c.branches[b].in_place ? s.in_place + from * size : s.tail(b, from);
  std::copy_n(row, size, s.chain + to * size);
}

// The adopted tail moves behind the head, its nodes to their places in the chain. The nodes drafted
// last never went through the draft: they are missing still, unless the cut fell before them.
void bring_tail(const LaneArgs& args, int b) {
  Control& c = *args.control;
  const Branch& branch = c.branches[b];
  const RingShape& shape = args.shape;
  for (int i = 0; i <= c.chain.size; ++i) {
    const int j = c.source[i];
    if (!branch.has_law[j]) continue;
    if (args.ring)
      args.ring->move(branch.in_place ? shape.slot(c.head + j) : shape.tail(b, j),
                      shape.slot(c.head + i));
    c.chain_law[i] = branch.law[j];
    if (is_rejection(c)) bring_scores(c, b, j, i);
    c.draft_nodes = c.draft_nodes.with(i);
  }
}

}  // namespace

void settle_target(const LaneArgs& args, Worker) {
  compact(*args.control, args.ring);
  poison_in_flight(*args.control, args.ring, args.control->head, Mask::none());
}

void settle_draft(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  c.draft_compacts = c.draft_nodes.count() > 0;
  if (c.draft_compacts) compact(c, args.ring);
  advance_trunk(c);
  if (c.outcome.branch >= 0) bring_tail(args, c.outcome.branch);
  poison_in_flight(c, args.ring, c.draft_have, c.draft_nodes);
  poison_tails(args.ring);
  missing_rows(c, args.shape);
}

void bring_burst(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  if (!c.draft_idle) bring_tail(args, 0);
  poison_in_flight(c, args.ring, c.draft_have, c.draft_nodes);
  missing_rows(c, args.shape);
}

}  // namespace sbrt
