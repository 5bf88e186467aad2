// A call that is out of time leaves what it enqueued to finish by itself; the next call takes the result.
#include "spec/pump.h"

#include <algorithm>

#include "core/check.h"
#include "exec/nvtx.h"
#include "state/parts.h"

namespace sbrt {
namespace {

constexpr int64_t kPatience = 50'000'000;  // ns between two looks at interrupt()

}  // namespace

Pump::Pump(Resources& resources, Graphs& graphs, HostSequence& sequence)
    : r_(resources),
      graphs_(graphs),
      sequence_(sequence),
      round_(resources.config.first_round - 1),
      committed_round_(round_) {
  *r_.ended.host() = round_;
  fences_.verify_done.counter().store(round_);
  fences_.chain_ready.counter().store(round_);
  fences_.draft_ready.counter().store(round_);
}

void Pump::settle_down() {
  idle(Exec::kForever);
  r_.exec->forget();
  *r_.ended.host() = committed_round_ = round_;
}

void Pump::start_over() {
  settle_down();
  drafted_ = prefilling_ = false;
  chain_nodes_ = 0;
  r_.target.feed.fed = r_.draft.feed.fed = 0;
  tuner_ = nullptr;
  interrupted_.store(false);
}

void Pump::begin(Tuner* tuner) {
  const Sequence& c = *r_.sequence;
  tuner_ = tuner;
  const RoundShape first = shape();
  const bool drafts = tuner ? tuner->drafts() : first.burst + first.gamma > 0;
  drafts_ = drafts && c.head < c.draft_limit;
  if (tuner) tuner->begin(c);
  begun_ = now();
  prefilling_ = true;
}

void Pump::run(int64_t max_rounds, int64_t until) {
  if (prefilled(until)) run_rounds(max_rounds, until);
  interrupted_.store(false, std::memory_order_relaxed);
}

// The last round that a call enqueues may still run when the call returns, as long as its shape does
// not depend on what the call read. A caller that takes a round at a time then never leaves the lanes idle.
void Pump::run_rounds(int64_t max_rounds, int64_t until) {
  const auto stops = [&](int64_t done) {
    return !sequence_.live() || (max_rounds > 0 && done == max_rounds) ||
           (done > 0 && Trace::now() >= until) || interrupted_.load(std::memory_order_relaxed);
  };
  for (int64_t done = 0; !stops(done); ++done) {
    const bool ahead = has_round_in_flight();
    if (!ahead && !prepare_round(until)) break;
    if (!ahead) start_round();
    if (round_ == committed_round_ + 1 && may_run_ahead()) start_round();
    if (!read_round(until, ahead)) break;
  }
  if (!sequence_.live())
    r_.exec->spend(1);  // what comes next begins later than all of this, in traces too
}

// With nothing in flight. False if the time is over.
bool Pump::prepare_round(int64_t until) {
  if (tuner_ && !tune(until)) return false;
  bound_rows();
  return true;
}

void Pump::start_round() {
  const RoundShape how = shape();
  // A draft that sits a round out has nothing of its chain, nor a branch of any later one.
  drafted_ = how.burst + how.gamma > 0;
  if (tuner_ && !drafted_ && !has_round_in_flight()) {  // never on a device
    r_.sequence->draft_nodes = Mask::none();
    r_.sequence->branch_count = r_.sequence->draft_idle = 0;
  }
  price_lanes(how);  // one round is in flight at most in virtual time
  const NvtxRange range(r_.config.nvtx, "round", round_ + 1);
  sequence_.stats().rounds_ahead += has_round_in_flight();
  enqueued_[++round_ % 2] = now();
  r_.roll.host()->word[round_ % kRecords] = 1;  // the one seat
  TargetLane target = graphs_.target(how);
  if (!drafted_) {
    enqueue_round(round_, how, target, nullptr, fences_);
    return;
  }
  DraftLane draft = graphs_.draft(how);
  enqueue_round(round_, how, target, &draft, fences_);
}

// Waits for the oldest round in flight and takes its tokens. `ahead`: it was in flight before this turn
// of the loop. False if the time is over first.
bool Pump::read_round(int64_t until, bool ahead) {
  if (!reach(fences_.verify_done, committed_round_ + 1, until)) return false;
  r_.exec->rethrow();
  if (r_.config.costs) r_.exec->spend(besides_);
  const int64_t round = ++committed_round_;
  r_.exec->note("read_record", {parts(Part::record), {}});
  const int64_t tokens = sequence_.commit(r_.records.host()->of(round), round);
  Stats& stats = sequence_.stats();
  stats.decode_ns = now() - begun_ - stats.prefill_ns;
  if (tuner_) tuner_->saw(brought(tokens, ahead));
  return true;
}

// What the round that was just read brought, for the tuner. Of a round that ran ahead the host does not
// know when it ended, since its caller may have been away: the lane's own clock says so.
Brought Pump::brought(int64_t tokens, bool ahead) const {
  const RoundEntry& last = sequence_.log().last();
  Brought found{tokens, 0, 1 + last.depth, r_.config.in_virtual_order(), last.hit};
  const int64_t enqueued = enqueued_[last.round % 2];
  if (!ahead) {
    found.ns = now() - enqueued;
  } else {
    const int64_t before = fences_.verify_done.reached_at(last.round - 1);
    found.ns = fences_.verify_done.reached_at(last.round) - std::max(before, enqueued);
    found.steady = enqueued <= before;
  }
  return found;
}

// Whether the next round may be enqueued before the record of the last one is read: its shape does
// not depend on that outcome, its policy is the same, its rows stay within the bounds in force, and the
// sequence cannot reach its limit before. A stop that the host finds leaves a round behind that nobody
// reads.
bool Pump::may_run_ahead() {
  const Policy& p = r_.sequence->policy;
  const int burst = p.on_miss == kBurst ? p.burst : 0;
  if (burst > 0 && (p.gamma > 0 || !sequence_.missed())) return false;
  if (r_.config.in_virtual_order() || r_.config.keep_features) return false;
  if (lag_ == DraftLag::none && lag_within(2) != DraftLag::none) return false;
  const int64_t most = std::max({p.gamma, burst, p.on_miss == kLookup ? p.burst : 0}) + 1;
  if (2 * most > sequence_.left()) return false;
  return !tuner_ || tuner_->stays(*r_.sequence, sequence_.head());
}

void Pump::feed(LaneUnit& unit, int width, bool keeps_laws) {
  const int64_t all = r_.sequence->head;
  const size_t at = unit.feed.next(all);
  const bool is_last = unit.feed.fed + unit.feed.rows[at] >= all;
  unit.stream->launch(
      keeps_laws && is_last && at == 0 ? graphs_.prefill_laws() : unit.feed.graphs[at], width);
  unit.feed.took(at, unit.pieces, all);
  unit.stream->record(unit.prefilled, ++unit.pieces);
}

// Feeds the prompt; false if the time is over first. Two pieces of a lane are in flight, so that none
// is ever idle and no caller waits for more than that.
bool Pump::prefilled(int64_t until) {
  if (!prefilling_) return true;
  LaneUnit &target = r_.target, &draft = r_.draft;
  const NvtxRange range(r_.config.nvtx, "prefill");
  const RoundShape width = shape();
  const auto lacks = [this](const LaneUnit& unit) { return unit.feed.fed < r_.sequence->head; };
  for (;;) {
    const bool drafts = drafts_ && lacks(draft), targets = lacks(target);
    if (!reach(target.prefilled, target.pieces - targets, until) ||
        !reach(draft.prefilled, draft.pieces - drafts, until))
      return false;
    if (!drafts && !targets) break;
    if (drafts) feed(draft, width.draft_width, tuner_ != nullptr);
    if (targets) feed(target, width.target_width, false);
  }
  r_.exec->rethrow();
  prefilling_ = false;
  sequence_.stats().prefill_ns = now() - begun_;
  return true;
}

// Between rounds, with nothing enqueued: chooses the next policy. False if the time is over.
bool Pump::tune(int64_t until) {
  LaneUnit& draft = r_.draft;
  if (!reach(draft.prefilled, draft.pieces, until)) return false;  // of an earlier call
  Sequence& c = *r_.sequence;
  const int64_t begin = now();
  // A draft that took part in the last round has yet to settle, and is never far behind.
  if (drafts_ && !drafted_ && tuner_->wants_to_look(c, c.head)) {
    if (!catch_draft_up(until)) return false;
    tuner_->looked(now() - begin);
  }
  tuner_->next(c);
  constexpr int64_t kBehind = 8;  // what rides along in a burst
  const bool drafts = kind_of(c.policy) >= ArmKind::serial;
  return !drafts || drafted_ || c.head - c.draft_have <= kBehind || catch_draft_up(until);
}

// The draft reads what it has missed of the trunk, and leaves its laws' ranks.
bool Pump::catch_draft_up(int64_t until) {
  LaneUnit& draft = r_.draft;
  if (r_.config.costs) draft.cost = r_.config.costs->alone.draft.data();
  while (r_.sequence->draft_have < r_.sequence->head) {
    draft.stream->launch(graphs_.look(), draft.width);
    draft.stream->record(draft.prefilled, ++draft.pieces);
    if (!reach(draft.prefilled, draft.pieces, until)) return false;
  }
  r_.exec->rethrow();
  return true;
}

int64_t Pump::prefilled_tokens() const {
  if (!prefilling_) return std::max<int64_t>(0, sequence_.prompt() - 1);
  const auto done = [](const LaneUnit& u) {
    return u.feed.done(u.pieces, u.pieces - u.prefilled.reached());
  };
  return drafts_ ? std::min(done(r_.target), done(r_.draft)) : done(r_.target);
}

// False if the time is over or somebody interrupts.
bool Pump::reach(Event& event, int64_t value, int64_t until) {
  while (!r_.exec->reach(event, value, std::min(until, Trace::now() + kPatience)))
    if (Trace::now() >= until || interrupted_.load(std::memory_order_relaxed)) return false;
  return true;
}

bool Pump::idle(int64_t until) {
  return r_.exec->reach(r_.target.prefilled, r_.target.pieces, until) &&
         r_.exec->reach(r_.draft.prefilled, r_.draft.pieces, until) &&
         r_.exec->reach(fences_.verify_done, round_, until);
}

// What the forwards of the next round cost in virtual time.
void Pump::price_lanes(const RoundShape& how) {
  if (!r_.config.costs) return;
  const LaneCosts& costs = r_.config.costs->of(how.gamma > 0);
  r_.target.cost = costs.target.data();
  r_.draft.cost = costs.draft.data();
  besides_ = r_.config.costs->besides(how.burst > 0, how.gamma > 0);
}

// Most nodes of a chain, of this policy and of the one before.
int32_t Pump::most_chain() const { return std::max(chain_nodes_, most_nodes(r_.sequence->policy)); }

// How far the draft may be behind the trunk in the next `rounds` rounds; the host knows the head of the
// first. A round whose chain ends at the draft's limit is one that the draft sits out. A serial draft
// that sat out once is never fed again.
DraftLag Pump::lag_within(int rounds) const {
  if (tuner_) return DraftLag::any;
  if (r_.sequence->policy.gamma == 0) return DraftLag::none;
  const int64_t nodes = most_chain(), head = sequence_.head() + (rounds - 1) * (nodes + 1);
  return head + nodes < r_.sequence->draft_limit ? DraftLag::none : DraftLag::chain;
}

void Pump::fuse() {
  if (!r_.config.is_on_device()) return;
  bound_rows();
  graphs_.fuse();
}

// Decides which graphs of the lanes the next round takes. Nothing is in flight.
void Pump::bound_rows() {
  lag_ = lag_within(1);
  r_.target.most = r_.draft.most = row_bounds(r_.sequence->policy, most_chain(), lag_);
  chain_nodes_ = most_nodes(r_.sequence->policy);
}

// The shape of the next round.
RoundShape Pump::shape() const {
  const Policy& p = r_.sequence->policy;
  RoundShape shape;
  shape.gamma = p.gamma;
  shape.burst = sequence_.missed() && p.on_miss == kBurst ? p.burst : 0;
  shape.target_width = p.gamma > 0 ? r_.config.target_share() : r_.target.width;
  shape.draft_width = p.gamma > 0 ? r_.config.draft_threads : r_.draft.width;
  shape.burst_width = r_.draft.width;
  return shape;
}

}  // namespace sbrt
