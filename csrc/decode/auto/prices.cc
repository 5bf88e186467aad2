// The policy and the prices that the tuner sets for the next rounds.
#include <algorithm>
#include <cmath>

#include "decode/auto/tuner.h"

namespace sbrt {

// Sets the policy and the prices of the next rounds. Sequences share a burst, which takes as many
// steps as the sequence that drafts deepest. So in company no sequence drafts deeper than pays
// on average.
void Tuner::enter(Sequence& c) {
  const Arm& arm = arms_[running_];
  c.policy = arm.policy;
  if (alike_ > 1 && arm.kind == ArmKind::serial) c.policy.burst = best_depth(arm.policy);
  price(c);
}

// Sets Sequence::prices, by which a draft decides how far to grow a tree. `round` is the time of a
// round by its number of rows. `least` is the smallest log-probability at which a node is worth its
// time. A node takes the time of one row in a draft step and in the verification. The node is worth
// this time if it adds more tokens than the expected rate gives in the same time.
void Tuner::price(Sequence& c) {
  const Arm& arm = arms_[running_];
  priced_ = arm.rate;
  c.prices.known = arm.kind >= ArmKind::serial;
  if (!c.prices.known) return;
  const bool overlaps = arm.kind == ArmKind::overlapped;
  const CostTable& target = costs_.of(overlaps).target;
  double overhead = static_cast<double>(costs_.overhead(!overlaps, overlaps)), floor = 0;
  if (overlaps) {
    const int step = std::clamp(arm.policy.branches * arm.policy.width, 1, kCostRows);
    floor = (arm.policy.gamma + 1.0) * draft_ns(costs_.overlapped, step);
  } else {
    overhead += burst_ns(arm.policy, best_depth(arm.policy));
  }
  c.prices.round[0] = 0;
  for (int rows = 1; rows <= kMaxRows; ++rows)
    c.prices.round[rows] = static_cast<float>(
        std::max(static_cast<double>(target[shared(rows, kMaxRows)]), floor) + overhead);
  const double step = draft_ns(costs_.alone, std::max(1, arm.policy.burst_width));
  const int most = shared(8, kMaxRows), least_rows = shared(1, kMaxRows);
  const double row = static_cast<double>(target[most] - target[least_rows]) / 7;
  const double least = std::clamp(arm.rate * pace_.now() * (step + row), 1e-4, 0.95);
  c.prices.least = static_cast<float>(std::log(least));
}

}  // namespace sbrt
