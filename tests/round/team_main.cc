// Compares the ops of a round run by one thread with the same ops run by a team. Between two
// barriers the team's members run in random order.
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "op_script.h"
#include "team_crew.h"

namespace sbrt {
namespace {

// Runs `rounds` rounds of one sequence, and each op twice: by one thread and by the team. Returns
// the number of ops, or -1 if the states differ after an op.
int64_t compare(uint64_t seed, int64_t rounds) {
  const auto alone = std::make_unique<OpState>(), team = std::make_unique<OpState>();
  Crew crew(seed);
  crew.make_stacks();
  OpScript script(seed, *alone);
  OpScratch scratch, shared;
  bool same = true;
  int64_t ops = 0;
  const auto run = [&](RoundOp op) {
    *team = *alone;
    team->aim(team.get());
    run_op(op, *alone, scratch, Alone{});
    crew.run([&](Crew::Member member) { run_op(op, *team, shared, member); });
    team->aim(alone.get());
    same = same && is_same(*alone, *team);
    if (!same) std::printf("FAILED: seed %ld, op %d\n", long(seed), int(op));
    ++ops;
  };
  script.prefill(run);
  for (int64_t r = 0; r < rounds && same && script.round(run); ++r) {
  }
  return same ? ops : -1;
}

}  // namespace
}  // namespace sbrt

int main(int argc, char** argv) {
  const int64_t sequences = argc > 1 ? std::atoll(argv[1]) : 100;
  int64_t ops = 0;
  for (int64_t seed = 0; seed < sequences; ++seed) {
    const int64_t done = sbrt::compare(static_cast<uint64_t>(seed), 40);
    if (done < 0) return 1;
    ops += done;
  }
  std::printf("%ld ops\n", long(ops));
  return 0;
}
