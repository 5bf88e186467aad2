// The ops of a round on a device: one warp each, compiled from the *_op.h that the host runs.
#pragma once

namespace sbrt {

enum class RoundOp {
  none,  // the host's alone
  target_rows,
  prefill_target_rows,
  prefill_draft_rows,
  settle_draft,
  bring_burst,
  plan,
  plan_certain,
  keep_laws,
  extend,
  select,
  hang_chain,
  hang_burst,
};

constexpr unsigned kRoundOpThreads = 32;

// The kernel of an op, whose one parameter is the op's arguments; null in a build without CUDA.
const void* kernel_of(RoundOp op);

}  // namespace sbrt
