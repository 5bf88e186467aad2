// What the ops of a round are given: the control block and the ring of their lane.
#pragma once

#include "exec/control.h"
#include "exec/exec.h"
#include "exec/record.h"
#include "model/lane.h"
#include "ring/ring.h"
#include "spec/accept.h"
#include "spec/hrad.h"

namespace sbrt {

struct LaneArgs {
  Control* control;
  KvRing* ring;  // null: the lane moves its KV itself, behind `settle`
  RingShape shape;
  int32_t max_rows;  // of the lane's largest forward
};

struct SelectArgs {
  Control* control;
  Records* records;
  int64_t* round;      // the round that select ends; only select moves it
  const Lane* target;  // whose features are read
  const Hrad* hrad;    // null: nobody asks
  float* features;     // [Hrad::inputs(hidden)] of the last outcome; null: not kept
  float* scratch;      // of hrad
  Place place;         // working memory; without any in an engine that was not built for rejection
};

// Whether `steps` draft steps behind the chain stay within what the draft can follow.
inline bool burst_fits(const Control& c, int steps) {
  return c.head + c.chain.depth + 1 + steps < c.draft_limit;
}

// settle.cc: bring a lane's KV to the last outcome. In the draft lane: also list what is missing.
void settle_target(const LaneArgs& args, Worker);
void settle_draft(const LaneArgs& args, Worker);
void bring_burst(const LaneArgs& args, Worker);  // the same after a serial burst

// rows.cc: what the next forward computes.
void target_rows(const LaneArgs& args, Worker);          // root + chain
void prefill_target_rows(const LaneArgs& args, Worker);  // the next piece of the prompt
void prefill_draft_rows(const LaneArgs& args, Worker);
void missing_rows(Control& c, const RingShape& ring);  // trunk and chain not yet in the draft

// plan.cc: which branches.
void plan(const LaneArgs& args, Worker);          // the branch table and the rows of the first step
void plan_certain(const LaneArgs& args, Worker);  // a serial burst: one branch, and it is certain

// grow.cc: the burst.
void keep_laws(const LaneArgs& args, Worker);  // after a catch-up: its laws go to the chain's nodes
void extend(const LaneArgs& args, Worker);     // after a step: every branch grows
// `token` came at `position`; `law` is the draft's there.
void note_rank(Control& c, int64_t position, const Law& law, int32_t token);
Row node_row(const Control& c, const RingShape& ring, int branch, int node);

// select.cc: the only writer of outcome and chain.
void select(const SelectArgs& args, Worker);
void hang_burst(const SelectArgs& args, Worker);  // a serial burst becomes the chain

// lookup.cc: up to `want` tokens that followed the last place where the trunk read as it does at its
// end now; the longest match of at least two tokens counts, the latest of equal ones. Returns how many.
int look_up(const int32_t* trunk, int64_t length, int want, int32_t* found);

}  // namespace sbrt
