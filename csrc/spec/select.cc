#include "spec/select_op.h"

#include "spec/accept.h"
#include "spec/lanes.h"

namespace sbrt {

void select(const SelectArgs& args, Worker) {
  Control& c = *args.control;
  if (!is_rejection(c)) {
    select_op(c);
    return;
  }
  c.no_mass = 0;
  c.outcome = walk_by_chance(c, args.place);
  commit_outcome(c);
}

// By the target's newest features.
void classify(const SelectArgs& args, Worker) {
  Control& c = *args.control;
  if (c.outcome.error) return;
  read_normalised(*args.target, c.outcome.node, c.outcome.y, args.features);
  if (args.hrad && c.policy.hrad) c.cut = args.hrad->classify(args.features, args.scratch);
}

void hang_chain(const SelectArgs& args, Worker) {
  SelectScratch scratch;
  hang_chain_op(args, scratch, Alone{});
}

void hang_burst(const SelectArgs& args, Worker) {
  SelectScratch scratch;
  hang_burst_op(*args.control, scratch);
}

}  // namespace sbrt
