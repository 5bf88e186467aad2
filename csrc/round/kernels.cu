// One kernel for every op of a round: a block of one warp, with the op's working memory in shared
// memory. The kernels of H-RAD have larger blocks.
#include "round/kernels.h"

#include "round/grow_op.h"
#include "round/hrad_op.h"
#include "round/plan_op.h"
#include "round/select_op.h"
#include "round/settle_op.h"

namespace sbrt {
namespace {

__device__ Warp warp() { return {static_cast<int>(threadIdx.x)}; }
__device__ Crew crew() { return {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}; }
__device__ bool leads() { return threadIdx.x == 0; }

// A block for each seat; that of a seat that does not take part returns at once.
__device__ int my_seat() { return static_cast<int>(blockIdx.x); }

__global__ void target_rows(const LaneArgs args) {
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) target_rows_op(args.of(seat), warp());
}

__global__ void prefill_target_rows(const LaneArgs args) {
  const int seat = my_seat();
  if (args.seats.takes_part(seat))
    prompt_rows_op(args.of(seat), args.seats.at[seat].target_have, warp());
}

__global__ void prefill_draft_rows(const LaneArgs args) {
  const int seat = my_seat();
  if (args.seats.takes_part(seat))
    prompt_rows_op(args.of(seat), args.seats.at[seat].draft_have, warp());
}

__global__ void gather(const GatherArgs args) { gather_op(args, warp()); }

__global__ void settle_draft(const LaneArgs args) {
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) settle_draft_op(args.of(seat), warp(), NoKv{});
}

__global__ void bring_burst(const LaneArgs args) {
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) bring_burst_op(args.of(seat), warp(), NoKv{});
}

__global__ void plan(const LaneArgs args) {
  __shared__ PlanScratch scratch;
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) plan_op(args.of(seat), scratch, warp());
}

__global__ void plan_certain(const LaneArgs args) {
  const int seat = my_seat();
  if (leads() && args.seats.takes_part(seat)) plan_certain_op(args.of(seat));
}

__global__ void keep_laws(const LaneArgs args) {
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) keep_laws_op(args.of(seat), warp());
}

__global__ void extend(const LaneArgs args) {
  __shared__ GrowScratch scratch;
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) extend_op(args.of(seat), scratch, warp());
}

__global__ void select(const SelectArgs args) {
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) select_op(args.of(seat), warp());
}

__global__ void hrad_features(const HradArgs args) {
  __shared__ FeatureScratch scratch;
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) hrad_features_op(hrad_seat(args, seat), scratch, crew());
}

static_assert(shape_of(RoundOp::hrad_inner).blocks == kHradPanels);
// One block per multiprocessor: a thread has registers for all of its loads at once.
__global__ void __launch_bounds__(shape_of(RoundOp::hrad_inner).threads, 1)
    hrad_inner(const HradArgs args) {
  __shared__ InnerScratch scratch;
  const int seat = my_seat() / kHradPanels, panel = my_seat() % kHradPanels;
  if (args.seats.takes_part(seat)) hrad_inner_op(hrad_seat(args, seat), panel, scratch, crew());
}

__global__ void hrad_cut(const HradArgs args) {
  __shared__ CutScratch scratch;
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) hrad_cut_op(hrad_seat(args, seat), scratch, crew());
}

__global__ void hang_chain(const SelectArgs args) {
  __shared__ SelectScratch scratch;
  const int seat = my_seat();
  if (!args.seats.takes_part(seat)) return;
  hang_chain_op(args.of(seat), scratch, warp());
  __threadfence_system();  // the host reads the record
}

__global__ void hang_burst(const SelectArgs args) {
  __shared__ SelectScratch scratch;
  const int seat = my_seat();
  if (args.seats.takes_part(seat)) hang_burst_op(args.seats.at[seat], scratch, warp());
}

__global__ void end_round(const EndArgs args) {
  if (leads()) ++*args.ended;
}

template <class Kernel>
const void* address(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace

const void* kernel_of(RoundOp op) {
  // In the order of RoundOp.
  static const void* const kKernels[] = {nullptr,
                                         address(target_rows),
                                         address(prefill_target_rows),
                                         address(prefill_draft_rows),
                                         address(gather),
                                         address(settle_draft),
                                         address(bring_burst),
                                         address(plan),
                                         address(plan_certain),
                                         address(keep_laws),
                                         address(extend),
                                         address(select),
                                         address(hrad_features),
                                         address(hrad_inner),
                                         address(hrad_cut),
                                         address(hang_chain),
                                         address(hang_burst),
                                         address(end_round)};
  static_assert(sizeof(kKernels) / sizeof(*kKernels) == static_cast<int>(RoundOp::end_round) + 1);
  return kKernels[static_cast<int>(op)];
}

}  // namespace sbrt
