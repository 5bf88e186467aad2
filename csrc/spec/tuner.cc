#include "spec/tuner.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace sbrt {
namespace {

constexpr double kShare = 0.01;         // of decoding time goes into trials
constexpr double kStart = 16;           // allowance at first, and
constexpr double kMost = 400;           // ever, in passes of plain decoding
constexpr double kHope = 1.3;           // how much better than expected an untried policy may be
constexpr double kEnough = 12;          // rounds after which it has been tried
constexpr double kMargin = 1.02;        // a change must promise more than this
constexpr double kFading = 0.95;        // of a round's weight in `recent`, a round later
constexpr double kForecastWeight = 12;  // rounds that a forecast counts for beside `recent`
constexpr int kTrial = 6;               // rounds of a trial
constexpr int kStay = 4;                // rounds between two looks around
constexpr int kPlainStay = 8;
constexpr int64_t kFirstLook = 16, kLastLook = 4096;  // tokens

}  // namespace

ArmKind kind_of(const Policy& p) {
  if (p.gamma > 0) return ArmKind::overlapped;
  if (p.on_miss == kLookup) return ArmKind::lookup;
  return p.on_miss == kBurst && p.burst > 0 ? ArmKind::serial : ArmKind::plain;
}

Tuner::Tuner(const std::vector<Policy>& policies, const Costs& costs) : costs_(costs) {
  check<InvalidInput>(!policies.empty() && kind_of(policies[0]) == ArmKind::plain,
                      "tuner: expected policies, plain decoding the first");
  for (const Policy& policy : policies) {
    Arm arm;
    arm.policy = policy;
    arm.kind = kind_of(policy);
    arm.hopeless = is_hopeless(arm);
    const bool looks_up = policy.on_miss == kLookup;
    lookups_.emplace_back(looks_up ? policy.burst : 0);
    drafts_ |= !arm.hopeless && arm.kind >= ArmKind::serial;
    arms_.push_back(arm);
  }
  allowance_ = kStart * plain_ns();
}

double Tuner::plain_ns() const {
  return static_cast<double>(costs_.alone.target[1] + costs_.round);
}

void Tuner::begin(const Control& c) {
  path_.begin(c);
  law_ = c.sampling.temperature > 0;
  for (size_t i = 0; i < arms_.size(); ++i) {
    arms_[i].recent = {};
    arms_[i].weight = 0;
    arms_[i].rounds = 0;
    if (arms_[i].policy.on_miss == kLookup) lookups_[i].begin(c);
  }
  stay_ = 0;
  trying_ = false;
  has_news_ = true;
  look_after_ = kFirstLook;
}

// The first step reads the last round's newest token or two, the others a row for each place that
// grows.
double Tuner::burst_ns(const Policy& p, int depth) const {
  return static_cast<double>(costs_.alone.draft[2]) +
         (depth - 1.0) * static_cast<double>(costs_.alone.draft[p.burst_width]);
}

// A serial round that drafts a path of `depth` nodes, or a tree about as deep.
Yield Tuner::serial_forecast(const Policy& p, int depth) const {
  const int rows = 1 + std::min(p.nodes, p.burst_width > 1 ? depth + depth / 2 : depth);
  return {path_.tokens(depth),
          burst_ns(p, depth) + static_cast<double>(costs_.alone.target[rows] + costs_.round)};
}

int Tuner::best_depth(const Policy& p) const {
  int best = 1;
  for (int depth = 2; depth <= std::min(p.burst, PathReplay::kDepth); ++depth)
    if (serial_forecast(p, depth).rate() > serial_forecast(p, best).rate()) best = depth;
  return best;
}

// A tree catches second choices too. A round after a miss has a short chain or none.
Yield Tuner::overlapped_forecast(const Arm& arm) const {
  const Policy& p = arm.policy;
  const int depth = std::min(p.gamma, PathReplay::kDepth);
  const int outcomes = std::max(1, p.branches / (depth + 1));
  const double ready = path_.coverage(1 + outcomes);
  const double wider = p.width > 1 ? path_.coverage(2) / std::max(0.05, path_.coverage(1)) : 1;
  const int burst = p.on_miss == kBurst ? std::min(p.burst, PathReplay::kDepth) : 0;
  const int rows = 1 + std::min(p.nodes, depth * p.width);
  const int step = std::clamp(p.branches * p.width, 1, kCostRows);
  const double beside =
      std::max(static_cast<double>(costs_.overlapped.target[rows]),
               (p.gamma + 1.0) * static_cast<double>(costs_.overlapped.draft[step]));
  const double before = burst * static_cast<double>(costs_.overlapped.draft[p.burst_width]);
  const double hit = 1 + (path_.tokens(depth) - 1) * wider;
  const double after = p.on_miss == kLookup ? played(arm).tokens() : path_.tokens(burst);
  return {ready * hit + (1 - ready) * after,
          beside + (1 - ready) * before + static_cast<double>(costs_.round)};
}

Yield Tuner::forecast(const Arm& arm) const {
  if (arm.kind == ArmKind::plain) return {1, plain_ns()};
  if (arm.kind == ArmKind::lookup) {
    const double rows = played(arm).rows();
    const int low = std::min(static_cast<int>(rows), kMaxRows - 1);
    const double at_low = static_cast<double>(costs_.alone.target[low]);
    const double at_high = static_cast<double>(costs_.alone.target[low + 1]);
    return {played(arm).tokens(),
            at_low + (at_high - at_low) * (rows - low) + static_cast<double>(costs_.round)};
  }
  if (arm.kind == ArmKind::overlapped) return overlapped_forecast(arm);
  return serial_forecast(arm.policy, best_depth(arm.policy));
}

// Even if everything stood.
bool Tuner::is_hopeless(const Arm& arm) const {
  if (arm.kind < ArmKind::serial) return false;
  const bool serial = arm.kind == ArmKind::serial;
  const LaneCosts& costs = costs_.of(!serial);
  const double step = static_cast<double>(costs.draft[1]),
               round = static_cast<double>(costs_.round);
  for (int depth = 1; depth <= (serial ? arm.policy.burst : arm.policy.gamma); ++depth) {
    const double target = static_cast<double>(costs.target[std::min(depth + 1, kMaxRows)]);
    const double ns = serial ? target + depth * step : std::max(target, (depth + 1) * step);
    if ((ns + round) * kMargin < plain_ns() * (depth + 1)) return false;
  }
  return true;
}

// more_ns: of every round, besides.
double Tuner::expected_rate(const Arm& arm, double more_ns) const {
  const Yield ahead = forecast(arm);
  const double ns = ahead.ns / arm.fit[law_] + more_ns;
  return (kForecastWeight * ahead.tokens + arm.recent.tokens) /
         (kForecastWeight * ns + arm.recent.ns);
}

double Tuner::catch_up_ns(int64_t behind) const {
  const double pieces = std::ceil(static_cast<double>(behind) / kMaxRows);
  const auto rows = std::clamp<int64_t>(behind, 0, kMaxRows);
  return pieces * static_cast<double>(costs_.alone.draft[rows]);
}

bool Tuner::may_run(const Arm& arm, const Control& c) const {
  if (arm.hopeless) return false;
  return arm.kind < ArmKind::serial || c.head + kSlots < c.draft_limit;
}

// The forecast of the policy in force is mended by what came.
void Tuner::learn() {
  constexpr double kWeight = 3, kSlow = 0.04, kQuick = 0.5, kLeast = 0.2, kLimit = 5;
  Arm& arm = arms_[current_];
  if (arm.weight < kWeight) return;
  double& fit = arm.fit[law_];
  const double miss = arm.recent.rate() / (forecast(arm).rate() * fit);
  const double rate = std::clamp(4 / (arm.known[law_] + 2), kSlow, kQuick);
  fit = std::clamp(fit * std::pow(miss, rate), kLeast, kLimit);
}

// Whoever is to be left must be beaten by a margin. Between plain decoding and a look-up there is
// none: where nothing repeats, a look-up finds nothing, and is plain decoding.
int Tuner::best_of(const Control& c) const {
  const auto claim = [this](int i) {
    const bool dear = arms_[i].kind >= ArmKind::serial;
    return arms_[i].rate * (i == current_ && !trying_ ? kMargin : 1) / (dear ? kMargin : 1);
  };
  int best = 0;
  for (int i = 1; i < static_cast<int>(arms_.size()); ++i)
    if (may_run(arms_[i], c) && claim(i) > claim(best)) best = i;
  return best;
}

void Tuner::look_around(const Control& c) {
  if (has_news_ || arms_[current_].kind >= ArmKind::serial) path_.read(c);
  has_news_ = false;
  for (size_t i = 0; i < arms_.size(); ++i)
    if (arms_[i].policy.on_miss == kLookup) lookups_[i].read(c);
  learn();
  // What the draft has missed it must read first: that is spread over the rounds of a stay or two.
  constexpr double kRounds = 12;
  const bool idle = arms_[current_].kind < ArmKind::serial;
  const double missed = idle ? catch_up_ns(c.head - c.draft_have) / kRounds : 0;
  for (Arm& arm : arms_) arm.rate = expected_rate(arm, arm.kind < ArmKind::serial ? 0 : missed);
  const int best = best_of(c), trial = worth_trying(c, best);
  trying_ = trial >= 0;
  current_ = trying_ ? trial : best;
  stay_ = trying_ ? kTrial : arms_[best].kind == ArmKind::plain ? kPlainStay : kStay;
}

// A policy of which too little is known to say that it is not the best, or -1.
int Tuner::worth_trying(const Control& c, int best) const {
  int found = -1;
  for (int i = 0; i < static_cast<int>(arms_.size()); ++i) {
    const Arm& arm = arms_[i];
    if (i == best || i == 0 || arm.known[law_] >= kEnough) continue;
    if (!may_run(arm, c)) continue;
    if (arm.rate * kHope < arms_[best].rate) continue;
    if (kTrial * forecast(arm).ns * 0.5 > allowance_) continue;
    if (found < 0 || arm.rate > arms_[found].rate) found = i;
  }
  return found;
}

void Tuner::next(Control& c) {
  if (stay_-- <= 0) look_around(c);
  c.policy = arms_[current_].policy;
  price(c);
}

// What nodes cost the policy in force: a round's length by its rows, and what a draft step with
// another row must bring at the rate that is expected anyway.
void Tuner::price(Control& c) const {
  const Arm& arm = arms_[current_];
  c.prices.known = arm.kind >= ArmKind::serial;
  if (!c.prices.known) return;
  const bool overlaps = arm.kind == ArmKind::overlapped;
  const CostTable& target = costs_.of(overlaps).target;
  double besides = static_cast<double>(costs_.round), floor = 0;
  if (overlaps) {
    const int step = std::clamp(arm.policy.branches * arm.policy.width, 1, kCostRows);
    floor = (arm.policy.gamma + 1.0) * static_cast<double>(costs_.overlapped.draft[step]);
  } else {
    besides += burst_ns(arm.policy, best_depth(arm.policy));
  }
  c.prices.round[0] = 0;
  for (int rows = 1; rows <= kMaxRows; ++rows)
    c.prices.round[rows] =
        static_cast<float>(std::max(static_cast<double>(target[rows]), floor) + besides);
  const double step = static_cast<double>(costs_.alone.draft[std::max(1, arm.policy.burst_width)]);
  const double row = static_cast<double>(target[8] - target[1]) / 7;
  const double least = std::clamp(arm.rate * (step + row), 1e-4, 0.95);
  c.prices.least = static_cast<float>(std::log(least));
}

void Tuner::saw(int64_t tokens, int64_t ns) {
  constexpr double kFade = 1.0 / 2048;
  Arm& arm = arms_[current_];
  ++arm.rounds;
  if (ns <= 0) return;
  const auto took = static_cast<double>(ns), got = static_cast<double>(tokens);
  arm.recent.tokens = arm.recent.tokens * kFading + got;
  arm.recent.ns = arm.recent.ns * kFading + took;
  arm.weight = arm.weight * kFading + 1;
  // What was learned of the others grows old.
  for (Arm& other : arms_) {
    other.known[law_] *= 1 - kFade * got;
    if (&other != &arm) other.fit[law_] = std::pow(other.fit[law_], 1 - kFade * got);
  }
  arm.known[law_] = std::min(arm.known[law_] + 1, 4 * kEnough);
  double best = 0;
  for (const Arm& other : arms_) best = std::max(best, other.rate);
  const double lost = trying_ && best > 0 ? took - got / best : 0;
  allowance_ = std::min(allowance_ + kShare * took - std::max(0.0, lost), kMost * plain_ns());
}

bool Tuner::wants_to_look(const Control& c, int64_t behind) const {
  if (!drafts_ || arms_[current_].kind >= ArmKind::serial || behind < look_after_) return false;
  if (c.head + kSlots >= c.draft_limit) return false;
  return catch_up_ns(behind) < allowance_;
}

void Tuner::looked(int64_t ns) {
  allowance_ -= static_cast<double>(ns);
  look_after_ = std::min(2 * look_after_, kLastLook);
  stay_ = 0;
  has_news_ = true;
}

}  // namespace sbrt
