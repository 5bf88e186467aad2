// A call of run() ends at its time limit, but the work that it enqueued continues. The next call
// takes the result of that work.
#include "decode/pump.h"

#include <algorithm>

#include "core/check.h"
#include "exec/nvtx.h"
#include "state/parts.h"

namespace sbrt {

namespace {

// Returns the value of HostSeat::trees after a round of policy `p`. `trees` was the value before
// the round. If a round plans a tree, the next round verifies the tree. The round after that moves
// the KV of the accepted path, under any policy.
int trees_after(const Policy& p, int trees) { return makes_paths(p) ? std::max(0, trees - 1) : 2; }

}  // namespace

Pump::Pump(Resources& resources, Graphs& graphs)
    : r_(resources),
      graphs_(graphs),
      seats_(resources),
      patience_(*resources.exec),
      prompts_(resources, graphs, seats_, patience_),
      together_(resources, seats_, prompts_, patience_),
      round_(resources.config.first_round - 1),
      committed_round_(round_) {
  r_.count_from(round_);
  fences_.verify_done.counter().store(round_);
  fences_.chain_ready.counter().store(round_);
  fences_.draft_ready.counter().store(round_);
}

void Pump::settle_down() {
  idle(Exec::kForever);
  r_.exec->forget();
  committed_round_ = round_;
  r_.count_from(round_);
}

void Pump::start_over() {
  settle_down();
  for (HostSeat& seat : seats_) {
    seat.taken = seat.prefilling = seat.drafted = false;
    seat.sequence.reset();
    seat.tuner = nullptr;
    seat.keeps = false;
    seat.fed[0] = seat.fed[1] = {};
    seat.chain_nodes = 0;
  }
  r_.launches.kind = {};
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
  prompts_.wait_fed(found);
  r_.exec->reach(fences_.verify_done, seats_[found].last_round, Exec::kForever);
  return found;
}

// Returns true if no round and no prompt piece in flight uses the seat.
bool Pump::is_quiet(int i) {
  return r_.exec->has_reached(fences_.verify_done, seats_[i].last_round) && prompts_.has_fed(i);
}

// Returns how much of a prompt's KV can be reused, or nothing if that is only a few tokens. Reusing
// a few tokens is not worth the KV that the seat would lose.
Kept Pump::kept(int i, const std::vector<int32_t>& prompt) const {
  constexpr int64_t kWorthTaking = 8;  // reusing the KV of fewer positions is not worth it
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
  seat.drafted = seat.is_timed = seat.sat_out = seat.catches_up = false;
  seat.trees = seat.chain_nodes = 0;
  seat.keeps = true;
  prompts_.start(i);
  seat.order = ++admitted_;
  seat.first_round = round_ + 1;
  seat.tuner = tuner;
  const Policy& p = c.policy;
  const bool drafts = tuner ? tuner->drafts() : p.gamma + burst_after_miss(p) > 0;
  seat.drafts = drafts && c.head < c.draft_limit;
  // While other sequences run, `auto` may use a policy that does not draft. Then the draft
  // processes a prompt only when the policy starts to draft.
  const bool is_alone = is_one(seats_.live() | bit(i));
  seat.feeds_draft = seat.drafts && (!tuner || is_alone || together_.drafts());
  if (tuner) tuner->begin(c);
  seat.begun = now();
  seat.prefilling = seat.sequence.live();
}

// A call may return while the last round that it enqueued is still in flight. So the lanes stay
// busy even if a caller runs one round at a time. The shape of the round in flight must not depend
// on the record that the call read last.
void Pump::run(int64_t max_rounds, int64_t until) {
  const SeatSet all = seats_.live();
  const auto stops = [&](int64_t done) {
    return seats_.live() != all || all == 0 || (max_rounds > 0 && done == max_rounds) ||
           (done > 0 && Trace::now() >= until) || patience_.is_interrupted();
  };
  for (int64_t done = 0; !stops(done); ++done) {
    if (!feed(until)) break;
    const bool ahead = has_round_in_flight();
    if (!ahead && !prepare_round(until)) break;
    if (!ahead) start_round();
    if (round_ == committed_round_ + 1 && may_run_ahead()) start_round();
    if (!read_round(until, ahead)) break;
  }
  // Advances virtual time, so that later work begins at a later time, also in traces.
  if (seats_.live() == 0) r_.exec->spend(1);
  patience_.forget();
}

// Feeds at most one prompt piece between two rounds. In virtual time a prompt costs nothing, so
// whole prompts are fed. Returns false if the time limit is over.
bool Pump::feed(int64_t until) {
  if (fed_round_ == round_ && seats_.decoding() != 0) return true;
  const auto pieces = [this] { return r_.target.feed.pieces + r_.draft.feed.pieces; };
  int64_t before = 0;
  do {
    before = pieces();
    if (!prompts_.feed(until)) return false;
    if (pieces() != before) fed_round_ = round_;
  } while (r_.config.costs && pieces() != before);
  return true;
}

// Sets the policies and launches of the next round. Called with nothing in flight. Returns false if
// the time limit is over.
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
  for_each(tuned, [&](int i) { sit_out_if_idle(i); });
  pick_launches(r_.count() > 1 ? members : bit(0));
  if ((r_.count() > 1 || tuned) && graphs_.may_fuse()) graphs_.fuse(seats_.shape(members));
  return true;
}

// Returns the seats of the next round: all that decode, if their rows fit. Under `rejection` a
// token depends on which candidates the round tries. So a sequence with that rule skips a round in
// which not all of its rows are sure to fit.
SeatSet Pump::members_of_round() const {
  const SeatSet all = seats_.decoding();
  SeatSet members = 0;
  // verified: rows of the target's forward, over all seats. drafted: draft rows of the seat that
  // has the most.
  int64_t verified = __builtin_popcountll(all), drafted = 0;
  for (int n = 0; n < r_.count(); ++n) {
    // Each round begins with another seat.
    const int i = static_cast<int>((round_ + n) % r_.count());
    if (!(all & bit(i))) continue;
    const Policy& p = r_.at(i).policy;
    const int64_t chain = is_rejection(r_.at(i)) ? most_chain(i) : 0;
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
    seats_[i].drafted = seats_.will_draft(i);
    if (seats_[i].drafted) {
      drafting |= bit(i);
      seats_[i].sat_out = false;
    }
    seats_[i].sequence.stats().rounds_ahead += ahead;
    seats_[i].last_round = round_ + 1;
    seats_[i].trees = trees_after(r_.at(i).policy, seats_[i].trees);
    seats_[i].chain_nodes = most_nodes(r_.at(i).policy);
  });
  price_lanes(how);  // virtual time allows only one round in flight, so the costs may change here
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

// Calls Resources::sit_out() if the seat's policy lets the draft sit out. All rounds must have
// ended. So this happens as soon as the policy changes: the seat may skip the next round, and its
// first round with the new policy may run ahead.
void Pump::sit_out_if_idle(int i) {
  if (seats_.will_draft(i) || seats_[i].sat_out) return;
  r_.sit_out(i);
  seats_[i].sat_out = true;
}

// Waits for the oldest round in flight and takes its tokens. ahead: that round was in flight before
// this iteration of the loop. Returns false if the time limit comes first.
bool Pump::read_round(int64_t until, bool ahead) {
  const bool waits = fences_.verify_done.reached() <= committed_round_;
  if (!patience_.reach(fences_.verify_done, committed_round_ + 1, until)) return false;
  r_.exec->rethrow();
  seen_[(committed_round_ + 1) % 2] = waits ? now() : 0;
  if (r_.config.costs) r_.exec->spend(overhead_);
  const int64_t round = ++committed_round_;
  prompts_.see();
  Brought brought = time_of(round, ahead);
  brought.rows = 0;
  const SeatSet members = r_.target.roll->word[round % kRecords];
  // Tells the order checker that the host reads the record. This is left out while another round is
  // in flight: that round writes a different record, but the checker would report a conflict.
  if (!has_round_in_flight()) r_.exec->note("read_record", {parts(Part::record), {}}, members);
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

// Takes the tokens of a seat from a round's record. Returns false if the tokens do not belong to
// the sequence that is now in the seat, or if the prompt failed.
bool Pump::commit(int i, int64_t round) {
  HostSeat& seat = seats_[i];
  if (!seat.taken || !seat.sequence.live() || round < seat.first_round) return false;
  LogprobStore& logprobs = r_.logprobs[i];
  if (seat.sequence.stats().rounds == 0 && logprobs.prompt_failed()) {
    seat.sequence.fail(kNotANumber);
    return false;
  }
  const int64_t first = seat.sequence.head() + 1;
  const Record& record = r_.records.host()[i].of(round);
  const int64_t count = seat.sequence.commit(record, round);
  r_.take_in(i, record, round);
  if (logprobs.has_output()) logprobs.commit(first, count);
  Stats& stats = seat.sequence.stats();
  stats.decode_ns = now() - seat.begun - stats.prefill_ns;
  return true;
}

// Returns the duration of the round that was just read, for the tuners. If the round was enqueued
// ahead, the host may have been busy elsewhere when the round ended. Then the time of the end comes
// from the lane's clock.
Brought Pump::time_of(int64_t round, bool ahead) const {
  Brought found;
  found.steady = !r_.config.can().can_be_timed;
  const int64_t enqueued = enqueued_[round % 2];
  if (!ahead) {
    found.ns = now() - enqueued;
  } else {
    const int64_t before = ended_at(round - 1), end = ended_at(round);
    if (before == 0 || end == 0) return found;
    found.ns = end - std::max(before, enqueued);
    found.steady = enqueued <= before;
  }
  return found;
}

// Returns the time at which a round ended, or 0 if it is unknown. The events of a device have no
// times. There the time is known only if the host was waiting for the end.
int64_t Pump::ended_at(int64_t round) const {
  const int64_t stamped = fences_.verify_done.reached_at(round);
  return stamped ? stamped : seen_[round % 2];
}

// Returns true if the next round may be enqueued before the last round's record is read. Three
// things must hold: the shape of the next round does not depend on the last outcome, the policies
// stay the same, and so do the graphs. If a sequence then turns out to have ended, its part of the
// next round is not used.
bool Pump::may_run_ahead() {
  if (!r_.config.can().runs_ahead || r_.config.keep_features) return false;
  const SeatSet members = seats_.decoding(), tuned = seats_.tuned_of(members);
  bool may = members != 0;
  for_each(members, [&](int i) { may = may && may_run_ahead(i, is_one(members)); });
  if (r_.count() > 1 && may) may = launches_of(members, 2) == r_.launches;
  if (!may || !tuned || is_one(members)) return may;
  return together_.stays(tuned, __builtin_popcountll(members & ~tuned));
}

bool Pump::may_run_ahead(int i, bool alone) {
  const HostSeat& seat = seats_[i];
  const Policy& p = r_.at(i).policy;
  const int burst = burst_after_miss(p);
  if (burst > 0 && (p.gamma > 0 || !seat.sequence.missed())) return false;
  if (!alone) return true;
  // The policy was set for several sequences, so tune() must set a new one first.
  if (seat.tuner && together_.is_in_force()) return false;
  if (lag_ == DraftLag::none && lag_within(0, 2) != DraftLag::none) return false;
  const int64_t most = std::max({p.gamma, burst, p.on_miss == kLookup ? p.burst : 0}) +
                       (p.lookup ? kMostFound : 0) + 1;
  if (2 * most > seat.sequence.left()) return false;
  return !seat.tuner || seat.tuner->stays(r_.at(i), seat.sequence.head());
}

// Sets the next policy of a sequence that runs alone. Called between rounds, with nothing enqueued.
// Returns false if the time limit comes first.
bool Pump::tune(int i, int64_t until) {
  LaneUnit& draft = r_.draft;
  HostSeat& seat = seats_[i];
  if (!patience_.reach(draft.feed.fed, draft.feed.pieces, until))
    return false;  // prompt pieces of an earlier call are still running
  prompts_.tell_have(bit(i));
  Sequence& c = r_.at(i);
  const int64_t begin = now();
  // If the draft took part in the last round, its `settle` has not run yet. So it cannot process
  // tokens now.
  if (seat.drafts && !seat.drafted && seat.tuner->wants_to_look(c, c.head)) {
    if (!prompts_.catch_draft_up(i, until)) return false;
    seat.tuner->looked(now() - begin);
  }
  r_.exec->note("tune", kTunes, bit(i));
  r_.change_policy(i, [&](Sequence& mine) { seat.tuner->next(mine); });
  return prompts_.prepare_draft(i, until);
}

bool Pump::idle(int64_t until) {
  return r_.exec->reach(r_.target.feed.fed, r_.target.feed.pieces, until) &&
         r_.exec->reach(r_.draft.feed.fed, r_.draft.feed.pieces, until) &&
         r_.exec->reach(fences_.verify_done, round_, until);
}

// In virtual time: sets the costs of the next round's forwards.
void Pump::price_lanes(const RoundShape& how) {
  if (!r_.config.costs) return;
  const LaneCosts& costs = r_.config.costs->of(how.gamma > 0);
  r_.target.cost = costs.target.data();
  r_.draft.cost = costs.draft.data();
  overhead_ = r_.config.costs->overhead(how.burst > 0, how.gamma > 0);
}

// Returns the largest number of nodes that a seat's chain can have in the next round. The seat's
// last round may have planned that chain under another policy.
int32_t Pump::most_chain(int i) const {
  return std::max(seats_[i].chain_nodes, most_nodes(r_.at(i).policy));
}

// Returns which trunk tokens the draft may lack in the next `rounds` rounds. The host knows the
// head of the first of these rounds. The draft sits out rounds whose chain would reach the draft's
// context limit. A serial draft that has sat out once is never fed again.
DraftLag Pump::lag_within(int i, int rounds) const {
  if (seats_[i].tuner) return DraftLag::any;
  if (r_.at(i).policy.gamma == 0) return DraftLag::none;
  const int64_t nodes = most_chain(i);
  const int64_t head = seats_[i].sequence.head() + (rounds - 1) * (nodes + 1);
  return head + nodes < r_.at(i).draft_limit ? DraftLag::none : DraftLag::chain;
}

// Returns the launches that are large enough for the next `rounds` rounds of these seats.
Launches Pump::launches_of(SeatSet members, int rounds) const {
  // On a device the KV of an accepted path does not move.
  Launches found{{0, 0, 0}, {}, !r_.config.can().captures, 0, 0};
  bool is_tuned = false;
  for_each(members, [&](int i) {
    const Policy& p = r_.at(i).policy;
    const RowBounds own = row_bounds(p, most_chain(i), lag_within(i, rounds));
    found.most = r_.count() == 1 ? own
                                 : with_rows_of(found.most, p, own, r_.draft.max_rows,
                                                r_.draft.max_rows / r_.count());
    found.kind.filters |= filters(r_.at(i).sampling);
    found.kind.shapes |= r_.at(i).shaping.active != 0;
    found.moves_kv |= !makes_paths(p) || seats_[i].trees > 0;
    is_tuned |= seats_[i].tuner != nullptr;
    found.branches = std::max(found.branches, p.branches);
    if (is_rejection(r_.at(i))) found.scored = std::max(found.scored, 1 + most_chain(i));
  });
  if (!is_tuned || r_.count() == 1) return found;
  found.most = {kMaxRows, r_.draft.max_rows, r_.draft.max_rows};
  if (found.scored > 0) found.scored = kSlots;
  return found;
}

void Pump::fuse(SeatSet members) {
  if (!r_.config.can().captures) return;
  // The last chain belonged to an earlier request.
  for_each(members, [&](int i) { seats_[i].chain_nodes = 0; });
  pick_launches(members);
  RoundShape shape{};
  int32_t burst = 0;
  for_each(members, [&](int i) {
    shape.gamma = std::max(shape.gamma, r_.at(i).policy.gamma);
    burst = std::max(burst, burst_after_miss(r_.at(i).policy));
    shape.has_logprobs |= r_.logprobs[i].has_output();
  });
  if (burst == 0 || shape.gamma > 0) graphs_.fuse(shape);
  shape.burst = burst;
  if (burst > 0) graphs_.fuse(shape);
}

// Selects the captured graphs for the next round of these seats. No round may be in flight.
void Pump::pick_launches(SeatSet members) {
  lag_ = r_.count() > 1 ? DraftLag::any : lag_within(0, 1);
  r_.launches = launches_of(members, 1);
}

}  // namespace sbrt
