// One round of the decode loop. Every method is a preset of this round. The code here only
// enqueues.
#pragma once

#include "exec/exec.h"

namespace sbrt {

// The target lane in a round: its stream, the graphs that it launches and the size of its team.
struct TargetLane {
  Stream& stream;
  const Graph &settle, &forward, &select;
  // One graph that is fused from those that follow each other in a round. Null: they are launched
  // one by one.
  const Graph* fused = nullptr;
  bool settles = true;            // false: KV never moves, so `settle` is left out
  int select_width = 1;           // number of members of the team that runs `select`
  SeatSet seats = kEverySeat;     // the seats that take part
  const Mail* verdict = nullptr;  // mail to the draft's memory; null: the lanes share a memory
};

struct DraftLane {
  Stream& stream;
  const Graph &settle, &plan_certain, &attach_burst, &catch_up, &plan, &step;
  // Each of these is one graph with all steps of a serial burst, or of a burst during the target's
  // forward. Null: the graphs above are launched step by step.
  const Graph* serial_burst = nullptr;
  const Graph* burst = nullptr;
  // The mails to the target's memory, with the result of a serial burst and with the branches.
  // Null: the lanes share a memory.
  const Mail* burst_mail = nullptr;
  const Mail* offer = nullptr;
  SeatSet seats = kEverySeat;  // the seats that take part
};

struct Fences {
  Event verify_done{"verify_done"};  // outcome r, chain r + 1 and the record of round r are written
  Event chain_ready{"chain_ready"};  // the serial burst of round r has been made chain r
  Event draft_ready{"draft_ready"};  // the branches of round r and their tails are written
};

struct RoundShape {
  int burst;         // number of draft steps before the target's forward, which waits for them
  int gamma;         // number of draft steps during that forward; both 0: no draft
  int target_width;  // number of members of the target's team
  int draft_width;
  int burst_width;            // number of members of the draft's team while the draft runs alone
  bool has_logprobs = false;  // true: a sequence of the round asks for log-probs
};

void enqueue_round(int64_t r, const RoundShape& shape, TargetLane& target, DraftLane* draft,
                   Fences& fences);

}  // namespace sbrt
