#include "spec/rows_op.h"

#include "spec/lanes.h"

namespace sbrt {

void target_rows(const LaneArgs& args, Worker) { target_rows_op(args, Alone{}); }

void prefill_target_rows(const LaneArgs& args, Worker) {
  prompt_rows_op(args, args.sequence->target_have, Alone{});
}

void prefill_draft_rows(const LaneArgs& args, Worker) {
  prompt_rows_op(args, args.sequence->draft_have, Alone{});
}

}  // namespace sbrt
