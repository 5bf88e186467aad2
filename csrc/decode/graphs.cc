#include "decode/graphs.h"

#include "state/parts.h"

namespace sbrt {
namespace {

unsigned seats_of(const EndArgs&) { return 1; }
template <class Args>
unsigned seats_of(const Args& args) {
  return static_cast<unsigned>(args.seats.count);
}

// Adds an op to a graph. clock: the part of the state with the number of the current round, or of
// the current prompt piece.
template <class Args>
void put(Graph& graph, const RoundStep<Args>& step, const Args& args, Part clock = Part::round) {
  Graph::Node& node = graph.add(step.call, args, step.once).says(step.name, step.effects);
  node.effects.reads.bits |= parts(clock).bits;
  const KernelShape shape = shape_of(step.op);
  const unsigned seats = shape.each_seat ? seats_of(args) : 1;
  if (shape.is_there()) node.on_device(kernel_of(step.op), shape.threads, shape.blocks * seats);
}

int64_t* ended_at(const LaneUnit& unit, int at) { return unit.memory->ended.device() + at; }

// Returns the arguments of the op that samples a lane's tokens or, in the draft's lane, computes
// distributions.
ChooseArgs choose_args(const Resources& r, LaneUnit& unit, const Batch* batch, Choice* choice,
                       Dist* dist) {
  Lane& lane = *unit.lane;
  DenseShaping dense = unit.memory->dense_shaping.dense();
  dense.trunk = unit.memory->trunks.device();
  dense.trunk_room = r.room();
  KeptScores kept;
  if (r.scores.is_there() && !r.can(unit).has_host_memory)
    kept = dist ? r.scores.kept_by_draft() : r.scores.kept_by_target();
  return {
      lane.logits(),       lane.columns().n, unit.columns, batch, unit.memory->sequences.device(),
      unit.scratch.data(), choice,           dist,         dense, kept};
}

}  // namespace

// Adds a lane's own ops to graphs. The fields forward, choose and moves hold the effects of these
// ops.
struct LaneOps {
  Lane& lane;
  const Batch* batch;
  ChooseArgs choice;
  GatherArgs rows;
  RoundStep<GatherArgs> gather;
  Effects forward, choose, moves;
  Part clock = Part::round;

  // Gathers the rows of the seats into the batch of the next forward.
  void put_gather(Graph& graph) const { put(graph, gather, rows, clock); }

  void put_forward(Graph& graph, bool with_logits) const {
    const size_t first = graph.nodes().size();
    lane.add_forward(graph, batch, with_logits);
    graph.say(first, "forward", forward);
    graph.need_rows(first, &batch->n);
  }
  // Adds a forward and the op that computes the distributions of its rows. In virtual time the
  // forward takes (*cost)[rows] ns.
  void put_dists(Graph& graph, const int64_t* const* cost) const {
    put_gather(graph);
    graph.cost_by(&batch->n, cost);
    put_forward(graph, true);
    put_choice(graph);
  }
  void put_choice(Graph& graph) const {
    const size_t first = graph.nodes().size();
    lane.add_choose(graph, choice);
    graph.say(first, "choose", choose);
    graph.need_rows(first, &batch->n);
  }
  void put_moves(Graph& graph, Moves which) const {
    const size_t first = graph.nodes().size();
    lane.add_moves(graph, rows.seats, which);
    graph.say(first, "moves", moves);
  }
};

namespace {

// The steps of a prompt piece that differ between the lanes.
struct FeedSteps {
  LaneStep rows;
  RoundStep<EndArgs> end;
  int64_t* fed;  // number of finished pieces, in memory that ops can access
};

// Records the graphs of prompt pieces. Calls expect(rows) before each forward, to tell the lane the
// forward's number of rows.
template <class Expect>
void record_feed(Feed& feed, int32_t least, const FeedSteps& steps, LaneArgs args,
                 const LaneOps& ops, const Expect& expect) {
  const int32_t most = ops.lane.prefill_rows();
  feed.size(least, least < kMaxRows ? least : most, args.shape.capacity);
  for (size_t i = 0; i < feed.rows.size(); ++i) {
    args.max_rows = feed.rows[i];
    put(feed.graphs[i], steps.rows, args, ops.clock);
    ops.put_gather(feed.graphs[i]);
    expect(feed.rows[i]);
    ops.put_forward(feed.graphs[i], false);
    put(feed.graphs[i], steps.end, EndArgs{steps.fed}, ops.clock);
  }
}

}  // namespace

Graphs::Graphs(Resources& resources) : r_(resources) {
  record_target();
  record_select();
  if (r_.has_draft()) record_draft();
  if (r_.is_apart()) mails_ = mails_of(r_);
  prepare();
}

// Tells a lane that everything added to its graphs from now on has at most `rows` rows at run time.
// `rows` is read at each launch.
void Graphs::expect(Lane& lane, const int32_t& rows) const {
  lane.expect({&rows, &r_.launches.kind});
}

void Graphs::record_target() {
  TargetScratch* mine = r_.target_scratch.device();
  Batch* batch = &mine->batch;
  LaneUnit& unit = r_.target;
  Lane& lane = *unit.lane;
  LaneArgs args{r_.seats(unit), batch, nullptr, lane.ring(), lane.ring_shape(), unit.max_rows};
  const ChooseArgs choice = choose_args(r_, unit, batch, mine->choice, nullptr);
  LaneOps ops{
      lane,          batch,          choice,        {r_.seats(unit), batch, false, unit.max_rows},
      kGatherTarget, kForwardTarget, kChooseTarget, kMovesTarget};
  if (lane.ring()) put(settle_target_, kSettleTarget, args);
  ops.put_moves(settle_target_, Moves::path);
  put(verify_, kTargetRows, args);
  ops.put_gather(verify_);
  verify_.cost_by(&batch->n, &unit.cost);
  expect(lane, r_.launches.most.verify);
  ops.put_forward(verify_, true);
  ops.put_choice(verify_);
  args.seats = ops.rows.seats = r_.fed_seats(unit);
  ops.rows.most = 0;
  ops.gather = kGatherPrompt;
  ops.forward = kFeedTarget;
  ops.clock = Part::target_fed;
  record_feed(unit.feed, r_.config.max_piece,
              {kPrefillTargetRows, kEndTargetPiece, ended_at(r_.target, r_.target.fed_at)}, args,
              ops, [&](const int32_t& rows) { expect(lane, rows); });
  record_logprobs(args, ops);
  expect(lane, unit.timed_rows);
  ops.put_forward(unit.timed_forward, true);
  ops.put_choice(unit.timed_forward);
}

// Records the graph of the smallest prompt piece again, this time with logits and log-probs of all
// rows.
void Graphs::record_logprobs(LaneArgs args, const LaneOps& ops) {
  Graph& graph = prefill_logprobs_;
  const int32_t& rows = r_.target.feed.rows[0];
  args.max_rows = rows;
  put(graph, kPrefillTargetRows, args, ops.clock);
  ops.put_gather(graph);
  expect(*r_.target.lane, rows);
  ops.put_forward(graph, true);
  put_logprobs(graph, args.seats, kPromptLogprobs, kPromptLogprobRows, ops.clock);
  put(graph, kEndTargetPiece, EndArgs{ended_at(r_.target, r_.target.fed_at)}, ops.clock);
}

SelectArgs Graphs::select_args() const {
  const TargetScratch* scratch = r_.target_scratch.device();
  return {r_.seats(r_.target),
          &scratch->batch,
          scratch->choice,
          r_.records.device(),
          r_.target.lane.get(),
          r_.config.hrad.get(),
          r_.features.size() ? r_.features.data() : nullptr,
          r_.hrad_scratch.data(),
          r_.scores.dists()};
}

LogprobArgs Graphs::logprob_args(const Seats& seats) const {
  Lane& lane = *r_.target.lane;
  return {seats,
          &r_.target_scratch.device()->batch,
          lane.logits(),
          lane.columns().n,
          r_.config.vocab,
          r_.asked.device(),
          r_.hole.device(),
          r_.target.scratch.data()};
}

void Graphs::put_logprobs(Graph& graph, const Seats& seats, const RoundStep<LogprobArgs>& on_host,
                          const RoundStep<LogprobArgs>& on_device, Part clock) const {
  put(graph, r_.config.can().has_host_memory ? on_host : on_device, logprob_args(seats), clock);
}

void Graphs::record_select() {
  put_select(select_);
  put(select_, kEndRound, EndArgs{ended_at(r_.target, 0)});
  put_select(select_logprobs_);
  put_logprobs(select_logprobs_, r_.seats(r_.target), kOutputLogprobs, kOutputLogprobRows,
               Part::round);
  put(select_logprobs_, kEndRound, EndArgs{ended_at(r_.target, 0)});
}

void Graphs::put_select(Graph& graph) const {
  const SelectArgs chosen = select_args();
  if (chosen.dists) put(graph, kWalkByChance, chosen);
  put(graph, kSelect, chosen);
  if (chosen.features) put(graph, kClassify, chosen);
  if (r_.hrad_memory.is_there()) {
    const HradArgs read =
        r_.hrad_memory.args(chosen.seats, chosen.batch, r_.target.lane->feature_memory());
    put(graph, kHradFeatures, read);
    if (r_.config.hrad) put(graph, kHradInnerSums, read);
    if (r_.config.hrad) put(graph, kHradCut, read);
  }
  put(graph, kAttachChain, chosen);
}

void Graphs::record_draft() {
  DraftScratch* mine = r_.draft_scratch.device();
  Batch* batch = &mine->batch;
  LaneUnit& unit = r_.draft;
  Lane& lane = *unit.lane;
  LaneArgs args{r_.seats(unit), batch, mine->dist, lane.ring(), lane.ring_shape(), unit.max_rows};
  const ChooseArgs dists = choose_args(r_, unit, batch, nullptr, mine->dist);
  LaneOps ops{lane,         batch,         dists,        {r_.seats(unit), batch, true, 0},
              kGatherDraft, kForwardDraft, kChooseDraft, kMovesDraft};
  if (r_.is_apart()) put(settle_draft_, kFollowTrunk, args);
  put(settle_draft_, kSettleDraft, args);
  if (r_.scores.is_there()) put(settle_draft_, kMoveScores, args);
  ops.put_moves(settle_draft_, Moves::path_and_tail);
  put(plan_certain_, kPlanCertain, args);
  // Only `seats` is set, because the other fields point to the target's memory.
  SelectArgs bursts{};
  bursts.seats = args.seats;
  put(attach_burst_, kAttachBurst, bursts);
  put(attach_burst_, kMoveBurst, args);
  if (r_.scores.is_there()) put(attach_burst_, kMoveBurstScores, args);
  ops.put_moves(attach_burst_, Moves::burst);
  expect(lane, r_.launches.most.catch_up);
  ops.put_dists(catch_up_, &unit.cost);
  put(catch_up_, kKeepDists, args);
  put(plan_, kPlan, args);
  expect(lane, r_.launches.most.step);
  ops.put_dists(step_, &unit.cost);
  put(step_, kExtend, args);
  args.seats = ops.rows.seats = r_.fed_seats(unit);
  ops.forward = kFeedDraft;
  ops.clock = Part::draft_fed;
  record_feed(unit.feed, r_.config.max_piece,
              {kPrefillDraftRows, kEndDraftPiece, ended_at(r_.draft, r_.draft.fed_at)}, args, ops,
              [&](const int32_t& rows) { expect(lane, rows); });
  expect(lane, unit.timed_rows);
  ops.put_forward(unit.timed_forward, true);
  ops.put_choice(unit.timed_forward);
  if (!r_.config.tuned.empty()) record_looks(args, ops);
}

namespace {

// Returns the step that keeps the distributions of a prompt piece. All its rows are trunk tokens, so
// it stores only their ranks.
constexpr LaneStep keep_ranks() {
  LaneStep step = kKeepDists;
  step.effects.writes = parts(P::draft_have, P::rank);
  return step;
}

}  // namespace

// Records the prompt pieces that also keep the draft's distributions. These are the last piece of a
// prompt, and pieces for tokens of the trunk that the draft lacks.
void Graphs::record_looks(const LaneArgs& args, const LaneOps& ops) {
  expect(*r_.draft.lane, look_rows_);
  LaneArgs few = args;
  few.max_rows = look_rows_;
  const EndArgs end{ended_at(r_.draft, r_.draft.fed_at)};
  put(prefill_dists_, kPrefillDraftRows, few, ops.clock);
  ops.put_gather(prefill_dists_);
  ops.put_forward(prefill_dists_, true);
  ops.put_choice(prefill_dists_);
  put(prefill_dists_, keep_ranks(), args, ops.clock);
  put(prefill_dists_, kEndDraftPiece, end, ops.clock);
  if (r_.is_apart()) put(look_, kFollowTrunk, few, ops.clock);
  put(look_, kPrefillDraftRows, few, ops.clock);
  ops.put_dists(look_, &r_.draft.cost);
  put(look_, keep_ranks(), args, ops.clock);
  put(look_, kEndDraftPiece, end, ops.clock);
}

// Prepares every graph for its stream, before the first launch.
void Graphs::prepare() {
  LaneUnit &target = r_.target, &draft = r_.draft;
  for (Graph* graph : {&settle_target_, &verify_, &select_, &select_logprobs_, &prefill_logprobs_,
                       &target.timed_forward})
    if (!graph->nodes().empty()) prepare(target, *graph);
  for (const Graph& graph : target.feed.graphs) prepare(target, graph);
  if (!draft.stream) return;
  for (const Graph& graph : draft.feed.graphs) prepare(draft, graph);
  for (Graph* graph : {&settle_draft_, &plan_certain_, &attach_burst_, &catch_up_, &plan_, &step_,
                       &prefill_dists_, &look_, &draft.timed_forward})
    prepare(draft, *graph);
}

// Prepares a graph. Refuses a graph whose ops access the other lane's part of the state. Only the
// parts that the lanes send to each other (state/mail.h) are allowed.
void Graphs::prepare(LaneUnit& unit, const Graph& graph) const {
  const Effects allowed = allowed_to(&unit == &r_.draft);
  for (const Graph::Node& node : graph.nodes()) {
    // This op repeats the target's own writes in the draft's memory.
    if (node.name == kFollowTrunk.name) continue;
    const uint64_t reads = node.effects.reads.bits & ~allowed.reads.bits;
    const uint64_t writes = node.effects.writes.bits & ~allowed.writes.bits;
    if ((reads | writes) == 0) continue;
    const int part = __builtin_ctzll(reads | writes);
    check(false, "graph ", graph.name(), ": ", node.name,
          writes >> part & 1 ? " writes " : " reads ", name_of(part),
          ", which belongs to the other lane");
  }
  unit.stream->prepare(graph);
}

TargetLane Graphs::target(const RoundShape& shape) const {
  TargetLane lane{*r_.target.stream, settle_target_, verify_,
                  shape.has_logprobs ? select_logprobs_ : select_};
  if (r_.is_apart()) lane.verdict = &mails_.verdict;
  lane.settles = r_.launches.moves_kv;
  if (shape.has_logprobs) lane.select_width = shape.target_width;
  const auto whole = verifications_.find(verification_at(shape));
  if (whole != verifications_.end() && r_.target.stream->is_fused(whole->second))
    lane.fused = &whole->second;
  return lane;
}

DraftLane Graphs::draft(const RoundShape& shape) const {
  return {*r_.draft.stream,
          settle_draft_,
          plan_certain_,
          attach_burst_,
          catch_up_,
          plan_,
          step_,
          fused(serial_bursts_, shape.burst),
          fused(bursts_, shape.gamma),
          r_.is_apart() ? &mails_.burst : nullptr,
          r_.is_apart() ? &mails_.offer : nullptr};
}

// Returns the key in `verifications_` for a round of this shape. The key says whether the launch
// includes the op `settle`, and which `select` it includes, if any.
int Graphs::verification_at(const RoundShape& shape) const {
  const bool selects = shape.gamma == 0;
  return 4 * (selects && shape.has_logprobs) + 2 * (r_.launches.moves_kv && shape.burst == 0) +
         selects;
}

// Returns one graph of everything that the target does without waiting in a round of this shape.
// `settle` is part of it unless the target waits for a burst between `settle` and the forward.
// `select` is part of it unless the target waits for the draft.
const Graph& Graphs::verification(const RoundShape& shape) {
  Graph& whole = verifications_.try_emplace(verification_at(shape), "verify").first->second;
  if (whole.nodes().empty()) {
    if (r_.launches.moves_kv && shape.burst == 0) whole.append(settle_target_);
    whole.append(verify_);
    if (shape.gamma == 0) whole.append(shape.has_logprobs ? select_logprobs_ : select_);
  }
  return whole;
}

void Graphs::fuse(const RoundShape& shape) {
  if (!r_.config.can().captures) return;
  r_.target.stream->fuse(verification(shape));
  if (!r_.draft.stream) return;
  if (shape.gamma > 0) {
    Graph& whole = bursts_.try_emplace(shape.gamma, "burst").first->second;
    if (whole.nodes().empty()) whole.append(catch_up_).append(plan_).append(step_, shape.gamma);
    r_.draft.stream->fuse(whole);
  }
  if (shape.burst > 0) {
    Graph& whole = serial_bursts_.try_emplace(shape.burst, "serial_burst").first->second;
    if (whole.nodes().empty())
      whole.append(plan_certain_).append(step_, shape.burst).append(attach_burst_);
    r_.draft.stream->fuse(whole);
  }
}

bool Graphs::may_fuse() {
  // One call of may_fuse() in 64 returns true although fuse() would drop a graph.
  constexpr int64_t kPatience = 64;
  const auto has_room = [](const LaneUnit& unit) {
    // A round may fuse two graphs, so there must be room for two.
    return !unit.stream || unit.stream->fused() + 1 < Stream::kMostFused;
  };
  return (has_room(r_.target) && has_room(r_.draft)) || ++refused_ % kPatience == 0;
}

int Graphs::fused() const {
  int count = 0;
  for (const LaneUnit* unit : {&r_.target, &r_.draft})
    if (unit->stream) count += unit->stream->fused();
  return count;
}

// Returns the graph of a burst of `steps` steps. Returns null if this graph was not fused for the
// requests of the next round.
const Graph* Graphs::fused(const std::map<int, Graph>& bursts, int steps) const {
  const auto at = bursts.find(steps);
  return at != bursts.end() && r_.draft.stream->is_fused(at->second) ? &at->second : nullptr;
}

}  // namespace sbrt
