#include "decode/together.h"

#include <algorithm>
#include <vector>

namespace sbrt {

// Lets the tuner of each sequence predict the rate of every policy.
void Together::look(SeatSet tuned, int others) {
  const int alike = __builtin_popcountll(tuned);
  for_each(tuned, [&](int i) {
    seats_[i].tuner->share(alike, others);
    seats_[i].tuner->look(r_.at(i), seats_[i].sequence.head());
  });
}

// Returns the index of the policy with the largest sum of predicted rates over all sequences.
int Together::best_of(SeatSet tuned) const {
  // A change of policy costs something only if one of the two policies drafts.
  const auto is_dear = [&tuned = r_.config.tuned](int arm, int other) {
    return std::max(kind_of(tuned[arm]), kind_of(tuned[other])) >= ArmKind::serial;
  };
  constexpr double kMargin = 1.03;  // a new policy must beat the current one by this factor
  std::vector<double> rate(r_.config.tuned.size());
  std::vector<bool> may(rate.size(), true);
  for_each(tuned, [&](int i) {
    const Tuner& tuner = *seats_[i].tuner;
    const Sequence& c = r_.at(i);
    const bool in_reach = seats_[i].drafts && seats_[i].sequence.head() + kSlots < c.draft_limit;
    for (size_t arm = 0; arm < rate.size(); ++arm) {
      rate[arm] += tuner.arms()[arm].rate;
      may[arm] = may[arm] && Tuner::may_run(tuner.arms()[arm], in_reach);
    }
  });
  int best = may[arm_] ? arm_ : 0;
  for (int arm = 0; arm < static_cast<int>(rate.size()); ++arm)
    if (may[arm] && rate[arm] > rate[best] * (best == arm_ && is_dear(arm, best) ? kMargin : 1))
      best = arm;
  return best;
}

bool Together::next(SeatSet tuned, int others, int64_t until) {
  constexpr int kStay = 16;  // number of rounds between two comparisons of policies
  if (!patience_.reach(r_.draft.feed.fed, r_.draft.feed.pieces, until))
    return false;  // prompt pieces of an earlier call are still running
  prompts_.tell_have(tuned);
  look(tuned, others);
  arm_ = best_of(tuned);
  tuned_ = tuned;
  others_ = others;
  stay_ = kStay;
  bool in_time = true;
  for_each(tuned, [&](int i) {
    r_.exec->note("tune", kTunes, bit(i));
    r_.change_policy(i, [&](Sequence& c) { seats_[i].tuner->follow(c, arm_); });
    in_time = in_time && prompts_.prepare_draft(i, until);
  });
  return in_time;
}

bool Together::stays(SeatSet tuned, int others) {
  if (tuned != tuned_ || others != others_) return false;
  if (stay_-- > 0) return true;
  look(tuned, others);
  return best_of(tuned) == arm_;
}

}  // namespace sbrt
