// One round of the decode loop, of which every method is a preset. It only enqueues.
#pragma once

#include "exec/exec.h"

namespace sbrt {

// A lane's part of a round: its stream, the graphs that it replays and the size of its team.
struct TargetLane {
  Stream& stream;
  const Graph &settle, &forward, &select;
  // The graphs that follow each other in a round, fused into one; null: launched one by one.
  const Graph* fused = nullptr;
  bool settles = true;            // false: no KV ever moves, so `settle` is left out
  int select_width = 1;           // members of the team in `select`
  SeatSet seats = kEverySeat;     // seats that take part
  const Mail* verdict = nullptr;  // mail to the draft's memory; null: it is shared
};

struct DraftLane {
  Stream& stream;
  const Graph &settle, &plan_certain, &attach_burst, &catch_up, &plan, &step;
  // Each is one graph of all steps of such a burst; null: the parts of the burst are launched.
  const Graph* serial_burst = nullptr;
  const Graph* burst = nullptr;
  // Mail to the target's memory: the result of a serial burst, and that of a burst. Null: the lanes
  // share a memory.
  const Mail* burst_mail = nullptr;
  const Mail* offer = nullptr;
  SeatSet seats = kEverySeat;  // seats that take part
};

struct Fences {
  Event verify_done{"verify_done"};  // outcome r, chain r + 1 and record r are written
  Event chain_ready{"chain_ready"};  // the serial burst of round r has become chain r
  Event draft_ready{"draft_ready"};  // branch table r and tails r are written
};

struct RoundShape {
  int burst;         // draft steps before the target's forward, which waits for them
  int gamma;         // draft steps that overlap it; without burst and gamma: no draft
  int target_width;  // members of the target's team
  int draft_width;
  int burst_width;            // members of the draft's team while the draft runs alone
  bool has_logprobs = false;  // a sequence of the round asks for log-probs
};

void enqueue_round(int64_t r, const RoundShape& shape, TargetLane& target, DraftLane* draft,
                   Fences& fences);

}  // namespace sbrt
