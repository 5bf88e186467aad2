// One round: the loop that every method is a preset of. It only enqueues.
#pragma once

#include "exec/exec.h"

namespace sbrt {

// A lane's part of a round: its stream, the graphs it replays and how wide it runs.
struct TargetLane {
  Stream& stream;
  const Graph &settle, &forward, &select;
  // One graph for those that follow each other in a round; null: the round launches each.
  const Graph* fused = nullptr;
  bool settles = true;            // false: no KV ever moves, so `settle` is left out
  int select_width = 1;           // members of the team
  SeatSet seats = kEverySeat;     // which take part
  const Mail* verdict = nullptr;  // to the draft's memory, if that is another
};

struct DraftLane {
  Stream& stream;
  const Graph &settle, &plan_certain, &attach_burst, &catch_up, &plan, &step;
  // One graph for such a burst of the round's steps; null: its parts are launched.
  const Graph* serial_burst = nullptr;
  const Graph* burst = nullptr;
  // To the target's memory, if that is another: what a serial burst made, and what the burst made.
  const Mail* burst_mail = nullptr;
  const Mail* offer = nullptr;
  SeatSet seats = kEverySeat;  // which take part
};

struct Fences {
  Event verify_done{"verify_done"};  // outcome r, chain r + 1 and record r are written
  Event chain_ready{"chain_ready"};  // the serial burst of round r is its chain
  Event draft_ready{"draft_ready"};  // branch table r and tails r are written
};

struct RoundShape {
  int burst;         // draft steps before the target's forward, which waits for them
  int gamma;         // draft steps that overlap it; 0 and 0: no draft
  int target_width;  // members of the target's team
  int draft_width;
  int burst_width;            // of the draft's, while it runs alone
  bool has_logprobs = false;  // a member asks for those of its tokens
};

void enqueue_round(int64_t r, const RoundShape& shape, TargetLane& target, DraftLane* draft,
                   Fences& fences);

}  // namespace sbrt
