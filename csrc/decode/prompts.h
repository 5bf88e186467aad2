// Feeds prompts to the lanes: the whole prompt if no sequence decodes, else a piece between two
// rounds.
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

  // Feeds waiting prompts. Returns false if the time ends first. Otherwise at least one sequence
  // can decode, if any is live.
  bool feed(int64_t until);
  // Enqueues the next piece of a seat's prompt. keeps_dists: if this is the last piece and has few
  // rows, it keeps the draft's distributions.
  void feed_piece(LaneUnit& unit, int i, int width, bool keeps_dists);
  // Number of tokens of a seat's prompt whose pieces are enqueued or done.
  int64_t fed(const LaneUnit& unit, int seat) const { return fed_of(unit, seat).tokens; }
  // Begins a seat's prompt after the part whose KV the lanes have.
  void start(int i);
  // Sets the prefill time of sequences whose prompts are done.
  void see();
  // Returns true if all enqueued pieces of a seat, and copies to it, have ended.
  bool has_fed(int i) const;
  // Waits until they have.
  void wait_fed(int i);
  // Lets the draft read the trunk tokens that it lacks, and store their ranks. Returns false if the
  // time ends first. Nothing may be in flight.
  bool catch_draft_up(int i, int64_t until);
  // Does the same if the seat's policy drafts and the draft lacks more than a burst can read.
  bool prepare_draft(int i, int64_t until);
  // Number of tokens of a seat's prompt that all lanes have processed. The last token is never fed.
  int64_t done(int i) const;

 private:
  bool lacks(const LaneUnit& unit, int i) const;
  bool lack(const LaneUnit& unit, SeatSet seats) const;
  int64_t lacking(int i) const;
  void feed_piece(LaneUnit& unit, SeatSet seats, int width);
  void launch(LaneUnit& unit, SeatSet seats, const Graph& graph, int width);
  // Returns the graph of a piece: graph `at` of the feed, unless log-probs or distributions are
  // needed.
  const Graph& graph_of(const LaneUnit& unit, SeatSet seats, size_t at, bool keeps_dists) const;
  bool has_logprobs(const LaneUnit& unit, SeatSet seats) const;
  // True if `auto` needs the draft's distributions of these seats.
  bool keeps_dists(const LaneUnit& unit, SeatSet seats) const {
    return &unit == &r_.draft && seats_.tuned_of(seats) != 0;
  }
  SeatSet next_to_feed() const;
  void copy_prefix(int i);
  // Copies the KV of the positions from `begin` on, and returns the number of the copy in flight; 0:
  // none is.
  int64_t copy(LaneUnit& unit, int from, int to, Interval positions);
  void end_prompt(int i);
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
