#include "spec/rows_op.h"

#include "spec/lanes.h"

namespace sbrt {

void target_rows(const LaneArgs& args, Worker) { target_rows_op(args, Alone{}); }

void prefill_target_rows(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  prompt_rows_op(args, c.target_have, c.target_rows, Alone{});
}

void prefill_draft_rows(const LaneArgs& args, Worker) {
  Control& c = *args.control;
  prompt_rows_op(args, c.draft_have, c.draft_rows, Alone{});
}

}  // namespace sbrt
