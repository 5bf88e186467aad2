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

// One member for all seats, because rejection and the classifier have one working memory.
void select(const SelectArgs& args, Worker worker) {
  if (worker.rank == 0) for_seats(args.seats, {}, [&](int seat) { select_one(args, seat); });
}

void classify(const SelectArgs& args, Worker worker) {
  if (worker.rank == 0) for_seats(args.seats, {}, [&](int seat) { classify_one(args, seat); });
}

void hrad_features(const HradArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    FeatureScratch scratch;
    hrad_features_op(hrad_seat(args, seat), scratch, Alone{});
  });
}

void hrad_inner(const HradArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    InnerScratch scratch;
    for (int panel = 0; panel < kHradPanels; ++panel)
      hrad_inner_op(hrad_seat(args, seat), panel, scratch, Alone{});
  });
}

void hrad_cut(const HradArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    CutScratch scratch;
    hrad_cut_op(hrad_seat(args, seat), scratch, Alone{});
  });
}

void hang_chain(const SelectArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    SelectScratch scratch;
    hang_chain_op(args.of(seat), scratch, Alone{});
  });
}

void hang_burst(const SelectArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    SelectScratch scratch;
    hang_burst_op(args.seats.at[seat], scratch, Alone{});
  });
}

void end_round(const EndArgs& args, Worker) { ++*args.ended; }

}  // namespace sbrt
