// The engine: two lanes, and the sequences in their seats. A caller admits requests, runs rounds,
// takes the committed tokens and releases the seats.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "decode/graphs.h"
#include "decode/sequence.h"
#include "decode/pump.h"
#include "decode/resources.h"
#include "decode/auto/tuner.h"

namespace sbrt {

class Engine {
 public:
  // `draft` may be null. Throws InvalidInput if the models do not fit the config or each other.
  Engine(std::shared_ptr<const Model> target, std::shared_ptr<const Model> draft,
         const RuntimeConfig& config);
  ~Engine();
  Engine(const Engine&) = delete;

  // On a device: fuses, in advance, the graphs that requests with this policy need. Graphs for
  // requests that shape logits are fused when the first such request comes. Drops all sequences.
  // Throws InvalidInput for an invalid policy.
  void prepare(const Policy& policy);
  // Number of fused graphs that the engine keeps.
  int fused_graphs() const { return graphs_.fused(); }
  // Returns true if a sequence can be admitted.
  bool has_free_seat() const { return pump_.has_free_seat(); }
  // Starts a sequence while others may be in flight. Returns its seat, which stays taken until the
  // caller releases it. Throws InvalidInput for an invalid request, and Error if no seat is free.
  int admit(const Request& request);
  // Drops all sequences, waits for the round in flight, and starts a sequence. Throws InvalidInput
  // for an invalid request.
  void begin(const Request& request);
  // Feeds prompts and runs rounds. Returns when a sequence has ended, `max_rounds` are done,
  // `seconds` have passed (0: no limit) or interrupt() is called. A prefill or a round that takes
  // longer continues after the return. One round may be in flight after the return, and the next
  // call reads its result. If an op throws, all sequences end, and run() throws the op's error.
  void run(int64_t max_rounds, double seconds);
  // Returns the tokens committed since the last take() or admit(). They are valid until the next
  // call.
  const std::vector<int32_t>& take(int seat) { return at(seat).sequence.take(); }
  // Returns the log-probs that the request wants, for the tokens of take() and for the prompt.
  LogprobStore& logprobs(int seat) {
    check_seat(seat);
    return resources_.logprobs[seat];
  }
  int64_t prefilled_tokens(int seat) const {
    check_seat(seat);
    return pump_.prompts().done(seat);
  }
  // Waits until nothing is in flight. Returns false if that takes longer than `seconds` (0: no
  // limit).
  bool idle(double seconds);
  void release(int seat);                  // drops the seat's sequence and frees the seat
  void end();                              // drops all sequences
  void close();                            // drops all sequences and joins every thread
  void interrupt() { pump_.interrupt(); }  // makes run() return soon; may be called from any thread

  int seats() const { return resources_.count(); }
  const HostSequence& sequence(int seat) const {
    check_seat(seat);
    return pump_.seat(seat).sequence;
  }
  void check_usable() const;  // throws Error after close(), and in a fork
  bool is_forked() const;     // true if this process is a fork of the one that made the engine
  // Return the trace of the target's or the draft's lane, or null if there is no such lane.
  const Trace* target_trace() const { return trace_of(resources_.target); }
  const Trace* draft_trace() const { return trace_of(resources_.draft); }
  // keep_trace() starts or stops a trace, and profile() a profile. Both first wait for the round in
  // flight. A device notes times only while a trace is kept.
  void keep_trace(bool is_on);
  void profile(bool is_on);
  // Measures the times of forwards on this machine, alone and overlapped, for about `seconds`.
  // Drops all sequences. temperature: the temperature of the sampling after each forward. Throws
  // InvalidInput in virtual time.
  Costs measure(double seconds, float temperature = 0);
  // Returns the tuner that a seat uses for `auto`. If the seat uses none, returns the engine's
  // first tuner, or null if the engine was not built for `auto`.
  const Tuner* tuner(int seat) const {
    check_seat(seat);
    const Tuner* own = pump_.seat(seat).tuner;
    return own || tuners_.empty() ? own : tuners_[0].get();
  }
  // Returns H-RAD's inputs at the last outcome of a seat, [Hrad::inputs(hidden)]. Throws
  // InvalidInput while a round is in flight, and if the engine does not keep the inputs. On a
  // device the engine keeps them only with RuntimeConfig::keep_features.
  std::vector<float> features(int seat) const;
  // Time in ns, on the clock of traces and stats.
  int64_t now() const { return resources_.exec->now(); }
  const OrderBook* order() const { return resources_.exec->order(); }  // dry backend; else null

 private:
  static const Trace* trace_of(const LaneUnit& u) {
    return u.stream ? &u.stream->trace() : nullptr;
  }
  void start_over();
  void check_admissible(const Request& request) const;
  Tuner* free_tuner() const;
  void check_seat(int seat) const;
  HostSeat& at(int seat) {
    check_seat(seat);
    return pump_.seat(seat);
  }

  int64_t process_;  // id of the process that has the engine's threads; a fork has none
  Resources resources_;
  Graphs graphs_;
  Pump pump_;
  // [seats] one tuner per seat, if the engine was built for `auto`. A tuner keeps its statistics
  // when the sequence changes.
  std::vector<std::unique_ptr<Tuner>> tuners_;
};

}  // namespace sbrt
