// Compares the ops of rejection run by one thread with the same ops run by a team. The ops are the
// walk, and the move of scores to the chain.
#include <cstdio>
#include <cstdlib>

#include "chance_script.h"
#include "round/seat_ops.h"
#include "team_crew.h"

namespace sbrt {
namespace {

template <class Team>
void walk(ChanceState& s, AcceptScratch& scratch, Team team) {
  WalkByChance::run(walk_at(&s), At{}, scratch, team);
}

template <class Team>
void move(ChanceState& s, int block, Team team) {
  NoMemory none;
  MoveScores::run(scores_at(&s), At{0, block}, none, team);
}

bool compare(uint64_t seed, int64_t& accepted, int64_t& empty) {
  const auto alone = std::make_unique<ChanceState>(), team = std::make_unique<ChanceState>();
  const ChanceScript script(seed, *alone);
  Crew crew(seed);
  crew.make_stacks();
  const auto own = std::make_unique<AcceptScratch>(), shared = std::make_unique<AcceptScratch>();
  *team = *alone;
  team->aim(team.get());
  for (int block = 0; block < kScoreBlocks; ++block) {
    move(*alone, block, Alone{});
    crew.run([&](Crew::Member member) { move(*team, block, member); });
  }
  walk(*alone, *own, Alone{});
  crew.run([&](Crew::Member member) { walk(*team, *shared, member); });
  accepted += alone->sequence.outcome.n;
  empty += alone->sequence.no_mass;
  team->aim(alone.get());
  if (!is_same(*alone, *team)) std::printf("FAILED: seed %ld\n", static_cast<long>(seed));
  return is_same(*alone, *team);
}

}  // namespace
}  // namespace sbrt

int main(int argc, char** argv) {
  const int64_t walks = argc > 1 ? std::atoll(argv[1]) : 100;
  int64_t accepted = 0, empty = 0;
  for (int64_t seed = 0; seed < walks; ++seed)
    if (!sbrt::compare(static_cast<uint64_t>(seed), accepted, empty)) return 1;
  std::printf("%ld %ld\n", static_cast<long>(accepted), static_cast<long>(empty));
  return 0;
}
