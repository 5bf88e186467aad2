// How a sequence runs: prefill, then rounds, in pieces of time. A call that is out of time leaves
// what it enqueued to finish by itself; the next call takes the result.
#include <algorithm>

#include "core/check.h"
#include "exec/nvtx.h"
#include "spec/runtime.h"

namespace sbrt {
namespace {

constexpr int64_t kPatience = 50'000'000;  // ns between two looks at interrupt()

int64_t end_of(int64_t begin, double seconds) {
  check_within("seconds", 0.0, 1e9, seconds);
  return seconds == 0 ? Exec::kForever : begin + static_cast<int64_t>(seconds * 1e9);
}

}  // namespace

void Runtime::run(int64_t max_rounds, double seconds) {
  check_usable();
  check_within("max_rounds", int64_t{0}, int64_t{1} << 60, max_rounds);
  const int64_t begin = Trace::now(), until = end_of(begin, seconds);
  if (!live_) return;
  try {
    if (prefilled(until)) run_rounds(max_rounds, until);
  } catch (...) {
    end();
    committed_.clear();  // the caller gets the exception, and no token of this sequence any more
    settle_down();
    throw;
  }
  interrupted_.store(false, std::memory_order_relaxed);
}

const std::vector<int32_t>& Runtime::take() {
  taken_.clear();
  std::swap(taken_, committed_);
  return taken_;
}

std::optional<DraftLane> Runtime::draft_lane() {
  if (!draft_.stream) return std::nullopt;
  return DraftLane{*draft_.stream, settle_draft_, plan_certain_, hang_burst_, catch_up_,
                   plan_,          step_,         nullptr,       nullptr};
}

// The last round that a call enqueues may still run when the call returns, as long as its shape does
// not depend on what the call read. A caller that takes a round at a time then never leaves the lanes idle.
void Runtime::run_rounds(int64_t max_rounds, int64_t until) {
  TargetLane target{*target_.stream, settle_target_, verify_, select_};
  std::optional<DraftLane> draft = draft_lane();
  const auto stops = [&](int64_t done) {
    return !live_ || (max_rounds > 0 && done == max_rounds) ||
           (done > 0 && Trace::now() >= until) || interrupted_.load(std::memory_order_relaxed);
  };
  for (int64_t done = 0; !stops(done); ++done) {
    const bool ahead = round_ != committed_round_;
    if (!ahead) {
      if (tuned_ && !tune(until)) break;
      bound_rows();
      start_round(target, draft);
    }
    if (round_ == committed_round_ + 1 && may_run_ahead()) start_round(target, draft);
    if (!read_round(until, ahead)) break;
  }
  if (!live_) exec_->spend(1);  // what comes next begins later than all of this, in traces too
}

void Runtime::start_round(TargetLane& target, std::optional<DraftLane>& draft) {
  const RoundShape how = shape();
  // A draft that sits a round out has nothing of its chain, nor a branch of any later one.
  drafted_ = how.burst + how.gamma > 0;
  if (tuned_ && !drafted_ && round_ == committed_round_) {  // never on a device
    sequence_->draft_nodes = Mask::none();
    sequence_->branch_count = sequence_->draft_idle = 0;
  }
  target.settles = settles();
  if (exec_->is_device()) {
    const Graph& whole = verification(how.burst > 0);
    target.fused = target_.stream->is_fused(whole) ? &whole : nullptr;
  }
  if (draft) draft->serial_burst = fused(serial_bursts_, how.burst);
  if (draft) draft->burst = fused(bursts_, how.gamma);
  price_lanes(how);  // one round is in flight at most in virtual time
  const NvtxRange range(config_.nvtx, "round", round_ + 1);
  stats_.rounds_ahead += round_ != committed_round_;
  enqueued_[++round_ % 2] = now();
  roll_.host()->word[round_ % kRecords] = 1;  // the one seat
  enqueue_round(round_, how, target, draft ? &*draft : nullptr, fences_);
}

// Waits for the oldest round in flight and takes its tokens. `ahead`: it was in flight before this turn
// of the loop. False if the time is over first.
bool Runtime::read_round(int64_t until, bool ahead) {
  if (!reach(fences_.verify_done, committed_round_ + 1, until)) return false;
  exec_->rethrow();
  if (config_.costs) exec_->spend(besides_);
  const int64_t before = emitted_;
  commit(++committed_round_);
  stats_.decode_ns = now() - begun_ - stats_.prefill_ns;
  if (tuned_) tuner_->saw(brought(emitted_ - before, ahead));
  return true;
}

// What the round that was just read brought, for the tuner. Of a round that ran ahead the host does not
// know when it ended, since its caller may have been away: the lane's own clock says so.
Brought Runtime::brought(int64_t tokens, bool ahead) const {
  const RoundEntry& last = log_.last();
  Brought found{tokens, 0, 1 + last.depth, in_virtual_order(), last.hit};
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
bool Runtime::may_run_ahead() {
  const Policy& p = sequence_->policy;
  const int burst = p.on_miss == kBurst ? p.burst : 0;
  if (burst > 0 && (p.gamma > 0 || !missed_)) return false;
  if (in_virtual_order() || config_.keep_features) return false;
  if (lag_ == DraftLag::none && lag_within(2) != DraftLag::none) return false;
  const int64_t most = std::max({p.gamma, burst, p.on_miss == kLookup ? p.burst : 0}) + 1;
  if (emitted_ + 2 * most > sequence_->limit - prompt_) return false;
  return !tuned_ || tuner_->stays(*sequence_, prompt_ - 1 + emitted_);
}

// Enqueues the next piece of the prompt. A last one of few rows may keep the draft's laws.
void Runtime::feed(LaneUnit& unit, int width, bool keeps_laws) {
  const int64_t all = sequence_->head;
  const size_t at = unit.feed.next(all);
  const bool is_last = unit.feed.fed + unit.feed.rows[at] >= all;
  unit.stream->launch(keeps_laws && is_last && at == 0 ? prefill_laws_ : unit.feed.graphs[at],
                      width);
  unit.feed.took(at, unit.pieces, all);
  unit.stream->record(unit.prefilled, ++unit.pieces);
}

// Feeds the prompt; false if the time is over first. Two pieces of a lane are in flight, so that none
// is ever idle and no caller waits for more than that.
bool Runtime::prefilled(int64_t until) {
  if (!prefilling_) return true;
  const NvtxRange range(config_.nvtx, "prefill");
  const RoundShape width = shape();
  const auto lacks = [this](const LaneUnit& unit) { return unit.feed.fed < sequence_->head; };
  for (;;) {
    const bool drafts = drafts_ && lacks(draft_), targets = lacks(target_);
    if (!reach(target_.prefilled, target_.pieces - targets, until) ||
        !reach(draft_.prefilled, draft_.pieces - drafts, until))
      return false;
    if (!drafts && !targets) break;
    if (drafts) feed(draft_, width.draft_width, tuned_);
    if (targets) feed(target_, width.target_width, false);
  }
  exec_->rethrow();
  prefilling_ = false;
  stats_.prefill_ns = now() - begun_;
  return true;
}

// Between rounds, with nothing enqueued: chooses the next policy. False if the time is over.
bool Runtime::tune(int64_t until) {
  if (!reach(draft_.prefilled, draft_.pieces, until)) return false;  // of an earlier call
  Sequence& c = *sequence_;
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
bool Runtime::catch_draft_up(int64_t until) {
  if (config_.costs) draft_.cost = config_.costs->alone.draft.data();
  while (sequence_->draft_have < sequence_->head) {
    draft_.stream->launch(look_, draft_.width);
    draft_.stream->record(draft_.prefilled, ++draft_.pieces);
    if (!reach(draft_.prefilled, draft_.pieces, until)) return false;
  }
  exec_->rethrow();
  return true;
}

int64_t Runtime::prefilled_tokens() const {
  if (!prefilling_) return prompt_ > 0 ? prompt_ - 1 : 0;
  const auto done = [](const LaneUnit& u) {
    return u.feed.done(u.pieces, u.pieces - u.prefilled.reached());
  };
  return drafts_ ? std::min(done(target_), done(draft_)) : done(target_);
}

// False if the time is over or somebody interrupts.
bool Runtime::reach(Event& event, int64_t value, int64_t until) {
  while (!exec_->reach(event, value, std::min(until, Trace::now() + kPatience)))
    if (Trace::now() >= until || interrupted_.load(std::memory_order_relaxed)) return false;
  return true;
}

bool Runtime::idle(double seconds) {
  const int64_t until = end_of(Trace::now(), seconds);
  if (is_forked() || !target_.stream) return true;  // a fork has no threads
  return exec_->reach(target_.prefilled, target_.pieces, until) &&
         exec_->reach(draft_.prefilled, draft_.pieces, until) &&
         exec_->reach(fences_.verify_done, round_, until);
}

void Runtime::keep_trace(bool is_on) {
  check_usable();
  idle(0);
  exec_->keep_trace(is_on);
}

void Runtime::profile(bool is_on) {
  check_usable();
  idle(0);
  exec_->profile(is_on);
}

// Between sequences: waits for what the last one left behind and forgets how it went.
void Runtime::settle_down() {
  idle(0);
  exec_->forget();
  *ended_.host() = committed_round_ = round_;
}

}  // namespace sbrt
