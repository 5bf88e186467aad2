// The host's half of the seats: who has them, and how far each sequence is.
#pragma once

#include <cstdint>
#include <vector>

#include "decode/auto/tuner.h"
#include "decode/feed.h"
#include "decode/resources.h"
#include "decode/sequence.h"
#include "round/round.h"
#include "state/parts.h"

namespace sbrt {

// What the host keeps of a seat.
struct HostSeat {
  HostSequence sequence;
  bool taken = false;       // by a request that nobody has released
  bool prefilling = false;  // its prompt is not enqueued yet, or not waited for
  bool is_timed = false;    // prefill_ns says how long that took
  bool drafts = false;      // the draft is fed too
  bool drafted = false;     // the draft takes part in its last round
  bool keeps = false;       // its rings hold the trunk that its Sequence has
  Fed fed[2];               // of the target's lane, of the draft's
  int64_t order = 0;        // of its admission
  int64_t first_round = 0;  // that may have it
  int64_t last_round = 0;   // enqueued with it
  int64_t begun = 0;        // when, Exec::now()
  Tuner* tuner = nullptr;   // if it chooses the policy
};

// The first positions of a trunk that the lanes have KV of.
struct Kept {
  int64_t target = 0, draft = 0;
};

constexpr SeatSet bit(int seat) { return SeatSet{1} << seat; }
constexpr bool is_one(SeatSet seats) { return seats && (seats & (seats - 1)) == 0; }

// Calls f(seat) for all of them, ascending.
template <class F>
void for_each(SeatSet seats, F f) {
  for (; seats; seats &= seats - 1) f(__builtin_ctzll(seats));
}

inline int burst_after_miss(const Policy& p) { return p.on_miss == kBurst ? p.burst : 0; }

// What choosing a policy reads and writes of a seat, next to what csrc/README.md says of the tuner.
inline constexpr Effects kTunes{parts(Part::outcome, Part::draft_have), parts(Part::settings)};

class SeatTable {
 public:
  explicit SeatTable(Resources& resources) : r_(resources), seats_(resources.count()) {}

  HostSeat& operator[](int seat) { return seats_[seat]; }
  const HostSeat& operator[](int seat) const { return seats_[seat]; }
  auto begin() { return seats_.begin(); }
  auto end() { return seats_.end(); }
  auto begin() const { return seats_.begin(); }
  auto end() const { return seats_.end(); }

  SeatSet live() const;                     // whose sequence goes on
  SeatSet decoding() const;                 // of those, whose prompt is in
  SeatSet tuned_of(SeatSet members) const;  // whose policy is chosen here
  // What a seat has that nothing in flight has any more: after its last sequence, or of the prompt of
  // the one that goes on.
  Kept kept(int i) const;
  Kept kept_prompt(int i) const;
  // The shape of a round of these: the longest bursts that any of them wants.
  RoundShape shape(SeatSet members) const;

 private:
  Resources& r_;
  std::vector<HostSeat> seats_;
};

}  // namespace sbrt
