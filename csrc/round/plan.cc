#include "round/plan_op.h"

#include "round/ops.h"

namespace sbrt {

void plan(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    PlanScratch scratch;
    plan_op(args.of(seat), scratch, Alone{});
  });
}

void plan_certain(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) { plan_certain_op(args.of(seat)); });
}

}  // namespace sbrt
