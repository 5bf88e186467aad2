// The ops of a round on a device, compiled from the same *_op.h as the host's: one warp each,
// except H-RAD.
#pragma once

namespace sbrt {

enum class RoundOp {
  none,  // only on the host
  target_rows,
  prefill_target_rows,
  prefill_draft_rows,
  gather,
  settle_draft,
  bring_burst,
  plan,
  plan_certain,
  keep_laws,
  extend,
  select,
  hrad_features,
  hrad_inner,
  hrad_cut,
  hang_chain,
  hang_burst,
  end_round,
};

// Blocks of an op's kernel for one seat, and threads of a block.
struct KernelShape {
  unsigned threads = 32, blocks = 1;
  bool each_seat = true;  // false: one grid for all seats
};

constexpr KernelShape shape_of(RoundOp op) {
  switch (op) {
    case RoundOp::hrad_features:
      return {1024, 1};
    case RoundOp::hrad_inner:
      return {512, 16};  // a block for each panel, a thread for each partial sum
    case RoundOp::hrad_cut:
      return {512, 1};
    case RoundOp::gather:
      return {32, 1, false};
    case RoundOp::end_round:
      return {1, 1, false};
    default:
      return {};
  }
}

// The kernel of an op, whose only parameter is the op's arguments; null in a build without CUDA.
const void* kernel_of(RoundOp op);

}  // namespace sbrt
