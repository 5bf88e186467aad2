// The cores that the members of a team run on.
#pragma once

#include <vector>

namespace sbrt {

struct TeamCores {
  std::vector<int> pinned;  // [member] the core of each member; empty: no cores are named
  int first = 0,
      step = 1;  // used if no cores are named; see take()

  // Moves the calling thread, member `rank` of a team of `threads`, to its core. This is
  // pinned[rank] or, if `pinned` is empty, number first + rank * step (modulo their number) of the
  // cores that the process may use. The thread is pinned to its core if the core was named, or if
  // the team covers all cores. Otherwise the system may move the thread later. Without this call, a
  // member would wake on its waker's core, and share that core for milliseconds while another core
  // idles.
  void take(int rank, int threads) const;
};

// Throws InvalidInput unless this process may use all of these cores.
void check_cores(const std::vector<int>& cores);

}  // namespace sbrt
