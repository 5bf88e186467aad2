#include "decode/seat_table.h"

#include <algorithm>

namespace sbrt {

SeatSet SeatTable::live() const {
  SeatSet found = 0;
  for (int i = 0; i < r_.count(); ++i)
    if (seats_[i].taken && seats_[i].sequence.live()) found |= bit(i);
  return found;
}

SeatSet SeatTable::decoding() const {
  SeatSet found = live();
  for_each(found, [&](int i) {
    if (seats_[i].prefilling) found &= ~bit(i);
  });
  return found;
}

SeatSet SeatTable::tuned_of(SeatSet members) const {
  SeatSet tuned = 0;
  for_each(members, [&](int i) { tuned |= seats_[i].tuner ? bit(i) : 0; });
  return tuned;
}

// Returns how much KV of an ended sequence can be reused. The KV of the last chain's nodes cannot:
// only the next round would move the accepted path to its positions. Nothing can be reused if a
// ring may have wrapped, because then its first positions are lost. On a device, KV that rounds
// computed is not reused either. It may differ in the last bits from the KV that a prompt's forward
// computes.
Kept SeatTable::kept(int i) const {
  const HostSeat& seat = seats_[i];
  const auto has_wrapped = [&seat](const LaneUnit& unit) {
    return unit.lane && seat.sequence.head() + kSlots > unit.lane->ring_shape().capacity;
  };
  const bool failed = seat.sequence.finish() == Finish::error;
  if (!seat.keeps || failed || has_wrapped(r_.target) || has_wrapped(r_.draft)) return {};
  if (!r_.config.can().rounds_match_prompts) return {seat.fed[0].tokens, seat.fed[1].tokens};
  const Sequence& c = r_.at(i);
  const bool ran = seat.last_round >= seat.first_round;
  return {ran ? c.head - c.outcome.n : c.target_have, std::min(c.draft_have, c.head)};
}

// Returns how much KV of a running sequence's prompt can be reused. This KV stays valid: new tokens
// overwrite it only if the ring wraps.
Kept SeatTable::kept_prompt(int i) const {
  const HostSeat& seat = seats_[i];
  const int64_t prompt = seat.sequence.prompt() - 1;
  const int64_t longest = seat.sequence.head() + seat.sequence.left();
  const auto is_safe = [longest](const LaneUnit& unit) {
    return unit.lane && longest + kSlots <= unit.lane->ring_shape().capacity;
  };
  if (!seat.keeps || !seat.is_timed || !is_safe(r_.target)) return {};
  return {prompt, is_safe(r_.draft) ? std::min(prompt, seat.fed[1].tokens) : 0};
}

bool SeatTable::will_draft(int i) const {
  const Policy& p = r_.at(i).policy;
  return p.gamma > 0 || (burst_after_miss(p) > 0 && seats_[i].sequence.missed());
}

// Returns the shape of a round of these members. A serial burst makes all members wait. A member
// that hit loses more by the wait than a member that missed gains. So a member that can continue
// without a burst gets one only if all members missed. Under `rejection` the tokens depend on which
// tokens are drafted. So there a member's burst must not depend on the other members.
RoundShape SeatTable::shape(SeatSet members) const {
  RoundShape shape{};
  bool all_missed = true;
  int32_t wanted = 0;  // the longest burst of the members that can continue without a burst
  for_each(members, [&](int i) {
    const Policy& p = r_.at(i).policy;
    shape.gamma = std::max(shape.gamma, p.gamma);
    shape.has_logprobs |= r_.logprobs[i].has_output();
    const bool missed = seats_[i].sequence.missed();
    all_missed = all_missed && missed;
    int32_t& burst = p.gamma > 0 && !is_rejection(r_.at(i)) ? wanted : shape.burst;
    if (missed) burst = std::max(burst, burst_after_miss(p));
  });
  if (all_missed) shape.burst = std::max(shape.burst, wanted);
  const bool overlaps = shape.gamma > 0;
  shape.target_width = overlaps ? r_.config.target_share() : r_.target.width;
  shape.draft_width = overlaps ? r_.config.draft_threads : r_.draft.width;
  shape.burst_width = r_.draft.width;
  return shape;
}

}  // namespace sbrt
