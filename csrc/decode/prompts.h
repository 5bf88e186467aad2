// Feeds prompts to the lanes: all of one where nobody decodes, else a piece between two rounds.
#pragma once

#include <cstdint>

#include "decode/graphs.h"
#include "decode/patience.h"
#include "decode/seat_table.h"

namespace sbrt {

class Prompts {
 public:
  Prompts(Resources& resources, Graphs& graphs, SeatTable& seats, Patience& patience)
      : r_(resources), graphs_(graphs), seats_(seats), patience_(patience) {}

  // Feeds what is there to be fed. False if the time is over first. One sequence at least decodes after
  // it, if any lives.
  bool feed(int64_t until);
  // Enqueues the next piece of a seat's prompt. A last one of few rows may keep the draft's laws.
  void feed_piece(LaneUnit& unit, int i, int width, bool keeps_laws);
  // Tokens of its prompt that were enqueued.
  int64_t fed(const LaneUnit& unit, int seat) const { return fed_of(unit, seat).tokens; }
  // Begins with what the seat's lanes have of its prompt.
  void start(int i);
  // Notes when prompts were through.
  void see();
  // Returns true if all enqueued pieces of a seat have ended.
  bool has_fed(int i) const;
  // The draft reads what it has missed of the trunk, and leaves its laws' ranks. False if the time is
  // over first. Nothing is in flight.
  bool catch_draft_up(int i, int64_t until);
  // Does the same for a policy that drafts, if the draft lacks more than a burst can take along.
  bool prepare_draft(int i, int64_t until);
  // Of the prompt of a seat, what both lanes have behind them; its last token is never fed.
  int64_t done(int i) const;

 private:
  bool lacks(const LaneUnit& unit, int i) const;
  bool lack(const LaneUnit& unit, SeatSet seats) const;
  int64_t lacking(int i) const;
  void feed_piece(LaneUnit& unit, SeatSet seats, int width);
  void launch(LaneUnit& unit, SeatSet seats, const Graph& graph, int width);
  // Returns the graph of a piece: graph `at` of the feed, unless log-probs or distributions are
  // needed.
  const Graph& graph_of(const LaneUnit& unit, SeatSet seats, size_t at, bool keeps_laws) const;
  bool has_logprobs(const LaneUnit& unit, SeatSet seats) const;
  // Whether somebody wants to know the draft's laws.
  bool keeps_laws(const LaneUnit& unit, SeatSet seats) const {
    return &unit == &r_.draft && seats_.tuned_of(seats) != 0;
  }
  SeatSet next_to_feed() const;
  void copy_prefix(int i);
  void copy(LaneUnit& unit, int from, int to, int64_t positions);
  bool feed_alone(SeatSet seats, int64_t until);
  void feed_beside(SeatSet seats);
  bool reach(Event& event, int64_t value, int64_t until) {
    return patience_.reach(event, value, until);
  }
  int64_t now() const { return r_.exec->now(); }
  Fed& fed_of(const LaneUnit& unit, int seat) { return seats_[seat].fed[&unit == &r_.draft]; }
  const Fed& fed_of(const LaneUnit& unit, int seat) const {
    return seats_[seat].fed[&unit == &r_.draft];
  }

  Resources& r_;
  Graphs& graphs_;
  SeatTable& seats_;
  Patience& patience_;
};

}  // namespace sbrt
