// A mail: copies that a stream makes as one command. They go from one place of a memory to another,
// or from one memory of a backend to its other memory. A backend may have two memories.
// An op that uses one of them sees what was written to the other only after a mail has copied it.
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
    int seat = -1;    // the copy is made only if this seat takes part; -1: it is always made
    size_t rows = 1;  // number of copies, `pitch` bytes apart; more than 1 only within a memory
    size_t pitch = 0;
    // If set, the copy has `bytes` bytes for each of *times items. It may change only while no
    // stream has the mail.
    const int32_t* times = nullptr;

    size_t size() const { return times ? bytes * static_cast<size_t>(*times) : bytes; }
    bool is_of(SeatSet seats) const { return seat < 0 || (seats >> seat & 1); }
  };
  const char* name;
  int from, to;  // numbers of the memories
  Parts parts;   // the parts that the mail reads in memory `from` and writes in memory `to`
  std::vector<Copy> copies = {};
};

// Makes the copies on the host, which can access both memories.
inline void deliver(const Mail& mail, SeatSet seats) {
  for (const Mail::Copy& copy : mail.copies)
    for (size_t row = 0; copy.is_of(seats) && row < copy.rows; ++row)
      std::memcpy(static_cast<std::byte*>(copy.to) + row * copy.pitch,
                  static_cast<const std::byte*>(copy.from) + row * copy.pitch, copy.size());
}

}  // namespace sbrt
