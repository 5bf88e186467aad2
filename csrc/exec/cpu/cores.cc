#include "exec/cpu/cores.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include "core/check.h"

namespace sbrt {

#if defined(__linux__)

namespace {

bool pin(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  return sched_setaffinity(0, sizeof one, &one) == 0;
}

bool may_use(const cpu_set_t& allowed, int cpu) {
  return cpu >= 0 && cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed);
}

}  // namespace

void TeamCores::take(int rank, int threads) const {
  if (!pinned.empty()) {
    pin(pinned[rank]);
    return;
  }
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  const int count = CPU_COUNT(&allowed), core = first + rank * step;
  int wanted = ((core % count) + count) % count, cpu = 0;
  for (;; ++cpu)
    if (CPU_ISSET(cpu, &allowed) && wanted-- == 0) break;
  if (pin(cpu) && threads < count) sched_setaffinity(0, sizeof allowed, &allowed);
}

void check_cores(const std::vector<int>& cores) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  for (const int core : cores)
    check<InvalidInput>(may_use(allowed, core),
                        "cores: expected those that this process may use, got ", core);
}

#else

void TeamCores::take(int, int) const {}

void check_cores(const std::vector<int>& cores) {
  check<InvalidInput>(cores.empty(), "cores: expected none on a system other than Linux, got ",
                      cores.size());
}

#endif

}  // namespace sbrt
