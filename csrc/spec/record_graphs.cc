// The graphs of both lanes: which ops a round, a piece of prefill and a measurement are made of.
#include "spec/round_ops.h"
#include "spec/runtime.h"

namespace sbrt {
namespace {

template <class Args>
void put(Graph& graph, const RoundStep<Args>& step, const Args& args) {
  Graph::Node& node = graph.add(step.call, args, step.once).says(step.name, step.effects);
  node.effects.reads.bits |= parts(Part::round).bits;
  const KernelShape shape = shape_of(step.kernel);
  const unsigned seats = shape.each_seat ? kSeats : 1;
  if (step.kernel != RoundOp::none)
    node.on_device(kernel_of(step.kernel), shape.threads, shape.blocks * seats);
}

// A lane's own ops, all of which do what `effects` says.
struct LaneOps {
  Lane& lane;
  const Batch* batch;
  ChooseArgs choice;
  GatherArgs rows;
  RoundStep<GatherArgs> gather;
  Effects forward, choose, moves;

  // Rows of the seats become the batch, in which the next forward finds them.
  void put_gather(Graph& graph) const { put(graph, gather, rows); }

  void put_forward(Graph& graph, bool with_logits) const {
    const size_t first = graph.nodes().size();
    lane.add_forward(graph, batch, with_logits);
    graph.say(first, "forward", forward);
  }
  // A forward and its laws, which cost what the table at `cost` says.
  void put_laws(Graph& graph, const int64_t* const* cost) const {
    put_gather(graph);
    graph.cost_by(&batch->n, cost);
    put_forward(graph, true);
    put_choice(graph);
  }
  void put_choice(Graph& graph) const {
    const size_t first = graph.nodes().size();
    lane.add_choose(graph, choice);
    graph.say(first, "choose", choose);
  }
  void put_moves(Graph& graph, const Sequence* sequence, Moves which) const {
    const size_t first = graph.nodes().size();
    lane.add_moves(graph, sequence, which);
    graph.say(first, "moves", moves);
  }
};

// The pieces of a prompt. `expect` tells the lane of how many rows the next one is.
template <class Expect>
void record_feed(Feed& feed, const LaneStep& rows, LaneArgs args, const LaneOps& ops,
                 const Expect& expect) {
  feed.size(kMaxRows, ops.lane.prefill_rows(), args.shape.capacity);
  for (size_t i = 0; i < feed.rows.size(); ++i) {
    args.max_rows = feed.rows[i];
    put(feed.graphs[i], rows, args);
    ops.put_gather(feed.graphs[i]);
    expect(feed.rows[i]);
    ops.put_forward(feed.graphs[i], false);
  }
}

}  // namespace

// What is added to the lane's graphs from now on has at most `rows` rows, whatever they are then.
void Runtime::expect(Lane& lane, const int32_t& rows) const {
  lane.expect({&rows, &sequence_->sampling, &sequence_->shaping});
}

Seats Runtime::seats(int only) const {
  return {seats_.device(), kSeats, only, roll_.device(), ended_.device()};
}

void Runtime::record_graphs() {
  Sequence* c = seats_.device();
  TargetScratch* mine = target_scratch_.device();
  Lane& lane = *target_.lane;
  LaneArgs args{seats(), &mine->batch, nullptr, lane.ring(), lane.ring_shape(), target_.max_rows};
  const ChooseArgs choice{lane.logits(),          lane.vocab(), config_.vocab, &mine->batch,    c,
                          target_.scratch.data(), mine->choice, nullptr,       shaping_.dense()};
  LaneOps target{lane,          &mine->batch,   choice,        {seats(), &mine->batch, false},
                 kGatherTarget, kForwardTarget, kChooseTarget, kMovesTarget};
  if (lane.ring()) put(settle_target_, kSettleTarget, args);
  target.put_moves(settle_target_, c, Moves::path);
  put(verify_, kTargetRows, args);
  target.put_gather(verify_);
  verify_.cost_by(&mine->batch.n, &target_.cost);
  expect(lane, target_.most.verify);
  target.put_forward(verify_, true);
  target.put_choice(verify_);
  args.seats = target.rows.seats = seats(kFed);
  record_feed(target_.feed, kPrefillTargetRows, args, target,
              [&](const int32_t& rows) { expect(lane, rows); });
  expect(lane, target_.timed_rows);
  target.put_forward(target_.timed_forward, true);
  target.put_choice(target_.timed_forward);

  const SelectArgs chosen{seats(),
                          &mine->batch,
                          mine->choice,
                          records_.device(),
                          &lane,
                          config_.hrad.get(),
                          features_.size() ? features_.data() : nullptr,
                          hrad_scratch_.data(),
                          accept_.place()};
  put(select_, kSelect, chosen);
  if (chosen.features) put(select_, kClassify, chosen);
  if (hrad_memory_.is_there()) {
    const HradArgs read = hrad_memory_.args(seats(), &mine->batch, lane.feature_memory());
    put(select_, kHradFeatures, read);
    if (config_.hrad) put(select_, kHradInnerLayer, read);
    if (config_.hrad) put(select_, kHradCut, read);
  }
  put(select_, kHangChain, chosen);
  put(select_, kEndRound, EndArgs{ended_.device()});
  if (draft_.lane) record_draft(chosen);
}

void Runtime::record_draft(const SelectArgs& chosen) {
  Sequence* c = seats_.device();
  DraftScratch* mine = draft_scratch_.device();
  Lane& lane = *draft_.lane;
  LaneArgs args{seats(), &mine->batch, mine->law, lane.ring(), lane.ring_shape(), draft_.max_rows};
  const ChooseArgs laws{lane.logits(),         lane.vocab(), config_.vocab, &mine->batch,    c,
                        draft_.scratch.data(), nullptr,      mine->law,     shaping_.dense()};
  LaneOps draft{lane,         &mine->batch,  laws,         {seats(), &mine->batch, true},
                kGatherDraft, kForwardDraft, kChooseDraft, kMovesDraft};
  put(settle_draft_, kSettleDraft, args);
  draft.put_moves(settle_draft_, c, Moves::path_and_tail);
  put(plan_certain_, kPlanCertain, args);
  put(hang_burst_, kHangBurst, chosen);
  put(hang_burst_, kBringBurst, args);
  draft.put_moves(hang_burst_, c, Moves::burst);
  expect(lane, draft_.most.catch_up);
  draft.put_laws(catch_up_, &draft_.cost);
  put(catch_up_, kKeepLaws, args);
  put(plan_, kPlan, args);
  expect(lane, draft_.most.step);
  draft.put_laws(step_, &draft_.cost);
  put(step_, kExtend, args);
  args.seats = draft.rows.seats = seats(kFed);
  record_feed(draft_.feed, kPrefillDraftRows, args, draft,
              [&](const int32_t& rows) { expect(lane, rows); });
  expect(lane, draft_.timed_rows);
  draft.put_forward(draft_.timed_forward, true);
  draft.put_choice(draft_.timed_forward);
  if (config_.tuned.empty()) return;
  expect(lane, look_rows_);
  LaneArgs few = args;
  few.max_rows = look_rows_;
  put(prefill_laws_, kPrefillDraftRows, few);
  draft.put_gather(prefill_laws_);
  draft.put_forward(prefill_laws_, true);
  draft.put_choice(prefill_laws_);
  put(prefill_laws_, kKeepLaws, args);
  put(look_, kPrefillDraftRows, few);
  draft.put_laws(look_, &draft_.cost);
  put(look_, kKeepLaws, args);
}

// Every graph is made for its stream before the first launch.
void Runtime::prepare_graphs() {
  for (Graph* graph : {&settle_target_, &verify_, &select_, &target_.timed_forward})
    target_.stream->prepare(*graph);
  for (const Graph& graph : target_.feed.graphs) target_.stream->prepare(graph);
  if (!draft_.stream) return;
  for (const Graph& graph : draft_.feed.graphs) draft_.stream->prepare(graph);
  for (Graph* graph : {&settle_draft_, &plan_certain_, &hang_burst_, &catch_up_, &plan_, &step_,
                       &prefill_laws_, &look_, &draft_.timed_forward})
    draft_.stream->prepare(*graph);
}

// Of the chains that the policy makes. Nothing moves in the KV of a path.
bool Runtime::settles() const { return !exec_->is_device() || !makes_paths(sequence_->policy); }

// What a round launches on the target's stream: the forward, with `settle` before it unless the target
// waits for a burst in between, and with `select` after it unless it waits for the draft.
Graph& Runtime::verification(bool after_burst) {
  const bool selects = sequence_->policy.gamma == 0;
  Graph& whole = verifications_[2 * (settles() && !after_burst) + selects];
  if (!whole.nodes().empty()) return whole;
  if (settles() && !after_burst) whole.append(settle_target_);
  whole.append(verify_);
  if (selects) whole.append(select_);
  return whole;
}

void Runtime::fuse_verification(bool after_burst) {
  target_.stream->fuse(verification(after_burst));
}

// On a device: what the rounds of a sequence launch, as its request asks for it, each one launch.
void Runtime::fuse_rounds() {
  if (!exec_->is_device()) return;
  bound_rows();
  const Policy& p = sequence_->policy;
  const bool bursts = p.on_miss == kBurst && p.burst > 0;
  if (bursts) fuse_verification(true);
  if (!bursts || p.gamma > 0) fuse_verification(false);
  if (!draft_.stream) return;
  if (p.gamma > 0) {
    Graph& whole = bursts_.try_emplace(p.gamma, "burst").first->second;
    if (whole.nodes().empty()) whole.append(catch_up_).append(plan_).append(step_, p.gamma);
    draft_.stream->fuse(whole);
  }
  if (p.on_miss == kBurst && p.burst > 0) {
    Graph& whole = serial_bursts_.try_emplace(p.burst, "serial_burst").first->second;
    if (whole.nodes().empty())
      whole.append(plan_certain_).append(step_, p.burst).append(hang_burst_);
    draft_.stream->fuse(whole);
  }
}

void Runtime::prepare(const Policy& policy) {
  check_usable();
  check_policy(policy);
  start_over();
  sequence_->policy = policy;
  for (const float top_p : {1.0f, 0.5f}) {
    sequence_->sampling.temperature = 1;
    sequence_->sampling.top_p = top_p;
    fuse_rounds();
  }
}

int Runtime::fused_graphs() const {
  int count = 0;
  for (const LaneUnit* unit : {&target_, &draft_})
    if (unit->stream) count += unit->stream->fused();
  return count;
}

// Of so many steps, if it was fused for what the next round asks.
const Graph* Runtime::fused(const std::map<int, Graph>& bursts, int steps) const {
  const auto at = bursts.find(steps);
  return at != bursts.end() && draft_.stream->is_fused(at->second) ? &at->second : nullptr;
}

}  // namespace sbrt
