#include "round/select_op.h"

#include "round/accept.h"
#include "round/ops.h"

namespace sbrt {

namespace {

void select_one(const SelectArgs& args, int seat) {
  const SelectSeat mine = args.of(seat);
  Sequence& c = *mine.sequence;
  if (!is_rejection(c)) {
    select_op(mine, Alone{});
    return;
  }
  c.no_mass = 0;
  c.outcome = walk_by_chance(c, mine.choice, args.place);
  commit_outcome(c);
  adopt_branch(c, Alone{});
}

void classify_one(const SelectArgs& args, int seat) {
  Sequence& c = args.seats.at[seat];
  if (c.outcome.error) return;
  float* x = args.features + seat * Hrad::room(args.target->feature_width());
  const int row = args.batch->first[seat] + verified_before(c, c.outcome.node);
  read_features(*args.target, row, c.outcome.y, adopted(c), x);
  if (args.hrad && c.policy.hrad) c.cut = args.hrad->classify(x, args.scratch);
}

}  // namespace

// Only one member of the team works, and it runs the op for all seats. Rejection and the classifier
// have only one working memory.
void select(const SelectArgs& args, Worker worker) {
  if (worker.rank == 0) for_seats(args.seats, {}, [&](int seat) { select_one(args, seat); });
}

void classify(const SelectArgs& args, Worker worker) {
  if (worker.rank == 0) for_seats(args.seats, {}, [&](int seat) { classify_one(args, seat); });
}

}  // namespace sbrt
