// `auto`: which policy the next rounds run, by expected tokens per time.
//
// A policy's tokens per round are foretold from the recent past: what a path of the draft's first
// choices, or a look-up, would have got right of the tokens that came (replay.h). Its time comes from
// the measured cost of forwards and the pace that the machine keeps now (pace.h). Of policies that
// draft both forecasts are corrected by what their rounds brought, and one that might be the best is
// tried for a few rounds, paid from an allowance: a fixed share of all decoding time. Nothing here
// touches a token; host code. It thinks while a round is in flight, and changes policies between two.
#pragma once

#include <cstdint>
#include <vector>

#include "decode/costs.h"
#include "decode/auto/pace.h"
#include "decode/auto/backtest.h"
#include "state/sequence.h"

namespace sbrt {

// What a policy makes of a round.
enum class ArmKind { plain, lookup, serial, overlapped };

ArmKind kind_of(const Policy& policy);

// What a round brought.
struct Brought {
  int64_t tokens = 0;
  int64_t ns = 0;       // 0: not known
  int rows = 1;         // of its verification, of all sequences
  bool steady = false;  // it was enqueued before the one before it had ended
  bool hit = false;     // its outcome had been prepared
};

// Tokens and time of a round, expected or summed.
struct Yield {
  double tokens = 0, ns = 0;
  double rate() const { return ns > 0 ? tokens / ns : 0; }
};

// How often outcomes were prepared, over how often it was foreseen.
class Readiness {
 public:
  double fit() const { return (hits_ + kPrior * kWeight) / (foreseen_ + kWeight); }
  void saw(bool hit, double foreseen) {
    constexpr double kFading = 0.99;
    hits_ = hits_ * kFading + hit;
    foreseen_ = foreseen_ * kFading + foreseen;
  }

 private:
  static constexpr double kPrior = 0.8;  // before any was seen, which counts for
  static constexpr double kWeight = 12;  // so many rounds

  double hits_ = 0, foreseen_ = 0;
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
  // longest: tokens of the longest trunk.
  Tuner(const std::vector<Policy>& policies, const Costs& costs, int64_t longest);

  // A new sequence, its prompt in the trunk.
  void begin(const Sequence& c);
  // Whether any policy that could pay needs the draft.
  bool drafts() const { return drafts_; }

  // How many sequences share rounds from here on, this one among them: so many choose the same policy
  // as it does, and the others bring a row each.
  void share(int alike, int others);
  // Of such rounds: what policies promise now, as Arm::rate; then which of them comes next, for all.
  void look(const Sequence& c, int64_t head);
  void follow(Sequence& c, int arm);
  // Before a round, with none in flight: the policy, and what its nodes are worth.
  void next(Sequence& c);
  // Instead, with a round in flight and the root before it at `head`: whether the round after that
  // one may follow under the same policy; then that is that. Else next() is to be called, and until it
  // is the answer stays no.
  bool stays(const Sequence& c, int64_t head);
  // After a round, of the policy that next() set last.
  void saw(const Brought& round);
  // Whether the draft should read what it has missed up to `head`, to see how it would have done.
  bool wants_to_look(const Sequence& c, int64_t head) const;
  void looked(int64_t ns);

  const std::vector<Arm>& arms() const { return arms_; }
  // Whether it could ever pay. in_reach: the draft can follow for the next rounds.
  static bool may_run(const Arm& arm, bool in_reach) {
    return !arm.hopeless && (arm.kind < ArmKind::serial || in_reach);
  }

 private:
  double plain_ns() const { return alone_ns(1); }
  double alone_ns(int rows) const;
  int shared(int rows, int most) const;
  double draft_ns(const LaneCosts& costs, int rows) const;
  Yield forecast(const Arm& arm) const;
  double burst_ns(const Policy& policy, int depth) const;
  Yield serial_forecast(const Policy& policy, int depth) const;
  int best_depth(const Policy& policy) const;
  double foreseen(const Policy& policy) const;
  Yield overlapped_forecast(const Arm& arm) const;
  Yield joined(const Arm& arm, const Yield& drafted) const;
  const LookupReplay& played(const Arm& arm) const { return lookups_[&arm - arms_.data()]; }
  double expected_rate(const Arm& arm, double more_ns) const;
  double catch_up_ns(int64_t behind) const;
  bool is_hopeless(const Arm& arm) const;
  void learn();
  void look_around(const Sequence& c, int64_t head);
  int best_of(bool in_reach) const;
  int best_alone() const;
  int worth_trying(int best, bool in_reach) const;
  void price(Sequence& c);

  const Costs costs_;
  std::vector<Arm> arms_;
  Pace pace_;
  Readiness ready_;
  TrunkIndex index_;
  PathReplay path_;
  std::vector<LookupReplay> lookups_;  // one for each arm
  bool drafts_ = false;
  int alike_ = 1, others_ = 0;  // share()
  int running_ = 0;             // what next() set last
  int current_ = 0;             // what it is to set
  int stay_ = 0;                // rounds until the next look around
  double priced_ = 0;           // rate that the nodes' worth was reckoned from
  bool trying_ = false;         // the round that saw() hears of next is of a trial
  bool tries_ = false;          // so are those behind it
  bool leaves_ = false;         // stays() has said no
  bool has_news_ = true;        // of the draft's laws
  int law_ = 0;                 // 0: greedy, 1: sampled, which takes longer
  double allowance_ = 0;        // ns that trials may still lose
  int64_t look_after_ = 0;  // tokens that the draft may be behind before it looks again: longer the
                            // more often it was in vain
};

}  // namespace sbrt
