// The graphs of both lanes, made once. On a device, graphs that run one after another in a round
// are fused into one launch.
#pragma once

#include <map>

#include "decode/mails.h"
#include "decode/resources.h"
#include "round/op_args.h"
#include "round/round.h"
#include "round/table.h"

namespace sbrt {

struct LaneOps;  // defined in graphs.cc

class Graphs {
 public:
  // Records and prepares all graphs, with the ops of the lanes.
  explicit Graphs(Resources& resources);
  Graphs(const Graphs&) = delete;

  // Return the launches of the target's or the draft's lane in a round of this shape.
  TargetLane target(const RoundShape& shape) const;
  DraftLane draft(const RoundShape& shape) const;

  const Graph& prefill_dists() const { return prefill_dists_; }
  // Returns the graph of the smallest prompt piece with log-probs.
  const Graph& prefill_logprobs() const { return prefill_logprobs_; }
  const Graph& look() const { return look_; }

  // On a device: fuses the graphs of a round of this shape, for the selected Launches. No round may
  // be in flight. If a stream already has Stream::kMostFused fused graphs, it drops the oldest one.
  void fuse(const RoundShape& shape);
  // Returns true if fuse() would drop no graph. If it would drop one, returns true once in 64
  // calls.
  bool may_fuse();
  int fused() const;  // number of fused graphs that the streams keep

 private:
  void record_target();
  void record_select();
  void put_select(Graph& graph) const;
  void record_logprobs(LaneArgs args, const LaneOps& ops);
  void put_logprobs(Graph& graph, const Seats& seats, const RoundStep<LogprobArgs>& on_host,
                    const RoundStep<LogprobArgs>& on_device, Part clock) const;
  void record_draft();
  void record_looks(const LaneArgs& args, const LaneOps& ops);
  SelectArgs select_args() const;
  LogprobArgs logprob_args(const Seats& seats) const;
  void expect(Lane& lane, const int32_t& rows) const;
  void prepare();
  void prepare(LaneUnit& unit, const Graph& graph) const;
  int verification_at(const RoundShape& shape) const;
  const Graph& verification(const RoundShape& shape);
  const Graph* fused(const std::map<int, Graph>& bursts, int steps) const;

  Resources& r_;
  Mails mails_;          // empty unless each lane has its own memory
  int64_t refused_ = 0;  // number of calls of may_fuse() at which fuse() would have dropped a graph
  const int32_t look_rows_ = kMaxRows;
  Graph settle_target_{"settle"}, verify_{"verify"}, select_{"select"};
  Graph settle_draft_{"settle"}, plan_certain_{"plan_certain"}, attach_burst_{"attach_burst"};
  Graph catch_up_{"catch_up"}, plan_{"plan"}, step_{"step"};
  Graph select_logprobs_{"select"}, prefill_logprobs_{"prefill"};
  // These graphs also store the draft's distributions. look_ runs between rounds.
  Graph prefill_dists_{"prefill"}, look_{"look"};
  std::map<int, Graph> bursts_, serial_bursts_;  // keyed by the number of steps; used on a device
  std::map<int, Graph> verifications_;           // keyed by verification_at(); used on a device
};

}  // namespace sbrt
