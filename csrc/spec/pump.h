// Keeps the lanes at work: feeds the prompt, enqueues rounds, reads their records. Nobody else knows
// fences and round numbers.
#pragma once

#include <atomic>
#include <cstdint>

#include "spec/graphs.h"
#include "spec/host_sequence.h"
#include "spec/resources.h"
#include "spec/round.h"
#include "spec/tuner.h"

namespace sbrt {

class Pump {
 public:
  Pump(Resources& resources, Graphs& graphs, HostSequence& sequence);
  Pump(const Pump&) = delete;

  // Waits for what a sequence left behind, and forgets how it went.
  void settle_down();
  void start_over();  // that, and nothing is left of the sequence
  // The sequence that the host has just put into its seat. `tuner`: if it chooses the policy; else null.
  void begin(Tuner* tuner);
  // Feeds the prompt, then runs rounds until the sequence ends, `max_rounds` are done (0: any number), it is
  // `until` by Trace::now() or interrupt() is called.
  void run(int64_t max_rounds, int64_t until);
  void interrupt() { interrupted_.store(true); }  // from any thread

  // Enqueues the next piece of the prompt. A last one of few rows may keep the draft's laws.
  void feed(LaneUnit& unit, int width, bool keeps_laws);
  // On a device: makes what the rounds of the sequence launch, each one launch. Nothing is in flight.
  void fuse();
  // Whether nothing runs any more, by `until` at the latest.
  bool idle(int64_t until);

  bool has_round_in_flight() const { return round_ != committed_round_; }
  // Of the prompt in flight, what both lanes have behind them; its last token is never fed.
  int64_t prefilled_tokens() const;

 private:
  void bound_rows();
  bool prefilled(int64_t until);
  void run_rounds(int64_t max_rounds, int64_t until);
  bool prepare_round(int64_t until);
  void start_round();
  bool read_round(int64_t until, bool ahead);
  Brought brought(int64_t tokens, bool ahead) const;
  bool may_run_ahead();
  bool tune(int64_t until);
  bool catch_draft_up(int64_t until);
  bool reach(Event& event, int64_t value, int64_t until);
  RoundShape shape() const;
  void price_lanes(const RoundShape& how);
  int32_t most_chain() const;
  DraftLag lag_within(int rounds) const;
  int64_t now() const { return r_.exec->now(); }

  Resources& r_;
  Graphs& graphs_;
  HostSequence& sequence_;
  Tuner* tuner_ = nullptr;  // of a sequence whose policy it chooses
  Fences fences_;
  int64_t round_;                  // last round enqueued
  int64_t committed_round_;        // last round whose record was read
  int64_t begun_ = 0;              // when, now()
  int64_t enqueued_[2] = {};       // when, of the last two rounds by number
  int64_t besides_ = 0;            // ns of virtual time that the last round costs besides forwards
  int32_t chain_nodes_ = 0;        // most nodes of the chain that the last round left
  DraftLag lag_ = DraftLag::none;  // what the bounds in force allow for
  bool prefilling_ = false;
  bool drafts_ = false;   // the draft is prefilled too
  bool drafted_ = false;  // the draft takes part in the last round enqueued
  std::atomic<bool> interrupted_{false};
};

}  // namespace sbrt
