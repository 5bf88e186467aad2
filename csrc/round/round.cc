#include "round/round.h"

namespace sbrt {
namespace {

// Tells the other lane that data is ready for it. The mail is sent before the fence is recorded,
// because a lane that has waited for the fence reads the mail's data.
void tell(Stream& stream, const Mail* mail, SeatSet seats, Event& fence, int64_t round) {
  if (mail) stream.send(*mail, seats);
  stream.record(fence, round);
}

}  // namespace

void enqueue_round(int64_t r, const RoundShape& shape, TargetLane& target, DraftLane* draft,
                   Fences& fences) {
  Stream& t = target.stream;
  const bool whole = target.fused != nullptr;
  if (target.settles && (shape.burst > 0 || !whole)) t.launch(target.settle, 1, target.seats);
  if (shape.burst > 0) t.wait(fences.chain_ready, r);
  t.launch(whole ? *target.fused : target.forward, shape.target_width, target.seats);
  if (shape.gamma > 0) t.wait(fences.draft_ready, r);
  if (shape.gamma > 0 || !whole) t.launch(target.select, target.select_width, target.seats);
  tell(t, target.verdict, target.seats, fences.verify_done, r);

  if (shape.burst + shape.gamma == 0) return;
  Stream& d = draft->stream;
  d.wait(fences.verify_done, r - 1);
  d.launch(draft->settle, 1, draft->seats);
  if (shape.burst > 0) {
    if (draft->serial_burst) {
      d.launch(*draft->serial_burst, shape.burst_width, draft->seats);
    } else {
      d.launch(draft->plan_certain, 1, draft->seats);
      for (int step = 0; step < shape.burst; ++step)
        d.launch(draft->step, shape.burst_width, draft->seats);
      d.launch(draft->attach_burst, 1, draft->seats);
    }
    tell(d, draft->burst_mail, draft->seats, fences.chain_ready, r);
  }
  if (shape.gamma > 0) {
    if (draft->burst) {
      d.launch(*draft->burst, shape.draft_width, draft->seats);
    } else {
      d.launch(draft->catch_up, shape.draft_width, draft->seats);
      d.launch(draft->plan, 1, draft->seats);
      for (int step = 0; step < shape.gamma; ++step)
        d.launch(draft->step, shape.draft_width, draft->seats);
    }
    tell(d, draft->offer, draft->seats, fences.draft_ready, r);
  }
}

}  // namespace sbrt
