// The ops of a round, as the cpu and sim bodies run them. What they do to a sequence stands in
// *_op.h, one source for every device.
#pragma once

#include "exec/exec.h"
#include "model/lane.h"
#include "ring/ring.h"
#include "round/accept.h"
#include "round/hrad.h"
#include "round/op_args.h"

namespace sbrt {

// `op(seat)` for every seat that takes part, each by one member of the team.
template <class Op>
void for_seats(const Seats& seats, Worker worker, const Op& op) {
  for (int seat = worker.rank; seat < seats.count; seat += worker.size)
    if (seats.takes_part(seat)) op(seat);
}

// settle.cc: bring a lane's KV to the last outcome. In the draft lane: also list what is missing.
void settle_target(const LaneArgs& args, Worker);
void settle_draft(const LaneArgs& args, Worker);
void bring_burst(const LaneArgs& args, Worker);  // the same after a serial burst

// rows.cc: what the next forward computes.
void target_rows(const LaneArgs& args, Worker);          // root + chain
void prefill_target_rows(const LaneArgs& args, Worker);  // the next piece of the prompt
void prefill_draft_rows(const LaneArgs& args, Worker);
void gather(const GatherArgs& args, Worker);  // then, before every forward: the batch

// plan.cc: which branches.
void plan(const LaneArgs& args, Worker);          // the branch table and the rows of the first step
void plan_certain(const LaneArgs& args, Worker);  // a serial burst: one branch, and it is certain

// grow.cc: the burst.
void keep_laws(const LaneArgs& args, Worker);  // after a catch-up: its laws go to the chain's nodes
void extend(const LaneArgs& args, Worker);     // after a step: every branch grows

// select.cc: the only writer of outcome and chain. The first three in this order. Look-ups join a chain
// in hang_chain and hang_burst (join_op.h).
void select(const SelectArgs& args, Worker);      // the outcome
void classify(const SelectArgs& args, Worker);    // what H-RAD says of it; where features are kept
void hang_chain(const SelectArgs& args, Worker);  // the next chain, and the record
void hang_burst(const SelectArgs& args, Worker);  // a serial burst becomes the chain
void end_round(const EndArgs& args, Worker);      // behind all of them: one more round has ended

// `classify` as a device does it; the host runs these in its place on the body that stands in for one.
void hrad_features(const HradArgs& args, Worker);  // what it reads
void hrad_inner(const HradArgs& args, Worker);     // its first layer
void hrad_cut(const HradArgs& args, Worker);       // the others, and what it says

}  // namespace sbrt
