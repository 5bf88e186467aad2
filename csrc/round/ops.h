// The ops of a round as functions of the host. Their code is in the files *_op.h, which devices
// compile, too.
#pragma once

#include "exec/exec.h"
#include "model/lane.h"
#include "ring/ring.h"
#include "round/hrad.h"
#include "round/op_args.h"

namespace sbrt {

// Calls op(seat) for every seat that takes part in the round. The members of the team divide the
// seats among themselves.
template <class Op>
void for_seats(const Seats& seats, Worker worker, const Op& op) {
  for (int seat = worker.rank; seat < seats.count; seat += worker.size)
    if (seats.takes_part(seat)) op(seat);
}

#define SBRT_OP(Struct, name, Args, host, device, reads, writes) void name(const Args&, Worker);
#include "round/op_table.inc"
#undef SBRT_OP

}  // namespace sbrt
