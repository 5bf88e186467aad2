// Two lanes and the sequences in their seats: admit, run, take what was committed, release.
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
  // `draft` may be null. Throws InvalidInput for impossible sizes.
  Engine(std::shared_ptr<const Model> target, std::shared_ptr<const Model> draft,
         const RuntimeConfig& config);
  ~Engine();
  Engine(const Engine&) = delete;

  // On a device: makes the launches of requests with such a policy in advance. Launches for
  // requests that shape are made for the first of them. Drops the sequence in flight. Throws
  // InvalidInput.
  void prepare(const Policy& policy);
  int fused_graphs() const { return graphs_.fused(); }  // made so far and still kept
  // True if a sequence can be admitted.
  bool has_free_seat() const { return pump_.has_free_seat(); }
  // Starts a sequence next to those in flight; returns its seat, which is taken until it is
  // released. Throws InvalidInput; Error if no seat is free.
  int admit(const Request& request);
  // Drops everything in flight, then starts a sequence: waits for the last round. Throws
  // InvalidInput.
  void begin(const Request& request);
  // Feeds prompts and runs rounds until a sequence ends, `max_rounds` are done, `seconds` have
  // passed (0: no limit) or interrupt() is called. A prefill or round that takes longer goes on by
  // itself. The round after the last one read may be in flight when this returns; the next call
  // reads it. If an op throws, all sequences end, and this throws, too.
  void run(int64_t max_rounds, double seconds);
  // The tokens committed since the last take() or admit(); valid until the next call.
  const std::vector<int32_t>& take(int seat) { return at(seat).sequence.take(); }
  // Log-probs that the request asked for: of the tokens of take(), and of the prompt.
  LogprobStore& logprobs(int seat) {
    check_seat(seat);
    return resources_.logprobs[seat];
  }
  int64_t prefilled_tokens(int seat) const {
    check_seat(seat);
    return pump_.prompts().done(seat);
  }
  // True if nothing runs any more, after at most `seconds` (0: no limit).
  bool idle(double seconds);
  void release(int seat);                  // drops its sequence and frees the seat
  void end();                              // drops all sequences
  void close();                            // drops them and joins every thread
  void interrupt() { pump_.interrupt(); }  // from any thread: run() returns soon

  int seats() const { return resources_.count(); }
  const HostSequence& sequence(int seat) const {
    check_seat(seat);
    return pump_.seat(seat).sequence;
  }
  void check_usable() const;  // throws Error once closed, and in a fork
  bool is_forked() const;     // this process is a fork of the engine's
  // Null if there is no such lane.
  const Trace* target_trace() const { return trace_of(resources_.target); }
  const Trace* draft_trace() const { return trace_of(resources_.draft); }
  // A device keeps times only while told to. Both wait for the last round, and then call exec.
  void keep_trace(bool is_on);
  void profile(bool is_on);
  // Times of forwards on this machine, alone and overlapped, measured for about `seconds`. Drops
  // the sequence in flight. temperature: for sampling at the end of a forward. Throws InvalidInput
  // in virtual time.
  Costs measure(double seconds, float temperature = 0);
  // The tuner of a seat for `auto`; null if the engine was not built for it.
  const Tuner* tuner(int seat) const {
    check_seat(seat);
    const Tuner* own = pump_.seat(seat).tuner;
    return own || tuners_.empty() ? own : tuners_[0].get();
  }
  // H-RAD's inputs at the last outcome of a seat: [Hrad::inputs(hidden)]. Throws InvalidInput while
  // a round is in flight, and if they are not kept: H-RAD alone does not keep them on a device.
  std::vector<float> features(int seat) const;
  int64_t now() const { return resources_.exec->now(); }  // ns, of the clock of traces and stats
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

  int64_t process_;  // threads do not survive a fork
  Resources resources_;
  Graphs graphs_;
  Pump pump_;
  // One per seat, if the engine was built for them. They learn from one sequence to the next.
  std::vector<std::unique_ptr<Tuner>> tuners_;
};

}  // namespace sbrt
