// One round: the loop that every method is a preset of. It only enqueues.
#pragma once

#include "exec/exec.h"

namespace sbrt {

// A lane's part of a round: its stream, the graphs it replays and how wide it runs.
struct TargetLane {
  Stream& stream;
  const Graph &settle, &adopt, &forward, &select;
};

struct DraftLane {
  Stream& stream;
  const Graph &settle, &catch_up, &plan, &step;
};

struct Fences {
  Event verify_done{"verify_done"};  // outcome r, chain r + 1 and record r are written
  Event draft_ready{"draft_ready"};  // branch table r and tails r are written
};

struct RoundShape {
  int gamma;         // draft steps; 0: no draft
  bool serial;       // the target waits for the burst before its forward
  int target_width;  // members of the target's team
  int draft_width;
};

void enqueue_round(int64_t r, const RoundShape& shape, TargetLane& target, DraftLane* draft,
                   Fences& fences);

}  // namespace sbrt
