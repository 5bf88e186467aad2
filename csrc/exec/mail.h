// Copies from one memory of a backend to another, as one command of a stream: the only way in which
// the ops of one memory see what those of the other wrote.
#pragma once

#include <cstddef>
#include <cstring>
#include <vector>

#include "exec/effects.h"

namespace sbrt {

struct Mail {
  struct Copy {
    const void* from;
    void* to;
    size_t bytes;
    int seat = -1;  // copied if it takes part; -1: always

    bool is_of(SeatSet seats) const { return seat < 0 || (seats >> seat & 1); }
  };
  const char* name;
  int from, to;  // memories
  Parts parts;   // read in `from`, written in `to`
  std::vector<Copy> copies = {};
};

// Makes the copies where the host can access both memories.
inline void deliver(const Mail& mail, SeatSet seats) {
  for (const Mail::Copy& copy : mail.copies)
    if (copy.is_of(seats)) std::memcpy(copy.to, copy.from, copy.bytes);
}

}  // namespace sbrt
