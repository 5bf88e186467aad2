// Keeps the lanes busy: feeds prompts, enqueues rounds, reads their records. Only this class knows
// fences and round numbers.
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

  // Waits for work that sequences left, and drops its errors.
  void settle_down();
  void start_over();  // the same, and drops all state of sequences
  // A seat that is not in use any more, or -1 if all are taken: the one that has most of the
  // prompt, else the one that was left first. It may wait for a round.
  int free_seat(const std::vector<int32_t>& prompt);
  // The part of a prompt that a free seat has, without its last token.
  Kept kept(int i, const std::vector<int32_t>& prompt) const;
  // True if free_seat() would not be -1.
  bool has_free_seat() const;
  // Starts a sequence that the host has just put into its seat. `tuner`: chooses the policy, or
  // null.
  void begin(int i, const Request& request, Tuner* tuner);
  // Feeds prompts and runs rounds until a sequence ends, `max_rounds` are done (0: any number), the
  // time is `until` by Trace::now(), or interrupt() is called.
  void run(int64_t max_rounds, int64_t until);
  void interrupt() { patience_.interrupt(); }  // from any thread

  Prompts& prompts() { return prompts_; }
  // On a device: fuses the graphs of rounds of these seats, which hold their sequences already.
  // Nothing may be in flight.
  void fuse(SeatSet members);
  // True if nothing runs any more, by `until` at the latest.
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
  bool starts_drafting(int i, const RoundShape& how);
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
  int64_t round_;                  // last round enqueued
  int64_t fed_round_ = -1;         // the same when the last piece of a prompt was enqueued
  int64_t committed_round_;        // last round whose record was read
  int64_t admitted_ = 0;           // sequences admitted so far
  int64_t enqueued_[2] = {};       // times of the last two rounds, by number
  int64_t seen_[2] = {};           // when the host saw the last two end, by number; 0: it was away
  int64_t overhead_ = 0;           // ns of virtual time that the last round costs besides forwards
  int32_t chain_nodes_ = 0;        // most nodes of the chain that the last round left
  DraftLag lag_ = DraftLag::none;  // the lag that the launches in force allow
};

}  // namespace sbrt
