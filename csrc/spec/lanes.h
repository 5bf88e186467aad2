// What the ops of a round are given: the control block and the ring of their lane.
#pragma once

#include "exec/control.h"
#include "exec/exec.h"
#include "exec/record.h"
#include "ring/ring.h"

namespace sbrt {

struct LaneArgs {
  Control* control;
  KvRing* ring;
};

struct SelectArgs {
  Control* control;
  Records* records;
  int64_t* round;  // the round that select ends; only select moves it
};

// Whether a burst behind the chain stays within what the draft can follow.
inline bool burst_fits(const Control& c) {
  return c.head + c.chain.depth + 1 + c.policy.gamma < c.draft_limit;
}

// settle.cc: bring a lane's KV to the last outcome.
void settle_target(const LaneArgs& args, Worker);
void settle_draft(const LaneArgs& args, Worker);

// rows.cc: what the next forward computes.
void target_rows(const LaneArgs& args, Worker);          // root + chain
void prefill_target_rows(const LaneArgs& args, Worker);  // the next piece of the prompt
void prefill_draft_rows(const LaneArgs& args, Worker);

// plan.cc: the burst.
void keep_laws(const LaneArgs& args, Worker);  // after a catch-up: its laws go to the chain's nodes
void plan(const LaneArgs& args, Worker);       // the branch table and the rows of the first step
void extend(const LaneArgs& args, Worker);     // after a step: one more node on every tail

// select.cc: the only writer of outcome and chain.
void select(const SelectArgs& args, Worker);
void adopt_certain(const SelectArgs& args, Worker);  // serial rounds: the burst becomes the chain

}  // namespace sbrt
