// Deliberate faults, compiled only into sanitizer builds. They prove that the sanitizer reports
// real faults.
#pragma once

#if defined(SBRT_CANARY)
#include <limits>
#include <string>
#include <vector>

#include "core/check.h"
#include "exec/exec.h"

namespace sbrt {

struct CanaryArgs {
  int* cell;
  int step;
};

inline void canary_add(const CanaryArgs& a, Worker) { *a.cell += a.step; }

// Runs the fault with this name. race: two streams write without a fence. overflow: an op writes
// one cell past an allocation. undefined: a sum overflows an int. leak: no pointer to an allocation
// is left. Like all ops, the faults run on worker threads of the cpu backend.
inline void plant_canary(const std::string& name) {
  constexpr int kCells = 1000, kTurns = 1000;
  const auto exec = make_cpu_exec();
  const auto one = exec->stream(1), two = exec->stream(1);
  Event first("first"), second("second");
  std::vector<int> cells(kCells, std::numeric_limits<int>::max() / 2);
  Graph adds("canary");
  if (name == "race") {
    adds.add(canary_add, CanaryArgs{cells.data(), 1});
    for (int i = 0; i < kTurns; ++i) two->launch(adds, 1);
  } else if (name == "overflow") {
    adds.add(canary_add, CanaryArgs{cells.data() + kCells, 1});
  } else if (name == "undefined") {
    adds.add(canary_add, CanaryArgs{cells.data(), std::numeric_limits<int>::max()});
  } else if (name == "leak") {
    adds.add(canary_add, CanaryArgs{new int[kCells](), 1});
  } else {
    throw InvalidInput(
        sentence("canary: expected race, overflow, undefined or leak but got ", name));
  }
  for (int i = 0; i < kTurns; ++i) one->launch(adds, 1);
  one->record(first, 1);
  two->record(second, 1);
  exec->wait(first, 1);
  exec->wait(second, 1);
}

}  // namespace sbrt
#endif
