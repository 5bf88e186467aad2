// `auto` for sequences that share rounds: one policy for all of them, by their summed expectations.
// A burst before the target's forward makes all sequences wait, so they have it in the same rounds.
#pragma once

#include <cstdint>

#include "decode/prompts.h"
#include "decode/seat_table.h"

namespace sbrt {

class Together {
 public:
  Together(Resources& resources, SeatTable& seats, Prompts& prompts, Patience& patience)
      : r_(resources), seats_(seats), prompts_(prompts), patience_(patience) {}

  bool is_in_force() const { return tuned_ != 0; }  // next() has set the current policy
  void end() { tuned_ = 0; }
  // True if the policy that it set last drafts.
  bool drafts() const { return kind_of(r_.config.tuned[arm_]) >= ArmKind::serial; }
  // Between rounds, with nothing enqueued: sets the policy of these seats. Rounds are shared by
  // `others`, too. False if the time ends first.
  bool next(SeatSet tuned, int others, int64_t until);
  // True if the next round may be enqueued under the same policy, with one in flight.
  bool stays(SeatSet tuned, int others);

 private:
  void look(SeatSet tuned, int others);
  int best_of(SeatSet tuned) const;

  Resources& r_;
  SeatTable& seats_;
  Prompts& prompts_;
  Patience& patience_;
  SeatSet tuned_ = 0;
  int others_ = 0;
  int arm_ = 0;   // current policy
  int stay_ = 0;  // rounds until the next comparison
};

}  // namespace sbrt
