// The ops of a round as steps of graphs. A step has a host function, a kernel and effects.
#pragma once

#include <string_view>

#include "exec/exec.h"
#include "round/kernels.h"
#include "round/ops.h"
#include "state/parts.h"

namespace sbrt {

template <class Args>
struct RoundStep {
  RoundOp op;
  const char* name;
  void (*call)(const Args&, Worker);
  Effects effects;
  bool once;  // true: on the host, one member of the team runs the op for all seats
};

constexpr Effects effects_of(RoundOp op) {
  using enum Part;
  switch (op) {
#define SBRT_OP(Struct, name, Args, host, device, reads, writes) \
  case RoundOp::name:                                            \
    return {parts reads, parts writes};
#include "round/op_table.inc"
#undef SBRT_OP
  }
  return {};
}

#define SBRT_OP(Struct, name, Args, host, device, reads, writes)         \
  inline constexpr RoundStep<Args> k##Struct{RoundOp::name, #name, name, \
                                             effects_of(RoundOp::name),  \
                                             std::string_view(#host).ends_with("once")};
#include "round/op_table.inc"
#undef SBRT_OP

using LaneStep = RoundStep<LaneArgs>;
using P = Part;

// Effects of the ops that lanes append to graphs: moves of KV, forwards and sampling.
inline constexpr Effects kMovesTarget{parts(P::outcome, P::target_kv), parts(P::target_kv)};
inline constexpr Effects kMovesDraft{
    parts(P::outcome, P::chain, P::branches, P::draft_have, P::draft_kv), parts(P::draft_kv)};
inline constexpr Effects kForwardTarget{parts(P::target_batch, P::target_kv, P::target_prompt_kv),
                                        parts(P::target_kv, P::target_logits)};
inline constexpr Effects kForwardDraft{parts(P::draft_batch, P::draft_kv, P::draft_prompt_kv),
                                       parts(P::draft_kv, P::draft_logits)};
inline constexpr Effects kFeedTarget{kForwardTarget.reads,
                                     parts(P::target_kv, P::target_prompt_kv, P::target_logits)};
inline constexpr Effects kFeedDraft{kForwardDraft.reads,
                                    parts(P::draft_kv, P::draft_prompt_kv, P::draft_logits)};
inline constexpr Effects kChooseTarget{
    parts(P::settings, P::trunk, P::outcome, P::chain, P::target_batch, P::target_logits),
    parts(P::choice, P::target_scores)};
inline constexpr Effects kChooseDraft{parts(P::settings, P::trunk, P::outcome, P::chain,
                                            P::branches, P::draft_batch, P::draft_logits),
                                      parts(P::row_dist, P::draft_scores)};

}  // namespace sbrt
