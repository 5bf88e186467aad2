// `auto`: which policy the next rounds run, by expected tokens per time.
//
// A policy's tokens per round are foretold from the recent past: what a path of the draft's first
// choices, or a look-up, would have got right of the tokens that came (replay.h). Its time comes from
// the measured cost of forwards. Both forecasts are corrected by what its rounds brought when it ran,
// and a policy that might be the best is tried for a few rounds, paid from an allowance: a fixed share
// of all decoding time. Nothing here touches a token; host code, between rounds.
#pragma once

#include <cstdint>
#include <vector>

#include "exec/control.h"
#include "spec/costs.h"
#include "spec/replay.h"

namespace sbrt {

// What a policy makes of a round.
enum class ArmKind { plain, lookup, serial, overlapped };

ArmKind kind_of(const Policy& policy);

// Tokens and time of a round, expected or summed.
struct Yield {
  double tokens = 0, ns = 0;
  double rate() const { return ns > 0 ? tokens / ns : 0; }
};

class Tuner {
 public:
  struct Arm {
    Policy policy;
    ArmKind kind = ArmKind::plain;
    bool hopeless = false;     // it would not pay even if every token stood
    double fit[2] = {1, 1};    // rate that came, over the forecast: greedy, sampled
    double known[2] = {0, 0};  // rounds that `fit` rests on; fades
    Yield recent;              // of this sequence, the newest rounds counting most
    double weight = 0;         // rounds in `recent`
    double rate = 0;           // tokens per ns, expected at the last look
    int64_t rounds = 0;        // of this sequence
  };

  // Policies: the first is plain decoding. costs: ns of forwards; both stay as they are.
  Tuner(const std::vector<Policy>& policies, const Costs& costs);

  // A new sequence, its prompt in the trunk.
  void begin(const Control& control);
  // Whether any policy that could pay needs the draft.
  bool drafts() const { return drafts_; }

  // Before a round: the policy, and what its nodes are worth.
  void next(Control& control);
  // Instead: whether the round after next may do without, as the policy stays; then that is that.
  bool stays() {
    if (stay_ <= 0) return false;
    --stay_;
    return true;
  }
  // After a round of `tokens` tokens that took `ns` (0: not known).
  void saw(int64_t tokens, int64_t ns);
  // Whether the draft should read what it has missed, to see how it would have done; `behind` tokens.
  bool wants_to_look(const Control& control, int64_t behind) const;
  void looked(int64_t ns);

  const std::vector<Arm>& arms() const { return arms_; }
  int current() const { return current_; }

 private:
  double plain_ns() const;
  Yield forecast(const Arm& arm) const;
  double burst_ns(const Policy& policy, int depth) const;
  Yield serial_forecast(const Policy& policy, int depth) const;
  int best_depth(const Policy& policy) const;
  Yield overlapped_forecast(const Arm& arm) const;
  const LookupReplay& played(const Arm& arm) const { return lookups_[&arm - arms_.data()]; }
  double expected_rate(const Arm& arm, double more_ns) const;
  double catch_up_ns(int64_t behind) const;
  bool is_hopeless(const Arm& arm) const;
  bool may_run(const Arm& arm, const Control& control) const;
  void learn();
  void look_around(const Control& control);
  int best_of(const Control& control) const;
  int worth_trying(const Control& control, int best) const;
  void price(Control& control) const;

  const Costs costs_;
  std::vector<Arm> arms_;
  PathReplay path_;
  std::vector<LookupReplay> lookups_;  // one for each arm
  bool drafts_ = false;
  int current_ = 0;
  int stay_ = 0;  // rounds until the next look around
  bool trying_ = false;
  bool has_news_ = true;    // of the draft's laws
  int law_ = 0;             // 0: greedy, 1: sampled, which takes longer
  double allowance_ = 0;    // ns that trials may still lose
  int64_t look_after_ = 0;  // tokens that the draft may be behind before it looks again
};

}  // namespace sbrt
