// The ops of a round on a device, compiled from the same *_op.h as on the host. An op has one warp
// per seat. The ops of H-RAD and log-probs have more.
#pragma once

namespace sbrt {

enum class RoundOp {
#define SBRT_OP(Struct, name, Args, host, device, reads, writes) name,
#include "round/op_table.inc"
#undef SBRT_OP
};

// The size of an op's kernel: threads per block, and blocks per seat.
struct KernelShape {
  unsigned threads, blocks;
  bool each_seat = true;  // false: `blocks` is the number for all seats together

  constexpr bool is_there() const { return threads > 0; }
};
inline constexpr KernelShape kNone{0, 1};  // for ops that run only on the host
inline constexpr KernelShape kWarp{32, 1};
inline constexpr KernelShape kSharedWarp{32, 1, false};
inline constexpr KernelShape kOneThread{1, 1, false};
inline constexpr KernelShape kBlock{512, 1};
inline constexpr KernelShape kBigBlock{1024, 1};
inline constexpr KernelShape kPanels{512, 16};  // one block for each panel of a layer
inline constexpr KernelShape kRows{512, 16};    // several blocks share the rows of a seat

constexpr KernelShape shape_of(RoundOp op) {
  switch (op) {
#define SBRT_OP(Struct, name, Args, host, device, reads, writes) \
  case RoundOp::name:                                            \
    return device;
#include "round/op_table.inc"
#undef SBRT_OP
  }
  return kNone;
}

// Returns the kernel of an op, or null in a build without CUDA. A kernel's only parameter is the
// struct of the op's arguments.
const void* kernel_of(RoundOp op);

}  // namespace sbrt
