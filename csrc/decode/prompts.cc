#include "decode/prompts.h"

#include <algorithm>

#include "exec/nvtx.h"
#include "state/parts.h"

namespace sbrt {
namespace {

constexpr int64_t kWorthCopying = 8;  // fewer positions are not worth a copy of their KV

}  // namespace

bool Prompts::lacks(const LaneUnit& unit, int i) const {
  if (&unit == &r_.draft && !seats_[i].feeds_draft) return false;
  return fed(unit, i) < r_.at(i).head;
}

int64_t Prompts::lacking(int i) const {
  const int64_t all = r_.at(i).head;
  return std::max(all - fed(r_.target, i), seats_[i].feeds_draft ? all - fed(r_.draft, i) : 0);
}

void Prompts::feed_piece(LaneUnit& unit, int i, int width, bool keeps_dists) {
  const int64_t all = r_.at(i).head, from = fed(unit, i);
  const size_t at = has_logprobs(unit, bit(i)) ? 0 : unit.feed.next(from, all);
  const int64_t end = std::min(all, from + unit.feed.rows[at]);
  fed_of(unit, i).took(unit.feed.pieces + 1, end);
  const bool keeps = keeps_dists && end == all && at == 0;
  launch(unit, bit(i), graph_of(unit, bit(i), at, keeps), width);
}

bool Prompts::has_logprobs(const LaneUnit& unit, SeatSet seats) const {
  bool any = false;
  for_each(seats, [&](int i) { any |= r_.logprobs[i].has_prompt(); });
  return any && &unit == &r_.target;
}

const Graph& Prompts::graph_of(const LaneUnit& unit, SeatSet seats, size_t at,
                               bool keeps_dists) const {
  if (has_logprobs(unit, seats)) return graphs_.prefill_logprobs();
  return keeps_dists ? graphs_.prefill_dists() : unit.feed.graphs[at];
}

// Enqueues one prompt piece for these seats, as a launch of `graph`.
void Prompts::launch(LaneUnit& unit, SeatSet seats, const Graph& graph, int width) {
  Feed& feed = unit.feed;
  unit.fed_roll->word[++feed.pieces % kRecords] = seats;
  unit.stream->launch(graph, width, seats);
  unit.stream->record(feed.fed, feed.pieces);
}

// Enqueues the next piece of these seats. For several seats the piece feeds all the tokens that
// their prompts lack. These tokens must fit into each seat's share of the rows.
void Prompts::feed_piece(LaneUnit& unit, SeatSet seats, int width) {
  if (is_one(seats)) {
    const int i = __builtin_ctzll(seats);
    if (lacks(unit, i)) feed_piece(unit, i, width, keeps_dists(unit, seats));
    return;
  }
  SeatSet fed = 0;
  for_each(seats, [&](int i) {
    if (!lacks(unit, i)) return;
    fed |= bit(i);
    fed_of(unit, i).took(unit.feed.pieces + 1, r_.at(i).head);
  });
  if (!fed) return;
  launch(unit, fed, graph_of(unit, fed, 0, keeps_dists(unit, fed)), width);
}

// Returns the waiting seat whose request came first. More waiting seats join, in order of their
// requests, as long as one piece holds all tokens that their prompts lack.
SeatSet Prompts::next_to_feed() const {
  const SeatSet waiting = seats_.live() & ~seats_.decoding();
  SeatSet found = 0;
  int64_t longest = 0;
  for (;;) {
    int next = -1;
    for_each(waiting & ~found, [&](int i) {
      if (next < 0 || seats_[i].order < seats_[next].order) next = i;
    });
    if (next < 0) return found;
    longest = std::max(longest, lacking(next));
    if (found && longest > r_.config.max_piece / (__builtin_popcountll(found) + 1)) return found;
    found |= bit(next);
  }
}

// If another seat has the KV of the beginning of this prompt, copies that KV. Copies only before
// the prompt's first piece.
void Prompts::copy_prefix(int i) {
  if (!r_.config.reuses_prefixes || seats_[i].fed[0].last_piece() || seats_[i].fed[1].last_piece())
    return;
  if (seats_[i].fed[0].copy || seats_[i].fed[1].copy) return;
  // Log-probs of a prompt need a forward of the whole prompt.
  if (r_.logprobs[i].has_prompt()) return;
  int from = -1;
  Kept most;
  for_each(seats_.live() & ~bit(i), [&](int other) {
    const Kept kept = seats_.kept_prompt(other);
    const int64_t same = r_.same_tokens(i, r_.trunk(other), std::min(kept.target, r_.at(i).head));
    if (same <= most.target) return;
    from = other;
    most = {same, std::min(same, kept.draft)};
  });
  if (most.target < fed(r_.target, i) + kWorthCopying) return;
  Sequence& c = r_.at(i);
  int64_t copies[2] = {copy(r_.target, from, i, {fed(r_.target, i), most.target}), 0};
  c.target_have = std::max(c.target_have, most.target);
  if (seats_[i].drafts) {
    copies[1] = copy(r_.draft, from, i, {fed(r_.draft, i), most.draft});
    c.draft_have = std::max(c.draft_have, most.draft);
  }
  r_.send_have(i);
  start(i);
  for (const int lane : {0, 1}) seats_[i].fed[lane].copy = copies[lane];
}

// Copies the KV of `positions` from one seat to another. If only the lane's own ops can access the
// KV, the lane's stream makes the copy, before it feeds the next piece of either seat.
int64_t Prompts::copy(LaneUnit& unit, int from, int to, Interval positions) {
  if (positions.end <= positions.begin) return 0;
  const Parts kv = parts(&unit == &r_.target ? Part::target_prompt_kv : Part::draft_prompt_kv);
  const RingShape& shape = unit.lane->ring_shape();
  if (KvRing* ring = unit.lane->ring()) {
    r_.exec->note("copy_prefix", {kv, {}}, bit(from));
    r_.exec->note("copy_prefix", {{}, kv}, bit(to));
    for (int64_t p = positions.begin; p < positions.end; ++p)
      ring->move(shape.slot(from, p), shape.slot(to, p));
    return 0;
  }
  const KvBlock block = unit.lane->kv();
  const auto at = [&](int seat) {
    return block.at + shape.slot(seat, positions.begin) * block.slot_bytes;
  };
  Feed& feed = unit.feed;
  const int place = unit.memory->place;
  const size_t bytes = (positions.end - positions.begin) * block.slot_bytes;
  feed.copies[to] = {
      "copy_prefix", place, place, kv, {{at(from), at(to), bytes, -1, block.rows, block.pitch}}};
  unit.stream->send(feed.copies[to], bit(from) | bit(to));
  unit.stream->record(feed.copied, ++feed.sent);
  return feed.sent;
}

void Prompts::start(int i) {
  HostSeat& seat = seats_[i];
  const Sequence& c = r_.at(i);
  seat.fed[0] = Fed{c.target_have};
  seat.fed[1] = Fed{std::min(c.draft_have, c.head)};
  seat.sequence.stats().reused = c.target_have;
}

bool Prompts::feed(int64_t until) {
  SeatSet seats = next_to_feed();
  if (!seats) return true;
  for_each(seats, [&](int i) { copy_prefix(i); });
  if (seats_.decoding() == 0) return feed_alone(seats, until);
  feed_beside(seats);
  return true;
}

// Feeds a prompt, or several short ones, to the end. Returns false if the time limit comes first.
// Each lane has at most two pieces in flight. So no lane is idle, and few pieces still run after
// the time limit.
bool Prompts::feed_alone(SeatSet seats, int64_t until) {
  LaneUnit &target = r_.target, &draft = r_.draft;
  const NvtxRange range(r_.config.nvtx, "prefill");
  const RoundShape width = seats_.shape(seats);
  for (;;) {
    const bool drafts = lack(draft, seats), targets = lack(target, seats);
    if (!reach(target.feed.fed, target.feed.pieces - targets, until) ||
        !reach(draft.feed.fed, draft.feed.pieces - drafts, until))
      return false;
    if (!drafts && !targets) break;
    if (drafts) feed_piece(draft, seats, width.draft_width);
    if (targets) feed_piece(target, seats, width.target_width);
  }
  r_.exec->rethrow();
  for_each(seats, [&](int i) { end_prompt(i); });
  see();
  return true;
}

// Feeds one piece between two rounds of other sequences. A sequence takes part in rounds as soon as
// all pieces of its prompt are enqueued.
void Prompts::feed_beside(SeatSet seats) {
  const RoundShape width = seats_.shape(seats_.decoding() | seats);
  const auto has_room = [](const Feed& feed) { return feed.pieces - feed.fed.reached() < 2; };
  if (r_.has_draft() && has_room(r_.draft.feed)) feed_piece(r_.draft, seats, width.draft_width);
  if (has_room(r_.target.feed)) feed_piece(r_.target, seats, width.target_width);
  for_each(seats, [&](int i) {
    if (lacking(i) == 0) end_prompt(i);
  });
}

// Ends the prefill of seat `i`. Called when all pieces of its prompt are enqueued.
void Prompts::end_prompt(int i) {
  seats_[i].prefilling = false;
  if (seats_[i].feeds_draft) r_.took_draft_to(i, r_.at(i).head);
}

bool Prompts::lack(const LaneUnit& unit, SeatSet seats) const {
  bool any = false;
  for_each(seats, [&](int i) { any |= lacks(unit, i); });
  return any;
}

bool Prompts::has_fed(int i) const {
  const auto has = [this, i](LaneUnit& unit) {
    const Fed& fed = fed_of(unit, i);
    return r_.exec->has_reached(unit.feed.fed, fed.last_piece()) &&
           r_.exec->has_reached(unit.feed.copied, fed.copy);
  };
  return has(r_.target) && has(r_.draft);
}

void Prompts::wait_fed(int i) {
  for (LaneUnit* unit : {&r_.target, &r_.draft}) {
    const Fed& fed = fed_of(*unit, i);
    r_.exec->reach(unit->feed.fed, fed.last_piece(), Exec::kForever);
    r_.exec->reach(unit->feed.copied, fed.copy, Exec::kForever);
  }
}

void Prompts::see() {
  for_each(seats_.decoding(), [&](int i) {
    HostSeat& seat = seats_[i];
    if (seat.is_timed || !has_fed(i)) return;
    seat.is_timed = true;
    seat.sequence.stats().prefill_ns = now() - seat.begun;
  });
}

void Prompts::tell_have(SeatSet seats) {
  for_each(seats, [&](int i) {
    HostSeat& seat = seats_[i];
    if (!seat.drafted && (!seat.sat_out || seat.catches_up)) r_.tell_have(i);
    seat.catches_up = false;
  });
}

bool Prompts::catch_draft_up(int i, int64_t until) {
  LaneUnit& draft = r_.draft;
  r_.tell_trunk(i);
  if (r_.config.costs) draft.cost = r_.config.costs->alone.draft.data();
  while (r_.at(i).draft_have < r_.at(i).head) {
    launch(draft, bit(i), graphs_.look(), draft.width);
    seats_[i].catches_up = true;
    r_.took_draft_to(i, r_.at(i).draft_have + kMaxRows);
    if (!reach(draft.feed.fed, draft.feed.pieces, until)) return false;
    r_.exec->rethrow();  // after an error the draft does not advance
    r_.tell_have(i);
    seats_[i].catches_up = false;
  }
  return true;
}

bool Prompts::prepare_draft(int i, int64_t until) {
  constexpr int64_t kRidesAlong = 8;
  const Sequence& c = r_.at(i);
  if (kind_of(c.policy) < ArmKind::serial || seats_[i].drafted) return true;
  // Nothing is in flight now. The seat's first round with the draft may run ahead, and then the
  // host cannot copy.
  r_.tell_trunk(i);
  return c.head - c.draft_have <= kRidesAlong || catch_draft_up(i, until);
}

int64_t Prompts::done(int i) const {
  const HostSeat& seat = seats_[i];
  if (!seat.prefilling) return std::max<int64_t>(0, seat.sequence.prompt() - 1);
  const int64_t target = seat.fed[0].done(r_.target.feed.fed.reached());
  return seat.feeds_draft ? std::min(target, seat.fed[1].done(r_.draft.feed.fed.reached()))
                          : target;
}

}  // namespace sbrt
