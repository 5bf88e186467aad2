// The host's data about the seats: the requests and the progress of their sequences.
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

// The host's data about one seat.
struct HostSeat {
  HostSequence sequence;
  bool taken = false;        // true: the seat has not been released
  bool prefilling = false;   // true: some pieces of the prompt are not enqueued yet
  bool is_timed = false;     // true: prefill_ns is set
  bool drafts = false;       // true: the sequence may use the draft
  bool feeds_draft = false;  // true: the prompt is fed to the draft, too
  bool drafted = false;      // true: the draft takes part in the seat's last round
  bool sat_out = false;      // true: Resources::sit_out was called after the draft last took part
  bool catches_up = false;   // true: the draft was fed trunk tokens, and the target was not told
  int trees = 0;             // number of next rounds that may move the KV of a tree's accepted path
  int32_t chain_nodes = 0;   // most nodes of the chain that the seat's last round plans
  bool keeps = false;        // true: the KV in the seat's rings matches the trunk of its Sequence
  Fed fed[2];                // prompt progress in the target's lane and in the draft's lane
  int64_t order = 0;         // number of the request in order of admission
  int64_t first_round = 0;   // number of the first round that may include the sequence
  int64_t last_round = 0;    // number of the last round that was enqueued with this seat
  int64_t begun = 0;         // time at which the sequence began, by Exec::now()
  Tuner* tuner = nullptr;    // selects the policy; null: the policy never changes
};

// The number of positions at the beginning of a trunk whose KV a lane has, for each lane.
struct Kept {
  int64_t target = 0, draft = 0;
};

constexpr SeatSet bit(int seat) { return SeatSet{1} << seat; }
constexpr bool is_one(SeatSet seats) { return seats && (seats & (seats - 1)) == 0; }

// Calls f(seat) for all seats of the set, in ascending order.
template <class F>
void for_each(SeatSet seats, F f) {
  for (; seats; seats &= seats - 1) f(__builtin_ctzll(seats));
}

inline int burst_after_miss(const Policy& p) { return p.on_miss == kBurst ? p.burst : 0; }

// The parts of a seat's state that the tuner reads and writes when it selects a policy.
// csrc/README.md names the other data that the tuner reads.
inline constexpr Effects kTunes{parts(Part::trunk, Part::outcome, Part::draft_have),
                                parts(Part::settings)};

class SeatTable {
 public:
  explicit SeatTable(Resources& resources) : r_(resources), seats_(resources.count()) {}

  HostSeat& operator[](int seat) { return seats_[seat]; }
  const HostSeat& operator[](int seat) const { return seats_[seat]; }
  auto begin() { return seats_.begin(); }
  auto end() { return seats_.end(); }
  auto begin() const { return seats_.begin(); }
  auto end() const { return seats_.end(); }

  SeatSet live() const;                     // seats whose sequences have not ended
  SeatSet decoding() const;                 // live seats whose prompt pieces are all enqueued
  SeatSet tuned_of(SeatSet members) const;  // those of `members` that have a tuner
  // Return the KV that can be reused: kept() for a seat whose sequence has ended, kept_prompt() for
  // the prompt of a running sequence.
  Kept kept(int i) const;
  Kept kept_prompt(int i) const;
  // Returns true if the draft takes part in the seat's next round. The policy and the last record
  // decide this.
  bool will_draft(int i) const;
  // Returns the shape of a round of these seats. Its burst is the longest that any of the seats
  // needs.
  RoundShape shape(SeatSet members) const;

 private:
  Resources& r_;
  std::vector<HostSeat> seats_;
};

}  // namespace sbrt
