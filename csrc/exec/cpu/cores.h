// The cores that the members of a team run on.
#pragma once

#include <vector>

namespace sbrt {

struct TeamCores {
  std::vector<int> pinned;  // one for each member; empty: the cores that the process may use
  int first = 0,
      step = 1;  // then member `rank` begins on core first + rank * step of these, modulo

  // Moves the calling thread, member `rank` of a team of `threads`, to its core. It is pinned there
  // if its core was named, or if the team covers all cores that the process may use. Otherwise the
  // system may move it on. Without the move, a member would wake on its waker's core and share it
  // for milliseconds while another core idles.
  void take(int rank, int threads) const;
};

// Throws InvalidInput unless this process may use all of them.
void check_cores(const std::vector<int>& cores);

}  // namespace sbrt
