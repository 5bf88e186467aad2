// Scratch memory of a lane: the batch of the lane's next forward, and the results of sampling after
// this forward. The following forward overwrites both.
#pragma once

#include <cstdint>

#include "state/batch.h"
#include "state/sequence.h"

namespace sbrt {

struct Choice {
  int32_t token;
  int32_t error;  // RowError
};

enum RowError : int32_t { kFine = 0, kNanRow = 1, kNoToken = 2 };

struct TargetScratch {
  SBRT_PART(target_batch)
  Batch batch;
  SBRT_PART(choice)
  Choice choice[kMaxRows];  // the target's token after each row
};

struct DraftScratch {
  SBRT_PART(draft_batch)
  Batch batch;
  SBRT_PART(row_dist)
  Dist dist[kMaxStepRows];  // the draft's distribution after each row
};

}  // namespace sbrt
