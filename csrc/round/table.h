// The ops of a round by name: what runs them on the host and on a device, what they read and write.
#pragma once

#include "exec/exec.h"
#include "round/ops.h"
#include "round/kernels.h"
#include "round/logprobs.h"
#include "state/parts.h"

namespace sbrt {

template <class Args>
struct RoundStep {
  const char* name;
  void (*call)(const Args&, Worker);
  RoundOp kernel;
  Effects effects;
  bool once = false;  // on the host: one member of the team does it for all seats
};

using P = Part;
using LaneStep = RoundStep<LaneArgs>;
using SelectStep = RoundStep<SelectArgs>;
using HradStep = RoundStep<HradArgs>;

inline constexpr LaneStep kSettleTarget{"settle_target",
                                        settle_target,
                                        RoundOp::none,
                                        {parts(P::outcome, P::target_kv), parts(P::target_kv)}};
inline constexpr LaneStep kTargetRows{"target_rows",
                                      target_rows,
                                      RoundOp::target_rows,
                                      {parts(P::outcome, P::chain), parts(P::target_rows)}};
inline constexpr LaneStep kPrefillTargetRows{
    "prefill_target_rows",
    prefill_target_rows,
    RoundOp::prefill_target_rows,
    {parts(P::outcome, P::target_have), parts(P::target_rows, P::target_have)}};
inline constexpr LaneStep kPrefillDraftRows{
    "prefill_draft_rows",
    prefill_draft_rows,
    RoundOp::prefill_draft_rows,
    {parts(P::outcome, P::draft_have), parts(P::draft_rows, P::draft_have)}};
inline constexpr RoundStep<GatherArgs> kGatherTarget{
    "gather_target",
    gather,
    RoundOp::gather,
    {parts(P::chain, P::target_rows), parts(P::target_batch)},
    true};
inline constexpr RoundStep<GatherArgs> kGatherPrompt{
    "gather_prompt",
    gather,
    RoundOp::gather,
    {parts(P::target_rows), parts(P::target_batch)},
    true};
inline constexpr RoundStep<GatherArgs> kGatherDraft{
    "gather_draft", gather, RoundOp::gather, {parts(P::draft_rows), parts(P::draft_batch)}, true};
inline constexpr LaneStep kSettleDraft{
    "settle_draft",
    settle_draft,
    RoundOp::settle_draft,
    {parts(P::settings, P::outcome, P::chain, P::branches, P::draft_have, P::draft_kv,
           P::draft_scores),
     parts(P::draft_have, P::chain_law, P::draft_rows, P::draft_kv, P::draft_scores)}};
inline constexpr LaneStep kBringBurst{"bring_burst", bring_burst, RoundOp::bring_burst,
                                      kSettleDraft.effects};
inline constexpr LaneStep kPlan{
    "plan",
    plan,
    RoundOp::plan,
    {parts(P::settings, P::outcome, P::chain, P::chain_law), parts(P::branches, P::draft_rows)}};
inline constexpr LaneStep kPlanCertain{
    "plan_certain",
    plan_certain,
    RoundOp::plan_certain,
    {parts(P::settings, P::outcome, P::chain, P::draft_have, P::draft_rows),
     parts(P::chain, P::branches, P::draft_rows)}};
inline constexpr LaneStep kKeepLaws{
    "keep_laws",
    keep_laws,
    RoundOp::keep_laws,
    {parts(P::draft_batch, P::settings, P::outcome, P::draft_rows, P::row_law, P::draft_have),
     parts(P::branches, P::chain_law, P::draft_have, P::rank)}};
inline constexpr LaneStep kExtend{
    "extend",
    extend,
    RoundOp::extend,
    {parts(P::draft_batch, P::settings, P::outcome, P::chain, P::draft_rows, P::row_law,
           P::draft_have, P::branches),
     parts(P::branches, P::chain_law, P::draft_have, P::draft_rows, P::rank)}};
inline constexpr SelectStep kSelect{
    "select",
    select,
    RoundOp::select,
    {parts(P::target_batch, P::settings, P::outcome, P::chain, P::choice, P::branches, P::chain_law,
           P::draft_have, P::target_scores, P::draft_scores),
     parts(P::outcome, P::chain, P::rank)},
    true};
inline constexpr SelectStep kClassify{
    "classify",
    classify,
    RoundOp::none,
    {parts(P::target_batch, P::settings, P::outcome, P::branches, P::target_logits),
     parts(P::outcome, P::features)},
    true};
inline constexpr HradStep kHradFeatures{
    "hrad_features",
    hrad_features,
    RoundOp::hrad_features,
    {parts(P::target_batch, P::settings, P::outcome, P::branches, P::target_logits),
     parts(P::features)}};
inline constexpr HradStep kHradInnerLayer{
    "hrad_inner",
    hrad_inner,
    RoundOp::hrad_inner,
    {parts(P::target_batch, P::settings, P::outcome, P::features), parts(P::features)}};
inline constexpr HradStep kHradCut{
    "hrad_cut",
    hrad_cut,
    RoundOp::hrad_cut,
    {parts(P::target_batch, P::settings, P::outcome, P::features), parts(P::outcome)}};
inline constexpr SelectStep kHangChain{
    "hang_chain",
    hang_chain,
    RoundOp::hang_chain,
    {parts(P::target_batch, P::settings, P::outcome, P::chain, P::branches),
     parts(P::chain, P::record)}};
inline constexpr RoundStep<LogprobArgs> kOutputLogprobs{
    "output_logprobs",
    output_logprobs,
    RoundOp::none,
    {parts(P::settings, P::outcome, P::target_batch, P::target_logits), parts(P::record)}};
inline constexpr RoundStep<LogprobArgs> kPromptLogprobs{"prompt_logprobs", prompt_logprobs,
                                                        RoundOp::none, kOutputLogprobs.effects};
inline constexpr SelectStep kHangBurst{
    "hang_burst",
    hang_burst,
    RoundOp::hang_burst,
    {parts(P::settings, P::outcome, P::chain, P::branches), parts(P::chain, P::branches)}};

inline constexpr RoundStep<EndArgs> kEndRound{
    "end_round", end_round, RoundOp::end_round, {parts(P::round), parts(P::round)}, true};
inline constexpr RoundStep<EndArgs> kEndTargetPiece{
    "end_piece", end_round, RoundOp::end_round, {parts(P::target_fed), parts(P::target_fed)}, true};
inline constexpr RoundStep<EndArgs> kEndDraftPiece{
    "end_piece", end_round, RoundOp::end_round, {parts(P::draft_fed), parts(P::draft_fed)}, true};

// What lanes append themselves: moves, forwards and choices.
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
    parts(P::settings, P::outcome, P::chain, P::target_batch, P::target_logits),
    parts(P::choice, P::target_scores)};
inline constexpr Effects kChooseDraft{
    parts(P::settings, P::outcome, P::chain, P::branches, P::draft_batch, P::draft_logits),
    parts(P::row_law, P::draft_scores)};

}  // namespace sbrt
