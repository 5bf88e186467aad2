// One round of the decode loop. Every method is a setting of this round. The function here only
// enqueues work.
#pragma once

#include "exec/exec.h"

namespace sbrt {

// The target lane in a round: the stream, the graphs to launch, and the teams' sizes.
struct TargetLane {
  Stream& stream;
  const Graph &settle, &forward, &select;
  // All graphs that the target launches between two waits, fused into one. Null: they are launched
  // one by one.
  const Graph* fused = nullptr;
  bool settles = true;            // false: KV never moves, so `settle` is left out
  int select_width = 1;           // number of members of the team that runs `select`
  SeatSet seats = kEverySeat;     // the seats that take part
  const Mail* verdict = nullptr;  // mail to the draft's memory; null: the lanes share one memory
};

struct DraftLane {
  Stream& stream;
  const Graph &settle, &plan_certain, &attach_burst, &catch_up, &plan, &step;
  // Two optional graphs: all steps of a serial burst, and all steps of a burst during the target's
  // forward. Null: the graphs above are launched step by step.
  const Graph* serial_burst = nullptr;
  const Graph* burst = nullptr;
  // Mails to the target's memory: the result of a serial burst, and the branches. Null: the lanes
  // share one memory.
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
  int burst;  // number of draft steps that the target's forward waits for
  // Number of draft steps during the target's forward. If burst and gamma are 0, there is no draft.
  int gamma;
  int target_width;  // number of members of the target's team
  int draft_width;
  int burst_width;            // number of members of the draft's team in a serial burst
  bool has_logprobs = false;  // true: a sequence in the round asks for log-probs
};

void enqueue_round(int64_t r, const RoundShape& shape, TargetLane& target, DraftLane* draft,
                   Fences& fences);

}  // namespace sbrt
