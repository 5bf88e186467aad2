// Feeds prompts to the lanes. If no sequence decodes, it feeds the whole prompt. Otherwise it feeds
// one piece between two rounds.
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

  // Feeds waiting prompts. Returns false if the time limit comes first. After it returns true, at
  // least one sequence can decode, unless no sequence is live.
  bool feed(int64_t until);
  // Enqueues the next piece of a seat's prompt. keeps_dists: if this is the last piece of the
  // prompt and has few rows, the piece keeps the draft's distributions.
  void feed_piece(LaneUnit& unit, int i, int width, bool keeps_dists);
  // Returns the number of tokens of a seat's prompt whose pieces are enqueued or done.
  int64_t fed(const LaneUnit& unit, int seat) const { return fed_of(unit, seat).tokens; }
  // Begins a seat's prompt, after the part whose KV the lanes already have.
  void start(int i);
  // Sets Stats::prefill_ns of sequences whose prompts are done.
  void see();
  // Returns true if all enqueued prompt pieces of a seat, and all KV copies to the seat, have
  // ended.
  bool has_fed(int i) const;
  // Waits until they have.
  void wait_fed(int i);
  // With two memories: tells the target how much the draft of these seats has processed, if pieces
  // were fed since it last told. Called between rounds, with none of their pieces in flight. A call
  // of run() may have ended at its time limit while such a piece ran.
  void tell_have(SeatSet seats);
  // Lets the draft process the trunk tokens that it lacks, and store their ranks. Returns false if
  // the time limit comes first. Nothing may be in flight.
  bool catch_draft_up(int i, int64_t until);
  // Does the same as catch_draft_up(), but only if the seat's policy drafts and the draft lacks
  // more tokens than a burst can process.
  bool prepare_draft(int i, int64_t until);
  // Returns the number of tokens of a seat's prompt that all lanes have processed. The prompt's
  // last token is never fed.
  int64_t done(int i) const;

 private:
  bool lacks(const LaneUnit& unit, int i) const;
  bool lack(const LaneUnit& unit, SeatSet seats) const;
  int64_t lacking(int i) const;
  void feed_piece(LaneUnit& unit, SeatSet seats, int width);
  void launch(LaneUnit& unit, SeatSet seats, const Graph& graph, int width);
  // Returns the graph of a piece: number `at` of the lane's feed, or the graph that also computes
  // log-probs or distributions if these are needed.
  const Graph& graph_of(const LaneUnit& unit, SeatSet seats, size_t at, bool keeps_dists) const;
  bool has_logprobs(const LaneUnit& unit, SeatSet seats) const;
  // Returns true if `auto` needs the draft's distributions of these seats.
  bool keeps_dists(const LaneUnit& unit, SeatSet seats) const {
    return &unit == &r_.draft && seats_.tuned_of(seats) != 0;
  }
  SeatSet next_to_feed() const;
  void copy_prefix(int i);
  // Copies the KV of `positions` from one seat to another. Returns the number of the copy if it is
  // in flight, and 0 if nothing is in flight.
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
