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
    rows.row[i] = {
        p, c.trunk[p], static_cast<int32_t>(ring.slot(p)), -1, -1, Mask::upto(i + 1), Mask::none()};
  }
  have += rows.n;
}

}  // namespace

void target_rows(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  const RingShape& ring = args.shape;
  RowTable& rows = c.target_rows;
  rows.head = c.head;
  rows.n = c.chain.size + 1;
  for (int i = 0; i < rows.n; ++i)
    rows.row[i] = {c.head + c.chain.level[i],
                   c.chain.token[i],
                   static_cast<int32_t>(ring.slot(c.head + i)),
                   -1,
                   i,
                   c.chain.mask[i],
                   Mask::none()};
}

// A lane whose draft has no room left is not fed any more: a serial one will never have it again, an
// overlapped one may, after a miss.
void missing_rows(Control& c, const RingShape& ring) {
  RowTable& rows = c.draft_rows;
  rows.n = 0;
  const bool follows =
      c.policy.gamma > 0 ? c.head + c.chain.depth < c.draft_limit : burst_fits(c, c.policy.burst);
  if (!follows) return;
  // Trunk positions are in flight too as long as they are being fed.
  rows.head = std::min(c.draft_have, c.head);
  const int behind = static_cast<int>(std::min<int64_t>(c.head - rows.head, kSlots));
  check(behind + c.chain.size < kSlots, "draft lane: ", behind, " tokens behind the trunk");
  for (int i = 0; i < behind; ++i) {
    const int64_t p = rows.head + i;
    rows.row[rows.n++] = {
        p, c.trunk[p], static_cast<int32_t>(ring.slot(p)), -1, -1, Mask::upto(i + 1), Mask::none()};
  }
  for (int node = 0; node <= c.chain.size; ++node) {
    if (c.draft_nodes.has(node)) continue;
    rows.row[rows.n++] = {c.head + c.chain.level[node],
                          c.chain.token[node],
                          static_cast<int32_t>(ring.slot(c.head + node)),
                          -1,
                          node,
                          c.chain.mask[node].behind(behind),
                          Mask::none()};
  }
}

void prefill_target_rows(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  prompt_rows(c, args.shape, c.target_have, c.target_rows);
}

void prefill_draft_rows(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  prompt_rows(c, args.shape, c.draft_have, c.draft_rows);
}

}  // namespace sbrt
