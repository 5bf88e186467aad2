#include "round/rows_op.h"

#include "round/ops.h"

namespace sbrt {

void target_rows(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) { target_rows_op(args.of(seat), Alone{}); });
}

void prefill_target_rows(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    prompt_rows_op(args.of(seat), args.seats.at[seat].target_have, Alone{});
  });
}

void prefill_draft_rows(const LaneArgs& args, Worker worker) {
  for_seats(args.seats, worker, [&](int seat) {
    prompt_rows_op(args.of(seat), args.seats.at[seat].draft_have, Alone{});
  });
}

void gather(const GatherArgs& args, Worker) { gather_op(args, Alone{}); }

}  // namespace sbrt
