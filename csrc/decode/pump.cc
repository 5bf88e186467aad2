// A call that is out of time leaves what it enqueued to finish by itself; the next call takes the result.
#include "decode/pump.h"

#include <algorithm>

#include "core/check.h"
#include "exec/nvtx.h"
#include "state/parts.h"

namespace sbrt {

Pump::Pump(Resources& resources, Graphs& graphs)
    : r_(resources),
      graphs_(graphs),
      seats_(resources),
      patience_(*resources.exec),
      prompts_(resources, graphs, seats_, patience_),
      together_(resources, seats_, prompts_, patience_),
      round_(resources.config.first_round - 1),
      committed_round_(round_) {
  r_.ended.host()[0] = round_;
  fences_.verify_done.counter().store(round_);
  fences_.chain_ready.counter().store(round_);
  fences_.draft_ready.counter().store(round_);
}

void Pump::settle_down() {
  idle(Exec::kForever);
  r_.exec->forget();
  r_.ended.host()[0] = committed_round_ = round_;
  *r_.target.fed = r_.target.feed.pieces;
  *r_.draft.fed = r_.draft.feed.pieces;
}

void Pump::start_over() {
  settle_down();
  for (HostSeat& seat : seats_) {
    seat.taken = seat.prefilling = seat.drafted = false;
    seat.sequence.reset();
    seat.tuner = nullptr;
    seat.keeps = false;
    seat.fed[0] = seat.fed[1] = {};
  }
  chain_nodes_ = 0;
  patience_.forget();
}

bool Pump::has_free_seat() const {
  return std::any_of(seats_.begin(), seats_.end(), [](const HostSeat& s) { return !s.taken; });
}

int Pump::free_seat(const std::vector<int32_t>& prompt) {
  if (!has_free_seat()) return -1;
  if (seats_.live() == 0) settle_down();
  int found = -1;
  int64_t most = 0;
  for (int i = 0; i < r_.count(); ++i) {
    const HostSeat& seat = seats_[i];
    if (seat.taken) continue;
    const int64_t same = is_quiet(i) ? kept(i, prompt).target : 0;
    const bool is_older = found < 0 || seat.order < seats_[found].order;
    if (found < 0 || same > most || (same == most && is_older)) found = i, most = same;
  }
  const auto wait = [this](Event& event, int64_t value) {
    r_.exec->reach(event, value, Exec::kForever);
  };
  wait(r_.target.feed.fed, seats_[found].fed[0].last_piece());
  wait(r_.draft.feed.fed, seats_[found].fed[1].last_piece());
  wait(fences_.verify_done, seats_[found].last_round);
  return found;
}

// Whether nothing in flight has the seat.
bool Pump::is_quiet(int i) {
  return r_.exec->has_reached(fences_.verify_done, seats_[i].last_round) && prompts_.has_fed(i);
}

// Little is not worth what else the seat holds.
Kept Pump::kept(int i, const std::vector<int32_t>& prompt) const {
  constexpr int64_t kWorthTaking = 8;  // positions
  if (!r_.config.reuses_prefixes) return {};
  const Kept kept = seats_.kept(i);
  const auto fed = static_cast<int64_t>(prompt.size()) - 1;
  const int64_t same = r_.same_tokens(i, prompt.data(), std::min(kept.target, fed));
  return same < kWorthTaking ? Kept{} : Kept{same, std::min(same, kept.draft)};
}

void Pump::begin(int i, const Request& request, Tuner* tuner) {
  HostSeat& seat = seats_[i];
  const Sequence& c = r_.at(i);
  seat.sequence.reset();
  seat.sequence.begin(request, c.limit);
  seat.taken = true;
  seat.drafted = seat.is_timed = false;
  seat.keeps = true;
  prompts_.start(i);
  seat.order = ++admitted_;
  seat.first_round = round_ + 1;
  seat.tuner = tuner;
  const Policy& p = c.policy;
  const bool drafts = tuner ? tuner->drafts() : p.gamma + burst_after_miss(p) > 0;
  seat.drafts = drafts && c.head < c.draft_limit;
  if (tuner) tuner->begin(c);
  seat.begun = now();
  seat.prefilling = seat.sequence.live();
}

// The last round that a call enqueues may still run when the call returns, as long as its shape does
// not depend on what the call read. A caller that takes a round at a time then never leaves the lanes idle.
void Pump::run(int64_t max_rounds, int64_t until) {
  const SeatSet all = seats_.live();
  const auto stops = [&](int64_t done) {
    return seats_.live() != all || all == 0 || (max_rounds > 0 && done == max_rounds) ||
           (done > 0 && Trace::now() >= until) || patience_.is_interrupted();
  };
  for (int64_t done = 0; !stops(done); ++done) {
    if (!prompts_.feed(until)) break;
    const bool ahead = has_round_in_flight();
    if (!ahead && !prepare_round(until)) break;
    if (!ahead) start_round();
    if (round_ == committed_round_ + 1 && may_run_ahead()) start_round();
    if (!read_round(until, ahead)) break;
  }
  if (seats_.live() == 0)
    r_.exec->spend(1);  // what comes next begins later than all of this, in traces too
  patience_.forget();
}

// With nothing in flight. False if the time is over.
bool Pump::prepare_round(int64_t until) {
  const SeatSet members = seats_.decoding(), tuned = seats_.tuned_of(members);
  const int others = __builtin_popcountll(members & ~tuned);
  if (tuned && is_one(members)) {
    together_.end();
    seats_[__builtin_ctzll(tuned)].tuner->share(1, 0);
    if (!tune(__builtin_ctzll(tuned), until)) return false;
  } else if (tuned && !together_.next(tuned, others, until)) {
    return false;
  }
  bound_rows();
  return true;
}

// All that decode. Under `rejection` tokens depend on which candidates were tried: such a sequence is
// left out of a round in which one of its rows might find no room.
SeatSet Pump::members_of_round() const {
  const SeatSet all = seats_.decoding();
  SeatSet members = 0;
  int64_t verified = __builtin_popcountll(all), drafted = 0;  // rows; drafted: of the neediest seat
  for (int n = 0; n < r_.count(); ++n) {
    const int i = static_cast<int>((round_ + n) % r_.count());  // each is the first in its turn
    if (!(all & bit(i))) continue;
    const Policy& p = r_.at(i).policy;
    const int64_t chain = is_rejection(r_.at(i)) ? most_nodes(p) : 0;
    const int64_t steps = chain > 0 ? std::max<int64_t>(chain + 2, p.branches * p.width) : 0;
    const int64_t neediest = std::max(drafted, steps);
    const bool fits =
        verified + chain <= kMaxRows &&
        (!r_.has_draft() || (__builtin_popcountll(members) + 1) * neediest <= r_.draft.max_rows);
    if (members && neediest > 0 && !fits) continue;
    members |= bit(i);
    verified += chain;
    drafted = neediest;
  }
  return members;
}

void Pump::start_round() {
  const SeatSet members = members_of_round();
  const RoundShape how = seats_.shape(members);
  const bool ahead = has_round_in_flight();
  SeatSet drafting = 0;
  for_each(members, [&](int i) {
    if (starts_drafting(i, how)) drafting |= bit(i);
    seats_[i].sequence.stats().rounds_ahead += ahead;
    seats_[i].last_round = round_ + 1;
  });
  price_lanes(how);  // one round is in flight at most in virtual time
  const NvtxRange range(r_.config.nvtx, "round", round_ + 1);
  enqueued_[++round_ % 2] = now();
  r_.target.roll->word[round_ % kRecords] = members;
  r_.draft.roll->word[round_ % kRecords] = drafting;
  TargetLane target = graphs_.target(how);
  target.seats = members;
  if (!drafting) {
    enqueue_round(round_, how, target, nullptr, fences_);
    return;
  }
  DraftLane draft = graphs_.draft(how);
  draft.seats = drafting;
  enqueue_round(round_, how, target, &draft, fences_);
}

// Whether the draft takes part in the next round of this seat.
bool Pump::starts_drafting(int i, const RoundShape& how) {
  HostSeat& seat = seats_[i];
  const Policy& p = r_.at(i).policy;
  seat.drafted =
      p.gamma > 0 || (how.burst > 0 && seat.sequence.missed() && burst_after_miss(p) > 0);
  // A draft that sits a round out has nothing of its chain, nor a branch of any later one.
  if (seat.tuner && !seat.drafted && !has_round_in_flight()) {  // never on a device
    Sequence& c = r_.at(i);
    r_.exec->note("sit_out", {{}, parts(Part::draft_have, Part::branches)}, bit(i));
    c.draft_nodes = Mask::none();
    c.branch_count = c.draft_idle = 0;
  }
  return seat.drafted;
}

// Waits for the oldest round in flight and takes its tokens. `ahead`: it was in flight before this turn
// of the loop. False if the time is over first.
bool Pump::read_round(int64_t until, bool ahead) {
  if (!patience_.reach(fences_.verify_done, committed_round_ + 1, until)) return false;
  r_.exec->rethrow();
  if (r_.config.costs) r_.exec->spend(besides_);
  const int64_t round = ++committed_round_;
  prompts_.see();
  Brought brought = time_of(round, ahead);
  brought.rows = 0;
  const SeatSet members = r_.target.roll->word[round % kRecords];
  if (!has_round_in_flight())  // one in flight writes another entry of the ring
    r_.exec->note("read_record", {parts(Part::record), {}}, members);
  SeatSet committed = 0;
  for_each(members, [&](int i) {
    if (commit(i, round)) committed |= bit(i);
    brought.rows += committed & bit(i) ? 1 + seats_[i].sequence.log().last().depth : 1;
  });
  brought.rows = std::min<int>(brought.rows, kMaxRows);
  for_each(seats_.tuned_of(committed), [&](int i) {
    const RoundEntry& last = seats_[i].sequence.log().last();
    brought.tokens = last.tokens;
    brought.hit = last.hit;
    seats_[i].tuner->saw(brought);
  });
  return true;
}

// Takes the tokens of a seat, if they are of the sequence that has it now.
bool Pump::commit(int i, int64_t round) {
  HostSeat& seat = seats_[i];
  if (!seat.taken || !seat.sequence.live() || round < seat.first_round) return false;
  LogprobStore& logprobs = r_.logprobs[i];
  if (seat.sequence.stats().rounds == 0 && logprobs.prompt_failed()) {
    seat.sequence.fail(kNotANumber);
    return false;
  }
  const int64_t first = seat.sequence.head() + 1;
  const int64_t count = seat.sequence.commit(r_.records.host()[i].of(round), round);
  if (logprobs.has_output()) logprobs.commit(first, count);
  Stats& stats = seat.sequence.stats();
  stats.decode_ns = now() - seat.begun - stats.prefill_ns;
  return true;
}

// How long the round took that was just read, for the tuners. Of a round that ran ahead the host does not
// know when it ended, since its caller may have been away: the lane's own clock says so.
Brought Pump::time_of(int64_t round, bool ahead) const {
  Brought found;
  found.steady = !r_.config.can().can_be_timed;
  const int64_t enqueued = enqueued_[round % 2];
  if (!ahead) {
    found.ns = now() - enqueued;
  } else {
    const int64_t before = fences_.verify_done.reached_at(round - 1);
    found.ns = fences_.verify_done.reached_at(round) - std::max(before, enqueued);
    found.steady = enqueued <= before;
  }
  return found;
}

// Whether the next round may be enqueued before the record of the last one is read: its shape does
// not depend on that outcome, its policies are the same, and its rows stay within the bounds in force. A
// stop that the host finds leaves a round behind that nobody reads.
bool Pump::may_run_ahead() {
  if (!r_.config.can().runs_ahead || r_.config.keep_features) return false;
  const SeatSet members = seats_.decoding(), tuned = seats_.tuned_of(members);
  bool may = members != 0;
  for_each(members, [&](int i) { may = may && may_run_ahead(i, is_one(members)); });
  if (!may || !tuned || is_one(members)) return may;
  return together_.stays(tuned, __builtin_popcountll(members & ~tuned));
}

bool Pump::may_run_ahead(int i, bool alone) {
  const HostSeat& seat = seats_[i];
  const Policy& p = r_.at(i).policy;
  const int burst = burst_after_miss(p);
  if (burst > 0 && (p.gamma > 0 || !seat.sequence.missed())) return false;
  if (!alone) return true;
  if (seat.tuner && together_.is_in_force()) return false;  // it had company
  if (lag_ == DraftLag::none && lag_within(2) != DraftLag::none) return false;
  const int64_t most = std::max({p.gamma, burst, p.on_miss == kLookup ? p.burst : 0}) +
                       (p.lookup ? kMostFound : 0) + 1;
  if (2 * most > seat.sequence.left()) return false;
  return !seat.tuner || seat.tuner->stays(r_.at(i), seat.sequence.head());
}

// Between rounds, with nothing enqueued: chooses the next policy. False if the time is over.
bool Pump::tune(int i, int64_t until) {
  LaneUnit& draft = r_.draft;
  HostSeat& seat = seats_[i];
  if (!patience_.reach(draft.feed.fed, draft.feed.pieces, until))
    return false;  // of an earlier call
  Sequence& c = r_.at(i);
  const int64_t begin = now();
  // A draft that took part in the last round has yet to settle.
  if (seat.drafts && !seat.drafted && seat.tuner->wants_to_look(c, c.head)) {
    if (!prompts_.catch_draft_up(i, until)) return false;
    seat.tuner->looked(now() - begin);
  }
  r_.exec->note("tune", kTunes, bit(i));
  seat.tuner->next(c);
  return prompts_.prepare_draft(i, until);
}

bool Pump::idle(int64_t until) {
  return r_.exec->reach(r_.target.feed.fed, r_.target.feed.pieces, until) &&
         r_.exec->reach(r_.draft.feed.fed, r_.draft.feed.pieces, until) &&
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

// Most nodes of a chain, of this policy and of the one before. Of the one seat.
int32_t Pump::most_chain() const { return std::max(chain_nodes_, most_nodes(r_.at(0).policy)); }

// How far the draft may be behind the trunk in the next `rounds` rounds; the host knows the head of the
// first. A round whose chain ends at the draft's limit is one that the draft sits out. A serial draft
// that sat out once is never fed again. Of several seats nobody asks: their bounds are a lane's.
DraftLag Pump::lag_within(int rounds) const {
  if (r_.count() > 1 || seats_[0].tuner) return DraftLag::any;
  if (r_.at(0).policy.gamma == 0) return DraftLag::none;
  const int64_t nodes = most_chain();
  const int64_t head = seats_[0].sequence.head() + (rounds - 1) * (nodes + 1);
  return head + nodes < r_.at(0).draft_limit ? DraftLag::none : DraftLag::chain;
}

void Pump::fuse() {
  if (!r_.config.can().captures) return;
  bound_rows();
  graphs_.fuse();
}

// Decides which graphs of the lanes the next round takes. Nothing is in flight.
void Pump::bound_rows() {
  lag_ = lag_within(1);
  if (r_.count() > 1) {
    r_.target.most = r_.draft.most = {kMaxRows, r_.draft.max_rows, r_.draft.max_rows};
    return;
  }
  const Policy& p = r_.at(0).policy;
  r_.target.most = r_.draft.most = row_bounds(p, most_chain(), lag_);
  chain_nodes_ = most_nodes(p);
}

}  // namespace sbrt
