// Two lanes, their graphs, and one sequence at a time: begin, run, read what was committed.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/lane.h"
#include "ops/choose.h"
#include "spec/accept.h"
#include "spec/costs.h"
#include "spec/feed.h"
#include "spec/hrad.h"
#include "spec/hrad_memory.h"
#include "spec/request.h"
#include "spec/round.h"
#include "spec/round_log.h"
#include "spec/row_bounds.h"
#include "spec/stats.h"
#include "spec/tuner.h"
#include "state/record.h"

namespace sbrt {

// What runs the ops. `dry` is sim with a book of all that was enqueued; `dry_cuda` is that, standing in
// for cuda.
enum class Body { cpu, sim, dry, dry_cuda, cuda };

struct RuntimeConfig {
  int64_t max_model_len = 0;  // longest trunk, tokens
  int32_t vocab = 0;  // the target's logits are cut to this, 0: to none; a draft may have fewer
  std::vector<int32_t> holes;  // ids below vocab that no token has: masked in every row
  int32_t num_threads = 1;     // in total
  int32_t draft_threads = 1;   // of them the draft's while the lanes overlap
  int32_t max_gamma = 4;
  int32_t max_branches = 8;
  int32_t max_width = 1;    // nodes that a branch grows in a step
  int64_t first_round = 1;  // counters are 64-bit: tests start them high
  Body body = Body::cpu;
  int32_t device = 0;                  // of the cuda body
  bool draft_first = true;             // on a device: the draft's stream is the more urgent one
  bool nvtx = false;                   // ranges of rounds, graphs and prefill, for profilers
  bool debug = false;                  // poison what must not be read, check every slot's position
  std::shared_ptr<const Costs> costs;  // virtual time: of the sim body only
  std::vector<Policy> tuned;           // what `auto` may choose from, plain decoding the first
  std::shared_ptr<const Hrad> hrad;    // of policies that ask for it
  bool keep_features = false;          // for features(); implied by hrad
  bool rejection = false;              // room for policies of that rule
};

constexpr size_t kLoggedRounds = 4096;
constexpr int kSeats = 1;  // sequences at once
constexpr int kFed = 0;    // the seat that prompts are fed to

enum class Finish { none, stop, length, error };

// One model bound to one stream, one KV ring and its graphs.
struct LaneUnit {
  std::unique_ptr<Lane> lane;
  std::vector<ChooseScratch> scratch;
  std::unique_ptr<Stream> stream;
  Batch* batch = nullptr;                // the host's copy
  const Block* scratch_block = nullptr;  // where it lies, at the beginning
  Graph timed_forward{"timed_forward"};  // of any rows, with its choice
  int width = 1;                         // members of the team when the lane runs alone
  int32_t max_rows = 0;                  // of its largest forward
  int32_t timed_rows = 0;                // of timed_forward
  RowBounds most{};                      // of the round's forwards: Expected
  const int64_t* cost = nullptr;  // of its forwards by rows, in virtual time: the table in force
  Event prefilled{"prefilled"};
  int64_t pieces = 0;  // of prompts, enqueued so far; `prefilled` counts those done
  Feed feed;
  Event timed{"timed"};
};

class Runtime {
 public:
  // `draft` may be null. Throws InvalidInput for sizes that cannot be.
  Runtime(std::shared_ptr<const Model> target, std::shared_ptr<const Model> draft,
          const RuntimeConfig& config);
  ~Runtime();
  Runtime(const Runtime&) = delete;

  // Makes beforehand what requests of such a policy launch on a device; what a request shapes waits for
  // the first that does. Drops the sequence in flight. Throws InvalidInput.
  void prepare(const Policy& policy);
  int fused_graphs() const;  // made so far, as far as they are kept
  // Starts a sequence, and drops the one in flight: waits for its last round. Throws InvalidInput.
  void begin(const Request& request);
  // Prefills both lanes, then runs rounds until the sequence ends, `max_rounds` are done, `seconds`
  // have passed (0: no limit) or interrupt() is called. If prefill or round take longer than that, they
  // go on by themselves. The round after the last one that was read may be in flight when this
  // returns; the next call reads it.
  void run(int64_t max_rounds, double seconds);
  // The tokens committed since the last take() or begin(); valid until the next.
  const std::vector<int32_t>& take();
  // Of the prompt in flight, what both lanes have behind them; its last token is never fed.
  int64_t prefilled_tokens() const;
  // Whether nothing runs any more, after at most `seconds` (0: no limit).
  bool idle(double seconds);
  void end();    // drops the sequence in flight
  void close();  // drops it and joins every thread; nothing runs any more
  void interrupt() { interrupted_.store(true); }  // from any thread: run() returns soon

  Finish finish() const { return finish_; }
  bool live() const { return live_; }
  void check_usable() const;                          // throws Error once closed, and in a fork
  bool is_forked() const;                             // this process is a fork of the runtime's
  int32_t stop_token() const { return stop_token_; }  // -1 unless finish() is stop
  const std::string& error() const { return error_; }
  const Stats& stats() const { return stats_; }
  std::vector<RoundEntry> rounds() const { return log_.entries(); }
  // Null without such a lane.
  const Trace* target_trace() const { return trace_of(target_); }
  const Trace* draft_trace() const { return trace_of(draft_); }
  // Of a device, which keeps no times unless told to; waits for the last round. Exec's names.
  void keep_trace(bool is_on);
  void profile(bool is_on);
  const RuntimeConfig& config() const { return config_; }
  // What forwards take on this machine, alone and beside the other lane, for about `seconds`; drops
  // the sequence in flight. temperature: of the choice that ends a forward. Throws InvalidInput in
  // virtual time.
  Costs measure(double seconds, float temperature = 0);
  // What `auto` knows of its policies; null if the engine was not built for it.
  const Tuner* tuner() const { return tuner_.get(); }
  // What H-RAD reads, of the last outcome: [Hrad::inputs(hidden)]. Throws InvalidInput if they are not
  // kept, as H-RAD by itself does not on a device, and while a round is in flight.
  std::vector<float> features() const;
  int64_t now() const { return exec_->now(); }               // ns of the clock of traces and stats
  const OrderBook* order() const { return exec_->order(); }  // of the dry body; else null
  bool in_virtual_order() const { return config_.body == Body::sim || config_.body == Body::dry; }

 private:
  static const Trace* trace_of(const LaneUnit& u) {
    return u.stream ? &u.stream->trace() : nullptr;
  }
  Seats seats(int only = -1) const;
  void make_features();
  void make_scores();
  void record_graphs();
  void record_draft(const SelectArgs& chosen);
  void expect(Lane& lane, const int32_t& rows) const;
  void prepare_graphs();
  bool settles() const;
  Graph& verification(bool after_burst);
  void fuse_verification(bool after_burst);
  void fuse_rounds();
  const Graph* fused(const std::map<int, Graph>& bursts, int steps) const;
  void make_memory();
  void make_streams();
  void send_sequence();
  void warm_up();
  void choose_width(LaneUnit& unit);
  void set_rows(LaneUnit& unit, int n, int64_t head);
  Request short_request(float temperature) const;
  void make_trunk(float temperature);
  double seconds_of(LaneUnit& unit, int width, int forwards);
  std::vector<double> time_alone(LaneUnit& unit, const std::vector<int>& rows, double seconds);
  double time_beside(LaneUnit& timed, int rows, int width, LaneUnit& other, int other_rows,
                     int other_width);
  void measure_forwards(Costs& costs, bool drafts, double seconds);
  static int64_t forwards_of(const std::vector<RoundEntry>& rounds, const Policy& policy,
                             const Costs& costs);
  double besides(const Policy& policy, const Costs& costs, float temperature);
  void measure_rounds(Costs& costs, bool drafts, float temperature);
  bool tune(int64_t until);
  bool catch_draft_up(int64_t until);
  void check_request(const Request& request) const;
  void check_policy(const Policy& policy) const;
  void start_sequence(const Request& request);
  void price_lanes(const RoundShape& how);
  int32_t most_chain() const;
  DraftLag lag_within(int rounds) const;
  void bound_rows();
  bool prefilled(int64_t until);
  void feed(LaneUnit& unit, int width, bool keeps_laws);
  std::optional<DraftLane> draft_lane();
  void run_rounds(int64_t max_rounds, int64_t until);
  void start_round(TargetLane& target, std::optional<DraftLane>& draft);
  bool read_round(int64_t until, bool ahead);
  Brought brought(int64_t tokens, bool ahead) const;
  bool may_run_ahead();
  bool reach(Event& event, int64_t value, int64_t until);
  void settle_down();
  void start_over();
  void commit(int64_t round);
  void count(const Record& record, int64_t round, int64_t tokens, bool ended);
  bool examine(int32_t token);
  RoundShape shape() const;

  RuntimeConfig config_;
  int64_t process_;  // threads do not survive a fork
  std::shared_ptr<const Model> models_[2];
  std::unique_ptr<Exec> exec_;
  Cells<Sequence> seats_;
  Cells<Roll> roll_;
  Cells<int64_t> ended_;  // Seats::ended
  Cells<TargetScratch> target_scratch_;
  Cells<DraftScratch> draft_scratch_;
  Cells<Records> records_;
  Cells<int32_t> trunk_;
  Buffer<float> features_, hrad_scratch_;  // of the host; a device has
  HradMemory hrad_memory_;
  ShapingStore shaping_;
  AcceptMemory accept_;
  Sequence* sequence_ = nullptr;  // the host's copy; on the cpu there is one only
  const int32_t look_rows_ = kMaxRows;
  LaneUnit target_, draft_;
  Graph settle_target_{"settle"}, verify_{"verify"}, select_{"select"};
  Graph settle_draft_{"settle"}, plan_certain_{"plan_certain"}, hang_burst_{"hang_burst"};
  Graph catch_up_{"catch_up"}, plan_{"plan"}, step_{"step"};
  Graph prefill_laws_{"prefill"}, look_{"look"};  // look_rows_ with laws; the latter between rounds
  std::map<int, Graph> bursts_, serial_bursts_;   // by steps: all of one, for a device
  Graph verifications_[4] = {Graph("verify"), Graph("verify"), Graph("verify"), Graph("verify")};
  std::unique_ptr<Tuner> tuner_;
  Cells<uint8_t> ranks_;
  Fences fences_;

  // The sequence in flight.
  int64_t round_ = 0;              // last round enqueued
  int64_t committed_round_ = 0;    // last round whose record was read
  int64_t begun_ = 0;              // when, now()
  int64_t enqueued_[2] = {};       // when, of the last two rounds by number
  int64_t besides_ = 0;            // ns of virtual time that the last round costs besides forwards
  int64_t prompt_ = 0;             // tokens of the prompt
  int64_t emitted_ = 0;            // tokens returned so far
  int32_t chain_nodes_ = 0;        // most nodes of the chain that the last round left
  DraftLag lag_ = DraftLag::none;  // what the bounds in force allow for
  bool live_ = false;
  bool missed_ = true;  // the outcome before this round was not prepared
  bool prefilling_ = false;
  bool drafts_ = false;   // the draft is prefilled too
  bool tuned_ = false;    // by tuner_
  bool drafted_ = false;  // the draft takes part in the last round enqueued
  std::vector<int32_t> stop_tokens_;
  std::vector<int32_t> committed_, taken_;
  Finish finish_ = Finish::none;
  int32_t stop_token_ = -1;
  std::string error_;
  Stats stats_;
  RoundLog log_{kLoggedRounds};
  std::atomic<bool> interrupted_{false};
};

}  // namespace sbrt
