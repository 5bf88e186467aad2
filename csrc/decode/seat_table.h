// The host's data of the seats: their requests, and the progress of each sequence.
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

// The host's data of one seat.
struct HostSeat {
  HostSequence sequence;
  bool taken = false;        // its request has not been released
  bool prefilling = false;   // its prompt is not enqueued, or has not ended
  bool is_timed = false;     // prefill_ns is set
  bool drafts = false;       // it may draft
  bool feeds_draft = false;  // its prompt is fed to the draft, too
  bool drafted = false;      // the draft takes part in its last round
  bool sat_out = false;      // Resources::sit_out was called since
  int trees = 0;             // rounds from the next one on that may settle the path of a tree
  bool keeps = false;        // its rings match the trunk of its Sequence
  Fed fed[2];                // for the target's lane, for the draft's
  int64_t order = 0;         // number of its admission
  int64_t first_round = 0;   // the first round that may include it
  int64_t last_round = 0;    // the last one that was enqueued with it
  int64_t begun = 0;         // time, Exec::now()
  Tuner* tuner = nullptr;    // chooses the policy; null: none
};

// The number of first positions of a trunk whose KV the lanes have.
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

// Choosing a policy reads and writes these parts of a seat. csrc/README.md names the other parts
// that the tuner reads.
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

  SeatSet live() const;                     // seats whose sequence goes on
  SeatSet decoding() const;                 // live seats whose prompt is fed
  SeatSet tuned_of(SeatSet members) const;  // seats whose policy is chosen here
  // The reusable part of a seat: after its last sequence, or the prompt of the one that goes on.
  Kept kept(int i) const;
  Kept kept_prompt(int i) const;
  // The shape of a round of these seats: the longest bursts that any of them wants.
  RoundShape shape(SeatSet members) const;

 private:
  Resources& r_;
  std::vector<HostSeat> seats_;
};

}  // namespace sbrt
