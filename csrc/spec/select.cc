#include "spec/select_op.h"

#include "spec/accept.h"
#include "spec/lanes.h"

namespace sbrt {

void select(const SelectArgs& args, Worker) {
  Sequence& c = *args.sequence;
  if (!is_rejection(c)) {
    select_op(args, Alone{});
    return;
  }
  c.no_mass = 0;
  c.outcome = walk_by_chance(c, args.choice, args.place);
  commit_outcome(c);
  adopt_branch(c, Alone{});
}

void classify(const SelectArgs& args, Worker) {
  Sequence& c = *args.sequence;
  if (c.outcome.error) return;
  read_features(*args.target, c.outcome.node, c.outcome.y, adopted(c), args.features);
  if (args.hrad && c.policy.hrad) c.cut = args.hrad->classify(args.features, args.scratch);
}

void hrad_features(const HradArgs& args, Worker) {
  FeatureScratch scratch;
  hrad_features_op(args, scratch, Alone{});
}

void hrad_inner(const HradArgs& args, Worker) {
  InnerScratch scratch;
  for (int panel = 0; panel < kHradPanels; ++panel) hrad_inner_op(args, panel, scratch, Alone{});
}

void hrad_cut(const HradArgs& args, Worker) {
  CutScratch scratch;
  hrad_cut_op(args, scratch, Alone{});
}

void hang_chain(const SelectArgs& args, Worker) {
  SelectScratch scratch;
  hang_chain_op(args, scratch, Alone{});
}

void hang_burst(const SelectArgs& args, Worker) {
  SelectScratch scratch;
  hang_burst_op(*args.sequence, scratch);
}

}  // namespace sbrt
