// One kernel for every op of a round: a block of one warp, which shares the op's working memory; of
// H-RAD blocks of more.
#include "spec/round_kernels.h"

#include "spec/grow_op.h"
#include "spec/hrad_op.h"
#include "spec/plan_op.h"
#include "spec/select_op.h"
#include "spec/settle_op.h"

namespace sbrt {
namespace {

__device__ Warp warp() { return {static_cast<int>(threadIdx.x)}; }
__device__ Crew crew() { return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}; }
__device__ bool leads() { return threadIdx.x == 0; }

__global__ void target_rows(const LaneArgs args) { target_rows_op(args, warp()); }

__global__ void prefill_target_rows(const LaneArgs args) {
  prompt_rows_op(args, args.sequence->target_have, warp());
}

__global__ void prefill_draft_rows(const LaneArgs args) {
  prompt_rows_op(args, args.sequence->draft_have, warp());
}

__global__ void settle_draft(const LaneArgs args) { settle_draft_op(args, warp(), NoKv{}); }

__global__ void bring_burst(const LaneArgs args) { bring_burst_op(args, warp(), NoKv{}); }

__global__ void plan(const LaneArgs args) {
  __shared__ PlanScratch scratch;
  plan_op(args, scratch, warp());
}

__global__ void plan_certain(const LaneArgs args) {
  if (leads()) plan_certain_op(args);
}

__global__ void keep_laws(const LaneArgs args) { keep_laws_op(args, warp()); }

__global__ void extend(const LaneArgs args) {
  __shared__ GrowScratch scratch;
  extend_op(args, scratch, warp());
}

__global__ void select(const SelectArgs args) { select_op(args, warp()); }

__global__ void hrad_features(const HradArgs args) {
  __shared__ FeatureScratch scratch;
  hrad_features_op(args, scratch, crew());
}

static_assert(shape_of(RoundOp::hrad_inner).blocks == kHradPanels);
// One block a multiprocessor: registers for all loads of a thread to be on their way at once.
__global__ void __launch_bounds__(shape_of(RoundOp::hrad_inner).threads, 1)
    hrad_inner(const HradArgs args) {
  __shared__ InnerScratch scratch;
  hrad_inner_op(args, static_cast<int>(blockIdx.x), scratch, crew());
}

__global__ void hrad_cut(const HradArgs args) {
  __shared__ CutScratch scratch;
  hrad_cut_op(args, scratch, crew());
}

__global__ void hang_chain(const SelectArgs args) {
  __shared__ SelectScratch scratch;
  hang_chain_op(args, scratch, warp());
  __threadfence_system();  // the host looks at the record
}

__global__ void hang_burst(const SelectArgs args) {
  __shared__ SelectScratch scratch;
  if (leads()) hang_burst_op(*args.sequence, scratch);
}

template <class Kernel>
const void* address(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace

const void* kernel_of(RoundOp op) {
  switch (op) {
    case RoundOp::none:
      return nullptr;
    case RoundOp::target_rows:
      return address(target_rows);
    case RoundOp::prefill_target_rows:
      return address(prefill_target_rows);
    case RoundOp::prefill_draft_rows:
      return address(prefill_draft_rows);
    case RoundOp::settle_draft:
      return address(settle_draft);
    case RoundOp::bring_burst:
      return address(bring_burst);
    case RoundOp::plan:
      return address(plan);
    case RoundOp::plan_certain:
      return address(plan_certain);
    case RoundOp::keep_laws:
      return address(keep_laws);
    case RoundOp::extend:
      return address(extend);
    case RoundOp::select:
      return address(select);
    case RoundOp::hrad_features:
      return address(hrad_features);
    case RoundOp::hrad_inner:
      return address(hrad_inner);
    case RoundOp::hrad_cut:
      return address(hrad_cut);
    case RoundOp::hang_chain:
      return address(hang_chain);
    case RoundOp::hang_burst:
      return address(hang_burst);
  }
  return nullptr;
}

}  // namespace sbrt
