// `auto` for sequences that share rounds. All have the same policy: the one with the largest sum of
// predicted rates. A serial burst makes all sequences wait, so all have their bursts in the same
// rounds.
#pragma once

#include <cstdint>

#include "decode/prompts.h"
#include "decode/seat_table.h"

namespace sbrt {

class Together {
 public:
  Together(Resources& resources, SeatTable& seats, Prompts& prompts, Patience& patience)
      : r_(resources), seats_(seats), prompts_(prompts), patience_(patience) {}

  // True if next() has set the policy that is in use.
  bool is_in_force() const { return tuned_ != 0; }
  void end() { tuned_ = 0; }
  // Returns true if the policy that next() set last uses the draft.
  bool drafts() const { return kind_of(r_.config.tuned[arm_]) >= ArmKind::serial; }
  // Sets the policy of the seats in `tuned`. Called between rounds, with nothing enqueued. others:
  // number of other sequences in the same rounds. Returns false if the time limit comes first.
  bool next(SeatSet tuned, int others, int64_t until);
  // Returns true if, while a round is in flight, another round may be enqueued with the same
  // policy.
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
  int arm_ = 0;   // index of the current policy
  int stay_ = 0;  // number of rounds until policies are compared again
};

}  // namespace sbrt
