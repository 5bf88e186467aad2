// `auto`: selects the policy of the next rounds by expected tokens per time.
//
// To predict a policy's tokens per round, it replays the newest committed tokens. It counts how
// many of them the draft's most probable tokens, or a look-up, would have predicted (backtest.h, joined_replay.h).
// It predicts the time of a round from the measured times of forwards and the present speed of the
// machine (pace.h). For policies that draft, measured rounds correct both forecasts. A policy that
// might be the best is tried for a few rounds. Trials may take a fixed share of all decoding time.
// The selected policy changes no token. The code runs on the host while a round is in flight, and
// changes policies between rounds.
#pragma once

#include <cstdint>
#include <vector>

#include "decode/costs.h"
#include "decode/auto/pace.h"
#include "decode/auto/backtest.h"
#include "decode/auto/joined_replay.h"
#include "state/sequence.h"

namespace sbrt {

// How a policy gets the chain of a round: no chain, a look-up, a serial burst, or a burst that runs
// during the target's forward.
enum class ArmKind { plain, lookup, serial, overlapped };

ArmKind kind_of(const Policy& policy);

// Measured results of a round.
struct Brought {
  int64_t tokens = 0;
  int64_t ns = 0;       // duration of the round; 0: unknown
  int rows = 1;         // verified rows of the round, over all sequences
  bool steady = false;  // true: the round was enqueued before the previous round had ended
  bool hit = false;     // true: the round's outcome was among the branches
};

// A number of tokens and a time in ns. They are the expected values of one round, or the sums of
// several rounds.
struct Yield {
  double tokens = 0, ns = 0;
  double rate() const { return ns > 0 ? tokens / ns : 0; }
};

// Tracks the ratio of measured hits to predicted hits.
class Readiness {
 public:
  double fit() const { return (hits_ + kPrior * kWeight) / (foreseen_ + kWeight); }
  void saw(bool hit, double foreseen) {
    constexpr double kFading = 0.99;
    hits_ = hits_ * kFading + hit;
    foreseen_ = foreseen_ * kFading + foreseen;
  }

 private:
  static constexpr double kPrior = 0.8;  // assumed hits / predicted hits at the start
  static constexpr double kWeight = 12;  // weight of this assumption, as a number of rounds

  double hits_ = 0, foreseen_ = 0;
};

class Tuner {
 public:
  struct Arm {
    Policy policy;
    ArmKind kind = ArmKind::plain;
    // True: never chosen. Even if every token were accepted, it would be no faster than plain
    // decoding, or another policy is hardly ever slower.
    bool hopeless = false;
    double fit[2] = {1, 1};  // [0: greedy, 1: sampled] measured rate / predicted rate
    // The weight of the rounds from which `fit` was computed, as a number of rounds. Older rounds
    // count less.
    double known[2] = {0, 0};
    // Tokens and time in this sequence; the newest rounds have most weight.
    Yield recent;
    double weight = 0;   // weight of the rounds in `recent`, as a number of rounds
    double rate = 0;     // expected tokens per ns, at the last comparison
    int64_t rounds = 0;  // number of rounds of this sequence under this policy
  };

  // policies: the candidates, plain decoding first. costs: times of forwards in ns. longest: length
  // of the longest trunk, in tokens.
  Tuner(const std::vector<Policy>& policies, const Costs& costs, int64_t longest);

  // Begins a sequence whose prompt is in the trunk and whose policy is the first candidate.
  void begin(const Sequence& c);
  // Returns true if at least one policy that is not hopeless needs the draft.
  bool drafts() const { return drafts_; }

  // Sets the number of sequences that share rounds from now on. `alike` is the number of sequences
  // with the same policy, including this one. Each of the `others` has one row.
  void share(int alike, int others);
  // These two functions are for shared rounds. look() predicts each policy's rate and stores it in
  // Arm::rate. follow() sets the policy of the next rounds.
  void look(const Sequence& c, int64_t head);
  void follow(Sequence& c, int arm);
  // Sets the policy of the next rounds, and the prices by which the draft grows trees
  // (Sequence::prices). Called before a round, with none in flight.
  void next(Sequence& c);
  // Called instead of next() while a round is in flight whose root is at `head`. Returns true if
  // another round may be enqueued with the same policy. After it has returned false, it returns
  // false until the caller has called next().
  bool stays(const Sequence& c, int64_t head);
  // Reports the result of a round under the policy that next() set last.
  void saw(const Brought& round);
  // Returns true if the draft should process the tokens up to `head` that it lacks. The ranks of
  // these tokens tell how well policies that draft would work. The caller then lets the draft
  // process them, and calls looked() with the time that this took, in ns.
  bool wants_to_look(const Sequence& c, int64_t head) const;
  void looked(int64_t ns);

  const std::vector<Arm>& arms() const { return arms_; }
  // Returns true if the policy may run. in_reach: the draft's context has room for the next rounds.
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
  Yield best_joined(const Policy& policy) const;
  int best_depth(const Policy& policy) const;
  double foreseen(const Policy& policy) const;
  Yield overlapped_forecast(const Arm& arm) const;
  Yield joined_forecast(const Policy& policy, int depth) const;
  Yield joined(const Arm& arm, const Yield& drafted) const;
  const LookupReplay& played(const Arm& arm) const { return lookups_[&arm - arms_.data()]; }
  double expected_rate(const Arm& arm, double more_ns) const;
  double catch_up_ns(int64_t lag) const;
  bool is_hopeless(const Arm& arm) const;
  void learn();
  void look_around(const Sequence& c, int64_t head);
  int best_of(bool in_reach) const;
  int best_alone() const;
  int worth_trying(int best, bool in_reach) const;
  void enter(Sequence& c);
  void price(Sequence& c);

  const Costs costs_;
  const bool shares_cores_;  // true: a lane is slower while the other one works
  std::vector<Arm> arms_;
  Pace pace_;
  Readiness ready_;
  TrunkIndex index_;
  PathReplay path_;
  JoinedReplay joined_;                // read only if shares_cores_
  std::vector<LookupReplay> lookups_;  // one for each policy
  bool drafts_ = false;
  int alike_ = 1, others_ = 0;  // as given to share()
  int running_ = 0;             // index of the policy that the sequence has now
  int current_ = 0;             // index of the policy that the next call of next() will set
  int stay_ = 0;                // number of rounds until the next comparison
  double priced_ = 0;           // the expected rate for which Sequence::prices were set
  bool trying_ = false;         // true: the next round reported to saw() belongs to a trial
  bool tries_ = false;          // true: the rounds after the next one belong to a trial
  bool leaves_ = false;         // true: stays() has returned false
  bool has_news_ = true;        // true: the draft has stored ranks that `path_` has not read
  // Index into `fit` and `known`; 0: greedy, 1: sampled, which takes longer.
  int dist_ = 0;
  double allowance_ = 0;  // time in ns that trials may still cost
  // While no policy drafts, the draft lacks tokens. Once it lacks this number of tokens, it
  // processes them. Their ranks then show how good the draft is. The number doubles each time. When
  // a policy that drafts runs, the number is reset.
  int64_t look_after_ = 0;
};

}  // namespace sbrt
