// The ops of a round by name: what runs them on the host and on a device, what they read and write.
#pragma once

#include "exec/exec.h"
#include "spec/lanes.h"
#include "spec/round_kernels.h"

namespace sbrt {

template <class Args>
struct RoundStep {
  const char* name;
  void (*call)(const Args&, Worker);
  RoundOp kernel;
  Effects effects;
};

using P = Part;
using LaneStep = RoundStep<LaneArgs>;
using SelectStep = RoundStep<SelectArgs>;
using HradStep = RoundStep<HradArgs>;

inline constexpr LaneStep kSettleTarget{
    "settle_target", settle_target, RoundOp::none, {{P::outcome, P::target_kv}, {P::target_kv}}};
inline constexpr LaneStep kTargetRows{
    "target_rows", target_rows, RoundOp::target_rows, {{P::outcome, P::chain}, {P::target_rows}}};
inline constexpr LaneStep kPrefillTargetRows{
    "prefill_target_rows",
    prefill_target_rows,
    RoundOp::prefill_target_rows,
    {{P::outcome, P::target_have}, {P::target_rows, P::target_have}}};
inline constexpr LaneStep kPrefillDraftRows{
    "prefill_draft_rows",
    prefill_draft_rows,
    RoundOp::prefill_draft_rows,
    {{P::outcome, P::draft_have}, {P::draft_rows, P::draft_have}}};
inline constexpr LaneStep kSettleDraft{
    "settle_draft",
    settle_draft,
    RoundOp::settle_draft,
    {{P::settings, P::outcome, P::chain, P::branches, P::draft_have, P::draft_kv, P::draft_scores},
     {P::draft_have, P::chain_law, P::draft_rows, P::draft_kv, P::draft_scores}}};
inline constexpr LaneStep kBringBurst{"bring_burst", bring_burst, RoundOp::bring_burst,
                                      kSettleDraft.effects};
inline constexpr LaneStep kPlan{
    "plan",
    plan,
    RoundOp::plan,
    {{P::settings, P::outcome, P::chain, P::chain_law}, {P::branches, P::draft_rows}}};
inline constexpr LaneStep kPlanCertain{
    "plan_certain",
    plan_certain,
    RoundOp::plan_certain,
    {{P::settings, P::outcome, P::chain, P::draft_rows}, {P::branches, P::draft_rows}}};
inline constexpr LaneStep kKeepLaws{
    "keep_laws",
    keep_laws,
    RoundOp::keep_laws,
    {{P::settings, P::outcome, P::draft_rows, P::row_law, P::draft_have},
     {P::branches, P::chain_law, P::draft_have, P::rank}}};
inline constexpr LaneStep kExtend{
    "extend",
    extend,
    RoundOp::extend,
    {{P::settings, P::outcome, P::chain, P::draft_rows, P::row_law, P::draft_have, P::branches},
     {P::branches, P::chain_law, P::draft_have, P::draft_rows, P::rank}}};
inline constexpr SelectStep kSelect{
    "select",
    select,
    RoundOp::select,
    {{P::settings, P::outcome, P::chain, P::choice, P::branches, P::chain_law, P::draft_have,
      P::target_scores, P::draft_scores},
     {P::outcome, P::chain, P::rank}}};
inline constexpr SelectStep kClassify{
    "classify",
    classify,
    RoundOp::none,
    {{P::settings, P::outcome, P::branches, P::target_logits}, {P::outcome, P::features}}};
inline constexpr HradStep kHradFeatures{
    "hrad_features",
    hrad_features,
    RoundOp::hrad_features,
    {{P::settings, P::outcome, P::branches, P::target_logits}, {P::features}}};
inline constexpr HradStep kHradInnerLayer{"hrad_inner",
                                          hrad_inner,
                                          RoundOp::hrad_inner,
                                          {{P::settings, P::outcome, P::features}, {P::features}}};
inline constexpr HradStep kHradCut{"hrad_cut",
                                   hrad_cut,
                                   RoundOp::hrad_cut,
                                   {{P::settings, P::outcome, P::features}, {P::outcome}}};
inline constexpr SelectStep kHangChain{
    "hang_chain",
    hang_chain,
    RoundOp::hang_chain,
    {{P::settings, P::outcome, P::chain, P::branches}, {P::chain, P::record}}};
inline constexpr SelectStep kHangBurst{
    "hang_burst",
    hang_burst,
    RoundOp::hang_burst,
    {{P::settings, P::outcome, P::branches}, {P::chain, P::branches}}};

// What lanes append themselves: moves, forwards and choices.
inline constexpr Effects kMovesTarget{{P::outcome, P::target_kv}, {P::target_kv}};
inline constexpr Effects kMovesDraft{
    {P::outcome, P::chain, P::branches, P::draft_have, P::draft_kv}, {P::draft_kv}};
inline constexpr Effects kForwardTarget{{P::target_rows, P::target_kv},
                                        {P::target_kv, P::target_logits}};
inline constexpr Effects kForwardDraft{{P::draft_rows, P::draft_kv},
                                       {P::draft_kv, P::draft_logits}};
inline constexpr Effects kChooseTarget{
    {P::settings, P::outcome, P::chain, P::target_rows, P::target_logits},
    {P::choice, P::target_scores}};
inline constexpr Effects kChooseDraft{
    {P::settings, P::outcome, P::chain, P::branches, P::draft_rows, P::draft_logits},
    {P::row_law, P::draft_scores}};

}  // namespace sbrt
