#include "round/grow_op.h"

#include "round/ops.h"

namespace sbrt {

void keep_laws(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) { keep_laws_op(args.of(seat), Alone{}); });
}

void extend(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    GrowScratch scratch;
    extend_op(args.of(seat), scratch, Alone{});
  });
}

}  // namespace sbrt
