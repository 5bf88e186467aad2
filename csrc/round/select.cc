#include "round/select_op.h"

#include "round/ops.h"

namespace sbrt {

namespace {

void classify_one(const SelectArgs& args, int seat) {
  Sequence& c = args.seats.at[seat];
  if (c.outcome.error) return;
  float* x = args.features + seat * Hrad::room(args.target->feature_width());
  const int row = args.batch->first[seat] + verified_before(c, c.outcome.node);
  read_features(*args.target, row, c.outcome.y, adopted(c), x);
  if (args.hrad && c.policy.hrad) c.cut = args.hrad->classify(x, args.scratch);
}

}  // namespace

// One member of the team serves all seats, because the classifier has only one working memory.
void classify(const SelectArgs& args, Worker worker) {
  if (worker.rank == 0) for_seats(args.seats, {}, [&](int seat) { classify_one(args, seat); });
}

}  // namespace sbrt
