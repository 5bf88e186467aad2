// Keeps the lanes at work: feeds prompts, enqueues rounds, reads their records. Nobody else knows
// fences and round numbers.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "spec/graphs.h"
#include "spec/host_sequence.h"
#include "spec/resources.h"
#include "spec/round.h"
#include "spec/tuner.h"

namespace sbrt {

// What the host keeps of a seat.
struct HostSeat {
  HostSequence sequence;
  bool taken = false;       // by a request that nobody has released
  bool prefilling = false;  // its prompt is not enqueued yet, or not waited for
  bool is_timed = false;    // prefill_ns says how long that took
  bool drafts = false;      // the draft is fed too
  bool drafted = false;     // the draft takes part in its last round
  Fed fed[2];               // of the target's lane, of the draft's
  int64_t order = 0;        // of its admission
  int64_t first_round = 0;  // that may have it
  int64_t last_round = 0;   // enqueued with it
  int64_t begun = 0;        // when, Exec::now()
  Tuner* tuner = nullptr;   // if it chooses the policy
};

class Pump {
 public:
  Pump(Resources& resources, Graphs& graphs);
  Pump(const Pump&) = delete;

  // Waits for what sequences left behind, and forgets how it went.
  void settle_down();
  void start_over();  // that, and nothing is left of any sequence
  // A seat that nothing in flight has any more, or -1 if all are taken. It may wait for a round.
  int free_seat();
  // Whether free_seat() would not be -1.
  bool has_free_seat() const;
  // The sequence that the host has just put into its seat. `tuner`: if it chooses the policy; else null.
  void begin(int seat, const Request& request, Tuner* tuner);
  // Feeds prompts and runs rounds until a sequence ends, `max_rounds` are done (0: any number), it is
  // `until` by Trace::now() or interrupt() is called.
  void run(int64_t max_rounds, int64_t until);
  void interrupt() { interrupted_.store(true); }  // from any thread

  // Enqueues the next piece of a seat's prompt. A last one of few rows may keep the draft's laws.
  void feed(LaneUnit& unit, int seat, int width, bool keeps_laws);
  // Tokens of its prompt that were enqueued.
  int64_t fed(const LaneUnit& unit, int seat) const { return fed_of(unit, seat).tokens; }
  // On a device: makes what the rounds of the sequence launch, each one launch. Nothing is in flight.
  void fuse();
  // Whether nothing runs any more, by `until` at the latest.
  bool idle(int64_t until);

  HostSeat& seat(int i) { return seats_[i]; }
  const HostSeat& seat(int i) const { return seats_[i]; }
  bool has_round_in_flight() const { return round_ != committed_round_; }
  // Of the prompt of a seat, what both lanes have behind them; its last token is never fed.
  int64_t prefilled_tokens(int seat) const;

 private:
  uint64_t live() const;
  uint64_t decoding() const;
  void bound_rows();
  bool feed_prompts(int64_t until);
  int next_to_feed() const;
  bool lacks(const LaneUnit& unit, int seat) const;
  bool feed_alone(int seat, int64_t until);
  void feed_beside(int seat);
  void see_prefilled();
  bool prepare_round(int64_t until);
  uint64_t members_of_round() const;
  void start_round();
  bool starts_drafting(int seat, const RoundShape& how);
  bool read_round(int64_t until, bool ahead);
  bool commit(int seat, int64_t round);
  Brought time_of(int64_t round, bool ahead) const;
  bool may_run_ahead();
  bool may_run_ahead(int seat, bool alone);
  uint64_t tuned_of(uint64_t members) const;
  bool tune(int seat, int64_t until);
  bool tune_together(uint64_t tuned, int others, int64_t until);
  int best_together(uint64_t tuned) const;
  void look_together(uint64_t tuned, int others);
  bool stay_together(uint64_t tuned, int others);
  bool catch_draft_up(int seat, int64_t until);
  bool reach(Event& event, int64_t value, int64_t until);
  RoundShape shape(uint64_t members) const;
  void price_lanes(const RoundShape& how);
  int32_t most_chain() const;
  DraftLag lag_within(int rounds) const;
  int64_t now() const { return r_.exec->now(); }
  Fed& fed_of(const LaneUnit& unit, int seat) { return seats_[seat].fed[&unit == &r_.draft]; }
  const Fed& fed_of(const LaneUnit& unit, int seat) const {
    return seats_[seat].fed[&unit == &r_.draft];
  }

  Resources& r_;
  Graphs& graphs_;
  std::vector<HostSeat> seats_;
  Fences fences_;
  int64_t round_;                  // last round enqueued
  int64_t committed_round_;        // last round whose record was read
  int64_t admitted_ = 0;           // sequences so far
  int64_t enqueued_[2] = {};       // when, of the last two rounds by number
  int64_t besides_ = 0;            // ns of virtual time that the last round costs besides forwards
  int32_t chain_nodes_ = 0;        // most nodes of the chain that the last round left
  DraftLag lag_ = DraftLag::none;  // what the bounds in force allow for
  struct Together {                // how sequences that share rounds have their policy tuned
    uint64_t seats = 0;            // which
    int others = 0;                // that share the rounds too
    int arm = 0;                   // in force
    int stay = 0;                  // rounds until the next look
  } together_;
  std::atomic<bool> interrupted_{false};
};

}  // namespace sbrt
