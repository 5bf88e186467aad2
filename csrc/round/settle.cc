#include "round/settle_op.h"

#include <algorithm>

#include "round/ops.h"

namespace sbrt {
namespace {

// Moves the KV of a lane whose ring the host can access.
struct RingKv {
  KvRing* ring;  // null: the lane's own ops move KV
  int seat;

  // Moves the KV of the accepted path to consecutive positions, in order of depth. A node's index
  // is at least its depth, so no move overwrites a slot that a later move reads. If the chain is a
  // path, nothing moves.
  void compact(const Sequence& c) const {
    if (!ring) return;
    const int64_t old_head = c.head - c.outcome.n - 1;
    for (int depth = 1; depth <= c.outcome.n; ++depth)
      ring->move(slot(old_head + c.outcome.path[depth]), slot(old_head + depth));
  }

  // Moves the KV of node `j` of branch `b` to the slot of chain node `i`.
  void move(const Sequence& c, int b, int j, int i) const {
    if (!ring) return;
    const bool in_place = c.branches[b].in_place;
    ring->move(in_place ? slot(c.head + j) : ring->shape().tail(seat, b, j), slot(c.head + i));
  }

  // In a debug ring: fills in-flight slots with NaN, except those of the nodes in `kept`. The
  // in-flight slots begin at position `from`, or at the head if that is earlier.
  void drop(const Sequence& c, int64_t from, Mask kept) const {
    if (!ring || !ring->debug()) return;
    for (int64_t p = std::min(from, c.head); p < std::min(from, c.head) + kSlots; ++p)
      if (p < c.head || p - c.head >= kSlots || !kept.has(static_cast<int>(p - c.head)))
        ring->poison(slot(p));
  }

  void drop_tails() const {
    if (!ring || !ring->debug()) return;
    const RingShape& shape = ring->shape();
    for (int b = 0; b < shape.branches; ++b)
      for (int j = 0; j < shape.tail_slots; ++j) ring->poison(shape.tail(seat, b, j));
  }

  int64_t slot(int64_t position) const { return ring->shape().slot(seat, position); }
};

}  // namespace

void settle_target(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker,
            [&](int seat) { settle_target_op(args.of(seat), RingKv{args.ring, seat}); });
}

void settle_draft(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker,
            [&](int seat) { settle_draft_op(args.of(seat), Alone{}, RingKv{args.ring, seat}); });
}

void move_burst(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker,
            [&](int seat) { move_burst_op(args.of(seat), Alone{}, RingKv{args.ring, seat}); });
}

}  // namespace sbrt
