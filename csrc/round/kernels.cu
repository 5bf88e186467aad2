// The kernels of the ops in op_table.inc. Most kernels have one warp for each seat, as one block.
// The kernels of H-RAD, log-probs and rejection have more threads per block, and some have several
// blocks per seat. The threads of a block share the op's working memory.
#include "round/kernels.h"

#include "round/seat_ops.h"

namespace sbrt {
namespace {

__device__ Warp warp() { return {static_cast<int>(threadIdx.x)}; }
__device__ Crew crew() { return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}; }

// Runs an op for the seat to which this block belongs, if the seat takes part in the round.
template <class Op, class Args, class Team>
__device__ void run_seat(const Args& args, int blocks, Team team) {
  __shared__ typename Op::Memory memory;
  const int block = static_cast<int>(blockIdx.x);
  const At at{block / blocks, block % blocks};
  if (args.seats.takes_part(at.seat)) Op::run(args, at, memory, team);
}

template <class Op, class Args>
__device__ void run_all(const Args& args) {
  typename Op::Memory memory;
  Op::run(args, At{}, memory, warp());
}

#define SBRT_KERNEL_kNone(Struct, name, Args)
#define SBRT_KERNEL_kWarp(Struct, name, Args) \
  __global__ void name(const Args args) { run_seat<Struct>(args, 1, warp()); }
#define SBRT_KERNEL_kSharedWarp(Struct, name, Args) \
  __global__ void name(const Args args) { run_all<Struct>(args); }
#define SBRT_KERNEL_kOneThread SBRT_KERNEL_kSharedWarp
#define SBRT_KERNEL_kBlock(Struct, name, Args) \
  __global__ void name(const Args args) { run_seat<Struct>(args, 1, crew()); }
#define SBRT_KERNEL_kBigBlock(Struct, name, Args)                                 \
  __global__ void __launch_bounds__(kBigBlock.threads, 1) name(const Args args) { \
    run_seat<Struct>(args, 1, crew());                                            \
  }
#define SBRT_KERNEL_kRows(Struct, name, Args) \
  __global__ void name(const Args args) { run_seat<Struct>(args, kRows.blocks, crew()); }
// __launch_bounds__ declares one block per multiprocessor. So the compiler gives a thread enough
// registers to issue all of its loads together.
#define SBRT_KERNEL_kPanels(Struct, name, Args)                                 \
  __global__ void __launch_bounds__(kPanels.threads, 1) name(const Args args) { \
    run_seat<Struct>(args, kPanels.blocks, crew());                             \
  }
#define SBRT_OP(Struct, name, Args, host, device, reads, writes) \
  SBRT_KERNEL_##device(Struct, name, Args)
#include "round/op_table.inc"
#undef SBRT_OP

template <class Kernel>
const void* address(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace

#define SBRT_ADDRESS_kNone(name) nullptr
#define SBRT_ADDRESS_kWarp(name) address(name)
#define SBRT_ADDRESS_kSharedWarp SBRT_ADDRESS_kWarp
#define SBRT_ADDRESS_kOneThread SBRT_ADDRESS_kWarp
#define SBRT_ADDRESS_kBlock SBRT_ADDRESS_kWarp
#define SBRT_ADDRESS_kBigBlock SBRT_ADDRESS_kWarp
#define SBRT_ADDRESS_kPanels SBRT_ADDRESS_kWarp
#define SBRT_ADDRESS_kRows SBRT_ADDRESS_kWarp

const void* kernel_of(RoundOp op) {
  switch (op) {
#define SBRT_OP(Struct, name, Args, host, device, reads, writes) \
  case RoundOp::name:                                            \
    return SBRT_ADDRESS_##device(name);
#include "round/op_table.inc"
#undef SBRT_OP
  }
  return nullptr;
}

}  // namespace sbrt
