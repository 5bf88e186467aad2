#include <algorithm>

#include "spec/lanes.h"

namespace sbrt {
namespace {

// Up to kMaxRows prompt tokens from `have` on; the last prompt token is the root, not prefill.
void prompt_rows(const Control& c, const RingShape& ring, int64_t& have, RowTable& rows) {
  rows.head = have;
  rows.n = static_cast<int32_t>(std::min<int64_t>(kMaxRows, c.head - have));
  for (int i = 0; i < rows.n; ++i) {
    const int64_t p = have + i;
    rows.row[i] = {p,  c.trunk[p],        static_cast<int32_t>(ring.slot(p)),
                   -1, Mask::upto(i + 1), Mask::none()};
  }
  have += rows.n;
}

}  // namespace

void target_rows(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  const RingShape& ring = args.ring->shape();
  RowTable& rows = c.target_rows;
  rows.head = c.head;
  rows.n = c.chain.size + 1;
  for (int i = 0; i < rows.n; ++i)
    rows.row[i] = {c.head + c.chain.level[i],
                   c.chain.token[i],
                   static_cast<int32_t>(ring.slot(c.head + i)),
                   -1,
                   c.chain.mask[i],
                   Mask::none()};
}

void prefill_target_rows(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  prompt_rows(c, args.ring->shape(), c.target_have, c.target_rows);
}

void prefill_draft_rows(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  prompt_rows(c, args.ring->shape(), c.draft_have, c.draft_rows);
}

}  // namespace sbrt
