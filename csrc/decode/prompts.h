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
  void feed_piece(LaneUnit& unit, int seat, int width, bool keeps_laws);
  // Tokens of its prompt that were enqueued.
  int64_t fed(const LaneUnit& unit, int seat) const { return fed_of(unit, seat).tokens; }
  // Notes when prompts were through.
  void see();
  // The draft reads what it has missed of the trunk, and leaves its laws' ranks. False if the time is
  // over first. Nothing is in flight.
  bool catch_draft_up(int seat, int64_t until);
  // Of the prompt of a seat, what both lanes have behind them; its last token is never fed.
  int64_t done(int seat) const;

 private:
  bool lacks(const LaneUnit& unit, int seat) const;
  int next_to_feed() const;
  bool feed_alone(int seat, int64_t until);
  void feed_beside(int seat);
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
