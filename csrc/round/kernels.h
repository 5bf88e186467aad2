// The ops of a round on a device. Host and device compile the same *_op.h. Most ops have one warp
// per seat. The ops of H-RAD, log-probs and rejection have more threads.
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
  bool each_seat = true;  // false: the kernel has `blocks` blocks for all seats together

  constexpr bool is_there() const { return threads > 0; }
};
inline constexpr KernelShape kNone{0, 1};  // for ops without a kernel, which run only on the host
inline constexpr KernelShape kWarp{32, 1};
inline constexpr KernelShape kSharedWarp{32, 1, false};
inline constexpr KernelShape kOneThread{1, 1, false};
inline constexpr KernelShape kBlock{512, 1};
inline constexpr KernelShape kBigBlock{1024, 1};
inline constexpr KernelShape kPanels{512, 16};  // one block for each panel of a layer
// Several blocks per seat; each computes some of the seat's rows.
inline constexpr KernelShape kRows{512, 16};

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
