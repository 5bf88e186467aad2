#include "spec/round.h"

namespace sbrt {

void enqueue_round(int64_t r, const RoundShape& shape, TargetLane& target, DraftLane* draft,
                   Fences& fences) {
  Stream& t = target.stream;
  const bool drafts = draft && shape.gamma > 0;
  t.launch(target.settle, 1);
  if (drafts && shape.serial) {
    t.wait(fences.draft_ready, r);
    t.launch(target.adopt, 1);
  }
  t.launch(target.forward, shape.target_width);
  if (drafts && !shape.serial) t.wait(fences.draft_ready, r);
  t.launch(target.select, 1);
  t.record(fences.verify_done, r);

  if (!drafts) return;
  Stream& d = draft->stream;
  d.wait(fences.verify_done, r - 1);
  d.launch(draft->settle, 1);
  if (!shape.serial) d.launch(draft->catch_up, shape.draft_width);
  d.launch(draft->plan, 1);
  for (int step = 0; step < shape.gamma; ++step) d.launch(draft->step, shape.draft_width);
  d.record(fences.draft_ready, r);
}

}  // namespace sbrt
