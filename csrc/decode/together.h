// `auto` for sequences that share rounds: all have the same policy, that with the largest sum of
// predicted rates. A serial burst makes all sequences wait, so all have it in the same rounds.
#pragma once

#include <cstdint>

#include "decode/prompts.h"
#include "decode/seat_table.h"

namespace sbrt {

class Together {
 public:
  Together(Resources& resources, SeatTable& seats, Prompts& prompts, Patience& patience)
      : r_(resources), seats_(seats), prompts_(prompts), patience_(patience) {}

  bool is_in_force() const { return tuned_ != 0; }  // true if next() has set the current policy
  void end() { tuned_ = 0; }
  // True if the policy that next() set last drafts.
  bool drafts() const { return kind_of(r_.config.tuned[arm_]) >= ArmKind::serial; }
  // Sets the policy of the seats in `tuned`. Called between rounds, with nothing enqueued. others:
  // number of other sequences in the same rounds. Returns false if the time ends first.
  bool next(SeatSet tuned, int others, int64_t until);
  // True if, while a round is in flight, another may be enqueued with the same policy.
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
