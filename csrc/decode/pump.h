// Keeps the lanes busy: it feeds prompts, enqueues rounds and reads their records. No other class
// uses the fences and the numbers of rounds.
#pragma once

#include <cstdint>

#include "decode/graphs.h"
#include "decode/patience.h"
#include "decode/prompts.h"
#include "decode/seat_table.h"
#include "decode/together.h"

namespace sbrt {

class Pump {
 public:
  Pump(Resources& resources, Graphs& graphs);
  Pump(const Pump&) = delete;

  // Waits for work that is still in flight, and ignores the errors of that work.
  void settle_down();
  void start_over();  // does what settle_down() does, and drops all sequences
  // Returns a free seat, or -1 if all are taken. It is the seat that has most of the prompt's KV.
  // Among equal seats it is the one that was used longest ago. The call may wait for a round.
  int free_seat(const std::vector<int32_t>& prompt);
  // Returns how much of a prompt, without its last token, has KV in free seat `i`.
  Kept kept(int i, const std::vector<int32_t>& prompt) const;
  // Returns true if at least one seat is free.
  bool has_free_seat() const;
  // Starts the sequence that the host has just put into seat `i`. tuner: selects the policy; null:
  // the policy never changes.
  void begin(int i, const Request& request, Tuner* tuner);
  // Feeds prompts and runs rounds. Returns when a sequence has ended, `max_rounds` are done (0: any
  // number), Trace::now() has reached `until`, or interrupt() is called.
  void run(int64_t max_rounds, int64_t until);
  void interrupt() { patience_.interrupt(); }  // may be called from any thread

  Prompts& prompts() { return prompts_; }
  // On a device: fuses the graphs for rounds of these seats. Their sequences must be in place.
  // Nothing may be in flight.
  void fuse(SeatSet members);
  // Waits until nothing is in flight. Returns false if the time `until` comes first.
  bool idle(int64_t until);

  HostSeat& seat(int i) { return seats_[i]; }
  const HostSeat& seat(int i) const { return seats_[i]; }
  bool has_round_in_flight() const { return round_ != committed_round_; }
  const Prompts& prompts() const { return prompts_; }

 private:
  bool is_quiet(int i);
  void pick_launches(SeatSet members);
  bool feed(int64_t until);
  bool prepare_round(int64_t until);
  SeatSet members_of_round() const;
  void start_round();
  void sit_out_if_idle(int i);
  bool read_round(int64_t until, bool ahead);
  bool commit(int i, int64_t round);
  Brought time_of(int64_t round, bool ahead) const;
  int64_t ended_at(int64_t round) const;
  bool may_run_ahead();
  bool may_run_ahead(int i, bool alone);
  bool tune(int i, int64_t until);
  void price_lanes(const RoundShape& how);
  int32_t most_chain(int i) const;
  DraftLag lag_within(int i, int rounds) const;
  Launches launches_of(SeatSet members, int rounds) const;
  int64_t now() const { return r_.exec->now(); }

  Resources& r_;
  Graphs& graphs_;
  SeatTable seats_;
  Patience patience_;
  Prompts prompts_;
  Together together_;
  Fences fences_;
  int64_t round_;             // number of the last round that was enqueued
  int64_t fed_round_ = -1;    // value of round_ when the last prompt piece was enqueued
  int64_t committed_round_;   // last round whose record was read
  int64_t admitted_ = 0;      // number of sequences admitted so far
  int64_t enqueued_[2] = {};  // [round % 2] time at which the round was enqueued
  // [round % 2] time at which the host saw the round end; 0: the host was not waiting for it.
  int64_t seen_[2] = {};
  int64_t overhead_ = 0;  // virtual time of the last round without its forwards, in ns
  // The lag of the draft for which the selected graphs are large enough.
  DraftLag lag_ = DraftLag::none;
};

}  // namespace sbrt
