#include "spec/plan_op.h"

#include "spec/lanes.h"

namespace sbrt {

void plan(const LaneArgs& args, Worker) {
  PlanScratch scratch;
  plan_op(args, scratch, Alone{});
}

void plan_certain(const LaneArgs& args, Worker) { plan_certain_op(args); }

}  // namespace sbrt
