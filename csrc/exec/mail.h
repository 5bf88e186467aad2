// Copies on a device, as one command of a stream. Between two memories of a backend they are the only
// way in which the ops of one see what those of the other wrote.
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
    int seat = -1;    // copied if it takes part; -1: always
    size_t rows = 1;  // the same copy again, `pitch` bytes further on; only within a memory
    size_t pitch = 0;

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
    for (size_t row = 0; copy.is_of(seats) && row < copy.rows; ++row)
      std::memcpy(static_cast<std::byte*>(copy.to) + row * copy.pitch,
                  static_cast<const std::byte*>(copy.from) + row * copy.pitch, copy.bytes);
}

}  // namespace sbrt
