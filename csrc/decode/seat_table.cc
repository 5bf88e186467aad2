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

RoundShape SeatTable::shape(SeatSet members) const {
  RoundShape shape{};
  for_each(members, [&](int i) {
    const Policy& p = r_.at(i).policy;
    shape.gamma = std::max(shape.gamma, p.gamma);
    if (seats_[i].sequence.missed()) shape.burst = std::max(shape.burst, burst_after_miss(p));
  });
  const bool overlaps = shape.gamma > 0;
  shape.target_width = overlaps ? r_.config.target_share() : r_.target.width;
  shape.draft_width = overlaps ? r_.config.draft_threads : r_.draft.width;
  shape.burst_width = r_.draft.width;
  return shape;
}

}  // namespace sbrt
