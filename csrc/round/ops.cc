// The functions with which the host runs the ops in seat_ops.h.
#include "round/ops.h"

#include "round/kernels.h"
#include "round/seat_ops.h"

namespace sbrt {

static_assert(kPanels.blocks == kHradPanels);
static_assert(kRows.blocks == kLogprobBlocks && kRows.threads == kLogprobTeam);
static_assert(kRows.blocks == kScoreBlocks);

namespace {

template <class Op, class Args>
void run_seats(const Args& args, Worker worker, KernelShape shape) {
  for_seats(args.seats, worker, [&](int seat) {
    typename Op::Memory memory;
    for (int block = 0; block < static_cast<int>(shape.blocks); ++block)
      Op::run(args, At{seat, block}, memory, Alone{});
  });
}

template <class Op, class Args>
void run_once(const Args& args) {
  typename Op::Memory memory;
  Op::run(args, At{}, memory, Alone{});
}

}  // namespace

#define SBRT_HOST_seats(Struct, name, Args, device) \
  void name(const Args& args, Worker worker) { run_seats<Struct>(args, worker, device); }
#define SBRT_HOST_once(Struct, name, Args, device) \
  void name(const Args& args, Worker) { run_once<Struct>(args); }
#define SBRT_HOST_own(...)       // defined in settle.cc and logprobs.cc
#define SBRT_HOST_own_once(...)  // select.cc
#define SBRT_OP(Struct, name, Args, host, device, reads, writes) \
  SBRT_HOST_##host(Struct, name, Args, device)
#include "round/op_table.inc"
#undef SBRT_OP

}  // namespace sbrt
