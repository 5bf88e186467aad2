#include "decode/prompts.h"

#include <algorithm>

#include "exec/nvtx.h"

namespace sbrt {

bool Prompts::lacks(const LaneUnit& unit, int i) const {
  if (&unit == &r_.draft && !seats_[i].drafts) return false;
  return fed(unit, i) < r_.at(i).head;
}

void Prompts::feed_piece(LaneUnit& unit, int i, int width, bool keeps_laws) {
  const int64_t all = r_.at(i).head, from = fed(unit, i);
  Feed& feed = unit.feed;
  const size_t at = feed.next(from, all);
  const int64_t end = std::min(all, from + feed.rows[at]);
  const bool keeps = keeps_laws && end == all && at == 0;
  unit.fed_roll->word[++feed.pieces % kRecords] = bit(i);
  unit.stream->launch(keeps ? graphs_.prefill_laws() : feed.graphs[at], width);
  fed_of(unit, i).took(feed.pieces, end);
  unit.stream->record(feed.fed, feed.pieces);
}

// The seat whose prompt came first, -1 if all prompts are in.
int Prompts::next_to_feed() const {
  int found = -1;
  for_each(seats_.live() & ~seats_.decoding(), [&](int i) {
    if (found < 0 || seats_[i].order < seats_[found].order) found = i;
  });
  return found;
}

bool Prompts::feed(int64_t until) {
  const int i = next_to_feed();
  if (i < 0) return true;
  if (seats_.decoding() == 0) return feed_alone(i, until);
  feed_beside(i);
  return true;
}

// All of a prompt. Two pieces of a lane are in flight, so that none is ever idle and no caller waits for
// more than that.
bool Prompts::feed_alone(int i, int64_t until) {
  HostSeat& seat = seats_[i];
  LaneUnit &target = r_.target, &draft = r_.draft;
  const NvtxRange range(r_.config.nvtx, "prefill");
  const RoundShape width = seats_.shape(bit(i));
  for (;;) {
    const bool drafts = lacks(draft, i), targets = lacks(target, i);
    if (!reach(target.feed.fed, target.feed.pieces - targets, until) ||
        !reach(draft.feed.fed, draft.feed.pieces - drafts, until))
      return false;
    if (!drafts && !targets) break;
    if (drafts) feed_piece(draft, i, width.draft_width, seat.tuner != nullptr);
    if (targets) feed_piece(target, i, width.target_width, false);
  }
  r_.exec->rethrow();
  seat.prefilling = false;
  see();
  return true;
}

// A piece of it, between two rounds of others. It decodes as soon as all pieces are enqueued.
void Prompts::feed_beside(int i) {
  const RoundShape width = seats_.shape(seats_.decoding() | bit(i));
  const auto has_room = [](const Feed& feed) { return feed.pieces - feed.fed.reached() < 2; };
  if (lacks(r_.draft, i) && has_room(r_.draft.feed))
    feed_piece(r_.draft, i, width.draft_width, seats_[i].tuner != nullptr);
  if (lacks(r_.target, i) && has_room(r_.target.feed))
    feed_piece(r_.target, i, width.target_width, false);
  seats_[i].prefilling = lacks(r_.target, i) || lacks(r_.draft, i);
}

void Prompts::see() {
  const int64_t target = r_.target.feed.fed.reached(), draft = r_.draft.feed.fed.reached();
  for_each(seats_.decoding(), [&](int i) {
    HostSeat& seat = seats_[i];
    if (seat.is_timed || seat.fed[0].last_piece() > target || seat.fed[1].last_piece() > draft)
      return;
    seat.is_timed = true;
    seat.sequence.stats().prefill_ns = now() - seat.begun;
  });
}

bool Prompts::catch_draft_up(int i, int64_t until) {
  LaneUnit& draft = r_.draft;
  Feed& feed = draft.feed;
  if (r_.config.costs) draft.cost = r_.config.costs->alone.draft.data();
  while (r_.at(i).draft_have < r_.at(i).head) {
    draft.fed_roll->word[++feed.pieces % kRecords] = bit(i);
    draft.stream->launch(graphs_.look(), draft.width);
    draft.stream->record(feed.fed, feed.pieces);
    if (!reach(feed.fed, feed.pieces, until)) return false;
  }
  r_.exec->rethrow();
  return true;
}

int64_t Prompts::done(int i) const {
  const HostSeat& seat = seats_[i];
  if (!seat.prefilling) return std::max<int64_t>(0, seat.sequence.prompt() - 1);
  const int64_t target = seat.fed[0].done(r_.target.feed.fed.reached());
  return seat.drafts ? std::min(target, seat.fed[1].done(r_.draft.feed.fed.reached())) : target;
}

}  // namespace sbrt
