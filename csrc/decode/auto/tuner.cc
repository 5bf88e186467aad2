#include "decode/auto/tuner.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/check.h"

namespace sbrt {
namespace {

constexpr double kShare = 0.01;  // share of decoding time that trials may take
// Allowance for trials at the start; the unit is the time of one round of plain decoding.
constexpr double kStart = 16;
constexpr double kMost = 400;   // largest allowance for trials, in the unit of kStart
constexpr double kHope = 0.3;   // an untried policy may exceed its forecast by this share
constexpr double kEnough = 12;  // a policy counts as tried after this number of rounds
// Another policy replaces the running one only if it is better by more than this factor.
constexpr double kMargin = 1.02;
// Each new round multiplies the weights of the earlier rounds in Arm::recent by this factor.
constexpr double kFading = 0.95;
// A forecast has the weight of this number of measured rounds.
constexpr double kForecastWeight = 12;
constexpr int kTrial = 6;       // number of rounds of a trial
constexpr int kStay = 4;        // number of rounds between two comparisons of policies
constexpr int kAloneStay = 12;  // kStay while the running policy does not draft
// After this number of rounds without a measurement of the target's pace, a trial measures it.
constexpr int64_t kStale = 512;
// If the expected rate changes by more than this share, `Sequence::prices` are set again.
constexpr double kRepriced = 0.1;
constexpr int64_t kFirstLook = 16, kLastLook = 4096;  // bounds of look_after_, in tokens

// Returns the largest number of tokens that a look-up under this policy can find, or 0 if it has no
// look-ups.
int looked_up(const Policy& p) {
  if (p.on_miss == kLookup) return p.burst;
  return p.lookup ? kMostFound / 2 : 0;
}

// Returns true if a lane is clearly slower while the other one works, because they share cores.
bool slow_each_other(const Costs& costs) {
  return 4 * costs.overlapped.target[1] > 5 * costs.alone.target[1];
}

// Returns true if another policy is hardly ever slower for one sequence where lanes share cores.
// There, serial rounds with look-ups are faster than overlapped ones with look-ups. They are also
// faster than the same rounds without look-ups, except under the rule `rejection`, where look-ups
// have no prices. For four and more sequences on one GPU, overlapped rounds with look-ups should be
// faster (docs/gpu-costs.md), but the forecasts do not find them there.
bool is_beaten(const Policy& policy, const std::vector<Policy>& policies) {
  if (kind_of(policy) == ArmKind::overlapped) return policy.lookup && !policy.rejection;
  if (kind_of(policy) != ArmKind::serial || policy.lookup || policy.rejection) return false;
  return std::any_of(policies.begin(), policies.end(), [&policy](const Policy& p) {
    return p.lookup && kind_of(p) == ArmKind::serial && p.burst == policy.burst &&
           p.burst_width == policy.burst_width && p.nodes == policy.nodes;
  });
}

}  // namespace

ArmKind kind_of(const Policy& p) {
  if (p.gamma > 0) return ArmKind::overlapped;
  if (p.on_miss == kLookup) return ArmKind::lookup;
  return p.on_miss == kBurst && p.burst > 0 ? ArmKind::serial : ArmKind::plain;
}

Tuner::Tuner(const std::vector<Policy>& policies, const Costs& costs, int64_t longest)
    : costs_(costs), shares_cores_(slow_each_other(costs)), index_(longest) {
  check<InvalidInput>(!policies.empty() && kind_of(policies[0]) == ArmKind::plain,
                      "tuner: expected policies, plain decoding the first");
  for (const Policy& policy : policies) {
    Arm arm;
    arm.policy = policy;
    arm.kind = kind_of(policy);
    arm.hopeless = is_hopeless(arm) || (shares_cores_ && is_beaten(policy, policies));
    lookups_.emplace_back(looked_up(policy));
    drafts_ |= !arm.hopeless && arm.kind >= ArmKind::serial;
    arms_.push_back(arm);
  }
  allowance_ = kStart * plain_ns();
}

// Returns the number of rows of a forward over all sequences, but at most `most`. Each of the
// `alike_` sequences has `rows` rows, and each of the `others_` has one.
int Tuner::shared(int rows, int most) const { return std::min(alike_ * rows + others_, most); }

// Returns the predicted time in ns of a round without a draft. Each sequence with this policy has
// `rows` rows.
double Tuner::alone_ns(int rows) const {
  const int all = shared(rows, kMaxRows);
  return pace_.of(all) * static_cast<double>(costs_.alone.target[all] + costs_.round);
}

// Returns the time in ns of a draft step. Each sequence with this policy has `rows` rows in that
// step, and the others have none.
double Tuner::draft_ns(const LaneCosts& costs, int rows) const {
  return static_cast<double>(costs.draft[std::min(alike_ * rows, kCostRows)]);
}

void Tuner::begin(const Sequence& c) {
  if (shares_cores_) joined_.begin(c.head, path_);
  path_.begin(c.head);
  index_.clear();
  index_.read(c.trunk, c.head + 1);
  dist_ = c.sampling.temperature > 0;
  for (size_t i = 0; i < arms_.size(); ++i) {
    arms_[i].recent = {};
    arms_[i].weight = 0;
    arms_[i].rounds = 0;
    if (looked_up(arms_[i].policy) > 0) lookups_[i].begin(c.trunk, index_, c.head);
  }
  running_ = stay_ = 0;
  trying_ = tries_ = leaves_ = false;
  has_news_ = true;
  look_after_ = std::max(kFirstLook, look_after_ / 2);
}

// Returns the time in ns of a serial burst of `depth` steps. The first step has one or two rows:
// the last round's tokens that the draft has not processed. Each other step has a row for every
// node that it extends.
double Tuner::burst_ns(const Policy& p, int depth) const {
  return draft_ns(costs_.alone, 2) + (depth - 1.0) * draft_ns(costs_.alone, p.burst_width);
}

// Returns the forecast for a serial round that drafts a path of `depth` nodes, or a tree of about
// that depth.
Yield Tuner::serial_forecast(const Policy& p, int depth) const {
  const int rows = 1 + std::min(p.nodes, p.burst_width > 1 ? depth + depth / 2 : depth);
  const auto target = static_cast<double>(costs_.alone.target[shared(rows, kMaxRows)] +
                                          costs_.overhead(true, false));
  return {path_.tokens(depth), pace_.now() * (burst_ns(p, depth) + target)};
}

int Tuner::best_depth(const Policy& p) const {
  int best = 1;
  for (int depth = 2; depth <= std::min(p.burst, PathReplay::kDepth); ++depth)
    if (serial_forecast(p, depth).rate() > serial_forecast(p, best).rate()) best = depth;
  return best;
}

// Returns the predicted hit rate. It assumes that the branches are spread evenly over the nodes of
// the chain.
double Tuner::foreseen(const Policy& p) const {
  const int depth = std::min(p.gamma, PathReplay::kDepth);
  return path_.coverage(1 + std::max(1, p.branches / (depth + 1)));
}

// Returns the forecast for rounds in which the draft runs during the target's forward. For a tree,
// the draft's second most probable tokens count, too. After a miss the next chain is short or
// empty.
Yield Tuner::overlapped_forecast(const Arm& arm) const {
  const Policy& p = arm.policy;
  const int depth = std::min(p.gamma, PathReplay::kDepth);
  const double ready = std::min(1.0, ready_.fit() * foreseen(p));
  const double wider = p.width > 1 ? path_.coverage(2) / std::max(0.05, path_.coverage(1)) : 1;
  const int burst = p.on_miss == kBurst ? std::min(p.burst, PathReplay::kDepth) : 0;
  const int rows = 1 + std::min(p.nodes, depth * p.width);
  const int step = std::clamp(p.branches * p.width, 1, kCostRows);
  const double beside =
      std::max(static_cast<double>(costs_.overlapped.target[shared(rows, kMaxRows)]),
               (p.gamma + 1.0) * draft_ns(costs_.overlapped, step));
  const double before = burst * draft_ns(costs_.overlapped, p.burst_width);
  const double hit = 1 + (path_.tokens(depth) - 1) * wider;
  const double after = p.on_miss == kLookup ? played(arm).tokens() : path_.tokens(burst);
  const auto more = static_cast<double>(costs_.overhead(false, true));
  const auto turns = static_cast<double>(burst > 0 ? costs_.turns : 0);
  // All sequences share the serial burst, which runs only if all of them missed. If one sequence
  // hit, a sequence that missed verifies only its root.
  const double bursts = burst > 0 ? std::pow(1 - ready, alike_ - 1) : 1;
  const double missed = bursts * after + (1 - bursts);
  return {ready * hit + (1 - ready) * missed,
          pace_.now() * (beside + more + (1 - ready) * bursts * (before + turns))};
}

Yield Tuner::forecast(const Arm& arm) const {
  if (arm.kind == ArmKind::plain) return {1, plain_ns()};
  if (arm.kind == ArmKind::lookup) {
    const double share = played(arm).share();
    const double ns = share * alone_ns(1 + arm.policy.burst) + (1 - share) * alone_ns(1);
    return {played(arm).tokens(), ns};
  }
  const bool serial = arm.kind == ArmKind::serial;
  if (serial && arm.policy.lookup && shares_cores_) return best_joined(arm.policy);
  const Yield drafted =
      serial ? serial_forecast(arm.policy, best_depth(arm.policy)) : overlapped_forecast(arm);
  return arm.policy.lookup ? joined(arm, drafted) : drafted;
}

// Returns the forecast for rounds with look-ups, and with a serial burst of `depth` steps where
// the look-up is not likely enough.
Yield Tuner::joined_forecast(const Policy& p, int depth) const {
  const int most = std::max(1, (kMaxRows - others_) / alike_ - 1);
  const JoinedReplay::Played sum = joined_.play(depth, p.burst_width, path_.tokens(depth), most);
  const int rows = static_cast<int>(std::lround(sum.rows / std::max(1.0, sum.filled)));
  const int more = static_cast<int>(std::lround(sum.joined / std::max(1.0, sum.drafted)));
  const double burst = serial_forecast(p, depth).ns + alone_ns(1 + more) - alone_ns(1);
  // The draft processes tokens that were committed without it as further rows of its next burst.
  const double row = pace_.now() * (draft_ns(costs_.alone, 8) - draft_ns(costs_.alone, 1)) / 7;
  // After a burst the caches hold the draft. That slows down the next round, too, if it has none.
  const double rounds = sum.rounds(), turns = pace_.now() * static_cast<double>(costs_.turns);
  const double quick = alone_ns(rows) + turns * sum.drafted / rounds;
  // A round has a burst if one of the sequences that share it needs a burst.
  const double all_filled = std::pow(sum.filled / rounds, alike_ - 1);
  const double filled = all_filled * quick + (1 - all_filled) * std::max(burst, quick);
  return {sum.tokens / rounds,
          (sum.filled * filled + sum.drafted * burst + sum.missed * row) / rounds};
}

// Returns the best of the forecasts for several lengths of the burst.
Yield Tuner::best_joined(const Policy& p) const {
  Yield best;
  for (int depth = 1; depth <= std::min(p.burst, PathReplay::kDepth); depth += 1 + depth / 4) {
    const Yield found = joined_forecast(p, depth);
    if (found.rate() > best.rate()) best = found;
  }
  return best;
}

// Returns the forecast of drafted rounds whose chains also get look-ups. Where a look-up gives more
// tokens than the draft, the round is assumed to commit these. The other tokens take as many rounds as
// the draft needs for them. For serial rounds best_joined() is closer to the truth, but overlapped
// rounds have no such replay. So where these may pay, this formula compares both.
Yield Tuner::joined(const Arm& arm, const Yield& drafted) const {
  constexpr int kRows = 4;  // number of rows that look-ups add to a chain; a guess
  const LookupReplay& alone = played(arm);
  return {alone.tokens_with(drafted.tokens),
          drafted.ns + alone.share() * (alone_ns(1 + kRows) - alone_ns(1))};
}

// Returns true if the policy could not beat plain decoding even if every token were accepted.
bool Tuner::is_hopeless(const Arm& arm) const {
  if (arm.kind < ArmKind::serial) return false;
  const bool serial = arm.kind == ArmKind::serial;
  const LaneCosts& costs = costs_.of(!serial);
  const auto step = static_cast<double>(costs.draft[1]);
  const auto round = static_cast<double>(costs_.overhead(serial, !serial));
  for (int depth = 1; depth <= (serial ? arm.policy.burst : arm.policy.gamma); ++depth) {
    const double target = static_cast<double>(costs.target[std::min(depth + 1, kMaxRows)]);
    const double ns = serial ? target + depth * step : std::max(target, (depth + 1) * step);
    if ((ns + round) * kMargin < plain_ns() * (depth + 1)) return false;
  }
  return true;
}

// Returns the tokens per ns that a policy should reach. more_ns: time added to every round. For a
// policy that does not draft, the replay tells the tokens per round. So its measured rounds are not
// used.
double Tuner::expected_rate(const Arm& arm, double more_ns) const {
  const Yield ahead = forecast(arm);
  if (arm.kind < ArmKind::serial) return ahead.rate();
  const double ns = ahead.ns / arm.fit[dist_] + more_ns;
  return (kForecastWeight * ahead.tokens + arm.recent.tokens) /
         (kForecastWeight * ns + arm.recent.ns);
}

double Tuner::catch_up_ns(int64_t lag) const {
  const double pieces = std::ceil(static_cast<double>(lag) / kMaxRows);
  const auto rows = std::clamp<int64_t>(lag, 0, kMaxRows);
  return pieces * static_cast<double>(costs_.alone.draft[rows]);
}

// Uses the measured rounds of the policy that ran to correct its forecast.
void Tuner::learn() {
  constexpr double kWeight = 3, kSlow = 0.04, kQuick = 0.5, kLeast = 0.2, kLimit = 5;
  Arm& arm = arms_[running_];
  if (arm.weight < kWeight || arm.kind < ArmKind::serial) return;
  double& fit = arm.fit[dist_];
  const double miss = arm.recent.rate() / (forecast(arm).rate() * fit);
  const double rate = std::clamp(4 / (arm.known[dist_] + 2), kSlow, kQuick);
  fit = std::clamp(fit * std::pow(miss, rate), kLeast, kLimit);
}

// Returns the index of the policy with the best rate. Small differences should not change the
// policy. So the rate of the running policy is multiplied by kMargin. The rate of a policy that
// drafts is divided by kMargin.
int Tuner::best_of(bool in_reach) const {
  const auto claim = [this](int i) {
    const bool dear = arms_[i].kind >= ArmKind::serial;
    return arms_[i].rate * (i == current_ && !tries_ ? kMargin : 1) / (dear ? kMargin : 1);
  };
  int best = 0;
  for (int i = 1; i < static_cast<int>(arms_.size()); ++i)
    if (may_run(arms_[i], in_reach) && claim(i) > claim(best)) best = i;
  return best;
}

void Tuner::look(const Sequence& c, int64_t head) {
  const bool idle = arms_[running_].kind < ArmKind::serial;
  if (has_news_ || !idle) path_.read(c.rank, head);
  has_news_ = false;
  index_.read(c.trunk, head + 1);
  for (size_t i = 0; i < arms_.size(); ++i)
    if (looked_up(arms_[i].policy) > 0) lookups_[i].read(c.trunk, index_, head);
  if (shares_cores_) joined_.read(c, index_, head);
  learn();
  // If the draft was idle, it must first process the tokens that it lacks. The time for that is
  // spread over the next kRounds rounds.
  constexpr double kRounds = 12;
  const double missed = idle ? catch_up_ns(head - c.draft_have) / kRounds : 0;
  for (Arm& arm : arms_) arm.rate = expected_rate(arm, arm.kind < ArmKind::serial ? 0 : missed);
}

void Tuner::look_around(const Sequence& c, int64_t head) {
  look(c, head);
  const bool in_reach = head + kSlots < c.draft_limit;
  const int best = best_of(in_reach), trial = worth_trying(best, in_reach);
  tries_ = trial >= 0;
  current_ = tries_ ? trial : best;
  stay_ = tries_ ? kTrial : arms_[best].kind < ArmKind::serial ? kAloneStay : kStay;
}

int Tuner::best_alone() const {
  int best = 0;
  for (int i = 1; i < static_cast<int>(arms_.size()); ++i)
    if (arms_[i].kind == ArmKind::lookup && arms_[i].rate > arms_[best].rate) best = i;
  return best;
}

// Returns the index of a policy that might be the best but has too few measured rounds, or -1 if
// there is none. The fewer rounds a policy has, the more it may exceed its forecast.
int Tuner::worth_trying(int best, bool in_reach) const {
  const auto paid = [this](const Arm& arm) {
    return kTrial * forecast(arm).ns * 0.5 <= allowance_;
  };
  if (pace_.age() > kStale && paid(arms_[best_alone()])) return best_alone();
  int found = -1;
  for (int i = 0; i < static_cast<int>(arms_.size()); ++i) {
    const Arm& arm = arms_[i];
    if (i == best || arm.kind < ArmKind::serial || arm.known[dist_] >= kEnough) continue;
    if (!may_run(arm, in_reach) || !paid(arm)) continue;
    const double hope = 1 + kHope * (1 - arm.known[dist_] / kEnough);
    if (arm.rate * hope < arms_[best].rate) continue;
    if (found < 0 || arm.rate > arms_[found].rate) found = i;
  }
  return found;
}

// Sets the number of sequences that share rounds. If a number changes, the measured rounds no
// longer apply and are dropped.
void Tuner::share(int alike, int others) {
  if (alike == alike_ && others == others_) return;
  alike_ = alike;
  others_ = others;
  for (Arm& arm : arms_) {
    arm.recent = {};
    arm.weight = 0;
  }
  stay_ = 0;
}

void Tuner::follow(Sequence& c, int arm) {
  running_ = current_ = arm;
  stay_ = 0;
  trying_ = tries_ = leaves_ = false;
  enter(c);
}

void Tuner::next(Sequence& c) {
  if (stay_-- <= 0) look_around(c, c.head);
  leaves_ = false;
  running_ = current_;
  trying_ = tries_;
  if (arms_[running_].kind >= ArmKind::serial) look_after_ = kFirstLook;
  enter(c);
}

bool Tuner::stays(const Sequence& c, int64_t head) {
  if (leaves_ || wants_to_look(c, head)) return false;
  if (stay_-- > 0) return true;
  look_around(c, head);
  const Arm& arm = arms_[current_];
  const bool reprices =
      arm.kind >= ArmKind::serial && std::abs(arm.rate - priced_) > kRepriced * priced_;
  leaves_ = reprices || current_ != running_;
  return !leaves_;
}

void Tuner::saw(const Brought& round) {
  constexpr double kFade = 1.0 / 8192;
  Arm& arm = arms_[running_];
  const bool was_trial = std::exchange(trying_, tries_);
  ++arm.rounds;
  if (round.ns <= 0) return;
  const auto took = static_cast<double>(round.ns), got = static_cast<double>(round.tokens);
  if (arm.kind >= ArmKind::serial) {
    pace_.saw_another();
  } else if (round.steady) {
    pace_.saw(round.rows,
              took / static_cast<double>(costs_.alone.target[round.rows] + costs_.round));
  }
  if (arm.kind == ArmKind::overlapped) ready_.saw(round.hit, foreseen(arm.policy));
  arm.recent.tokens = arm.recent.tokens * kFading + got;
  arm.recent.ns = arm.recent.ns * kFading + took;
  arm.weight = arm.weight * kFading + 1;
  // With each token, older observations of all policies lose weight. The corrections of the
  // policies that did not run move back towards 1.
  for (Arm& other : arms_) {
    other.known[dist_] *= 1 - kFade * got;
    if (&other != &arm) other.fit[dist_] = std::pow(other.fit[dist_], 1 - kFade * got);
  }
  arm.known[dist_] = std::min(arm.known[dist_] + 1, 4 * kEnough);
  double best = 0;
  for (const Arm& other : arms_) best = std::max(best, other.rate);
  const double lost = was_trial && best > 0 ? took - got / best : 0;
  allowance_ = std::min(allowance_ + kShare * took - std::max(0.0, lost), kMost * plain_ns());
}

bool Tuner::wants_to_look(const Sequence& c, int64_t head) const {
  if (!drafts_ || arms_[running_].kind >= ArmKind::serial) return false;
  const int64_t lag = head - c.draft_have;
  if (lag < look_after_ || head + kSlots >= c.draft_limit) return false;
  return catch_up_ns(lag) < allowance_;
}

void Tuner::looked(int64_t ns) {
  allowance_ -= static_cast<double>(ns);
  look_after_ = std::min(2 * look_after_, kLastLook);
  stay_ = 0;
  has_news_ = true;
}

}  // namespace sbrt
